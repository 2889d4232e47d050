import pickle

import numpy as np
import pytest

from data.safe_pickle import UnsafePickle, unpickle
from utils.errors import DataError

# What a pickle may hold besides, and what comes back of it.
PLAIN = {"text": "ä", "numbers": [1, -(2**70), 0.5, True, None], "empty": {}, "list": [[], ["x"]]}
ARRAYS = {
    "float32": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(12, dtype=np.int64)[::2],
    "big_endian": np.arange(4, dtype=">f4"),
    "half": np.ones(3, np.float16),
    "bool": np.array([True, False]),
    "none": np.empty((0, 3), np.float32),
    "single": np.array(7),
    "scalar": np.float32(2.5),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_come_back_from_every_protocol(protocol):
    read = loads(pickle.dumps({"model": ARRAYS, **PLAIN}, protocol=protocol))
    arrays = read.pop("model")
    assert read == PLAIN
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].shape == np.shape(array) and np.array_equal(arrays[name], array), name
        assert arrays[name].dtype == np.asarray(array).dtype, name


def test_what_python_2_and_numpy_1_wrote_comes_back():
    # detectron2's model zoo: bytes as text, numpy.core for numpy._core.
    values = np.arange(3, dtype=np.float32)
    data = values.tobytes()
    written = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(data)]) + data + b"tbs."
    )
    assert np.array_equal(pickle.loads(written, encoding="latin1")["w"], values)
    assert np.array_equal(loads(written)["w"], values)


def test_objects_that_hold_each_other_end():
    twice = []
    for _ in range(64):
        twice = [twice, twice]
    loop = {}
    loop["itself"] = loop
    read = loads(pickle.dumps([twice, loop]))
    assert read[0][0] is read[0][1]
    assert read[1]["itself"] is read[1]


def loads(data: bytes) -> object:
    return unpickle(data, where="a.pkl")


class _Calls:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "value",
    [
        _Calls(print, "x"),
        _Calls(eval, "1"),
        _Calls(np.ndarray, (2,)),
        _Calls(np.dtype, "O"),
        np.array([None]),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "f4")]),
        {(1, 2): 3},
        {1: 2},
        {1, 2},
        frozenset(),
        np.float32,
        np.dtype("f4"),
        1j,
    ],
    ids=repr,
)
def test_what_arrays_do_not_need_is_refused(value):
    for protocol in (2, 4):
        with pytest.raises(UnsafePickle):
            loads(pickle.dumps({"model": value}, protocol=protocol))


def test_nothing_but_the_arrays_own_functions_can_be_called_or_changed():
    named = b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93"
    array = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n)R"
    # A state for the class itself; its attributes by name; an array that was never filled.
    for data in (named + b"K\x01\x85b.", b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93.", array + b"."):
        with pytest.raises(UnsafePickle):
            loads(data)
    # Calls of what a class makes, of a number, of a dictionary; new objects of them; states for them.
    for value in (array, b"K\x01", b"}"):
        for end in (b")R.", b")\x81.", b"N}X\x05\x00\x00\x00itemsNs\x86b.", b"}X\x05\x00\x00\x00itemsNsb."):
            with pytest.raises(DataError):
                loads(value + end)


def test_dictionaries_are_hashed_by_text_alone_whatever_makes_them():
    ordered = b"ccollections\nOrderedDict\n)R"
    for dictionary in (b"}", ordered):
        assert loads(dictionary + b"X\x01\x00\x00\x00aK\x02s.") == {"a": 2}
        for key in (b"K\x01", b"N", b")", b"C\x01a", b")\x85\x85"):
            for items in (key + b"K\x02s.", b"(" + key + b"K\x02u."):
                with pytest.raises(UnsafePickle, match="for a dictionary's key"):
                    loads(dictionary + items)
    for data in (b"(K\x01K\x02d.", b"\x8f(K\x01\x90.", b"(K\x01\x91."):
        with pytest.raises(UnsafePickle, match="a dictionary of anything or a set"):
            loads(data)


def test_what_is_nested_too_deep_ends_as_an_error():
    depth = 20_000
    key = b"X\x01\x00\x00\x00a"
    for data in (b"]" * depth + b"a" * (depth - 1), (b"}" + key) * depth + b"N" + b"s" * depth, b")" + b"\x85" * depth):
        with pytest.raises(DataError, match="RecursionError"):
            loads(data + b".")


def test_an_object_outside_of_the_pickle_is_refused():
    # As torch.save writes tensors; None is what stands for a dictionary here.
    for data in (b"X\x01\x00\x00\x000Q.", b"NQ.", b"Px\n."):
        with pytest.raises(UnsafePickle, match="outside of the pickle"):
            loads(data)


def test_what_tuples_hold_is_plain_too():
    [[array], number] = loads(pickle.dumps(((np.arange(2),), 3)))
    assert np.array_equal(array, [0, 1]) and number == 3
    with pytest.raises(UnsafePickle):
        loads(pickle.dumps((np.dtype("f4"), 3)))


def test_a_pickle_cut_short_or_changed_anywhere_is_refused_or_read_as_plain_values():
    whole = pickle.dumps({"a": np.arange(3, dtype=np.float32), "b": [1, "x"]}, protocol=4)
    for end in range(len(whole)):
        with pytest.raises(DataError):
            loads(whole[:end])
    plain = (dict, list, tuple, str, bytes, bytearray, int, float, np.ndarray, type(None))
    for place in range(len(whole)):
        for value in (0, 1, 46, 255, whole[place] ^ 1, whole[place] ^ 128):
            try:
                read = loads(whole[:place] + bytes([value]) + whole[place + 1 :])
            except DataError:
                continue
            assert isinstance(read, plain)
