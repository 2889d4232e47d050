import pickle

import numpy as np
import pytest

from evaluation.checkpoints.pickles import Refused, load_arrays

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
    read = load_arrays(pickle.dumps({"model": ARRAYS, **PLAIN}, protocol=protocol))
    arrays = read.pop("model")
    assert read == PLAIN
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].shape == np.shape(array) and np.array_equal(arrays[name], array), name
        assert arrays[name].dtype == np.asarray(array).dtype.newbyteorder("=") and arrays[name].flags.writeable, name


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
    assert np.array_equal(load_arrays(written)["w"], values)


def test_objects_that_hold_each_other_end():
    twice = []
    for _ in range(64):
        twice = [twice, twice]
    loop = {}
    loop["itself"] = loop
    read = load_arrays(pickle.dumps([twice, loop]))
    assert read[0][0] is read[0][1]
    assert read[1]["itself"] is read[1]


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
        with pytest.raises(Refused):
            load_arrays(pickle.dumps({"model": value}, protocol=protocol))


def test_nothing_but_the_arrays_own_functions_can_be_called_or_changed():
    named = b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93"
    # A state for the class itself; its attributes by name; a call of what it makes; an array that was never filled.
    array = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n)R"
    for data in (
        named + b"K\x01\x85b.",
        b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93.",
        array + b")R.",
        array + b".",
    ):
        with pytest.raises(Refused):
            load_arrays(data)


def test_a_pickle_cut_short_or_changed_anywhere_is_refused_or_read_as_plain_values():
    whole = pickle.dumps({"a": np.arange(3, dtype=np.float32), "b": [1, "x"]}, protocol=4)
    failures = (Refused, ValueError, LookupError, TypeError, ArithmeticError, RecursionError)
    for end in range(len(whole)):
        with pytest.raises(failures):
            load_arrays(whole[:end])
    plain = (dict, list, tuple, str, bytes, bytearray, int, float, np.ndarray, type(None))
    for place in range(len(whole)):
        for value in (0, 1, 46, 255, whole[place] ^ 1, whole[place] ^ 128):
            try:
                read = load_arrays(whole[:place] + bytes([value]) + whole[place + 1 :])
            except failures:
                continue
            assert isinstance(read, plain)
