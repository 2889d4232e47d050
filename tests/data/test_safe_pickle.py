import io
import os
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch

from data.safe_pickle import UnsafePickle, load_pickle
from tests.paths import ROOT
from utils.errors import DataError

MASK = torch.arange(6, dtype=torch.int16).reshape(2, 3)


def dump(path, obj, protocol=pickle.HIGHEST_PROTOCOL):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(obj, protocol=protocol))
    return path


def torch_bytes(obj, zipped):
    stream = io.BytesIO()
    torch.save(obj, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


class Reduced:
    """Pickles as a call, and what BUILD gives to what it returns."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


class Changed:
    """Pickles as a global that BUILD gives a state."""

    def __init__(self, named, state):
        self.named, self.state = named, state

    def pickled(self):
        head = b"\x80\x02c" + f"{self.named.__module__}\n{self.named.__name__}\n".encode()
        return head + pickle.dumps(self.state, protocol=2)[2:-1] + b"b."


def evil(path):
    return Reduced(os.system, f"touch {path}")


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_asks_for_a_program_is_refused_and_nothing_runs(tmp_path, protocol):
    for obj in (evil(tmp_path / "ran"), [MASK.numpy().tolist(), evil(tmp_path / "ran")]):
        with pytest.raises(UnsafePickle, match=r"a\.pkl: refused, since it asks for (posix|nt)\.system"):
            load_pickle(dump(tmp_path / "a.pkl", obj, protocol))
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_program_inside_a_tensors_bytes_is_refused_and_nothing_runs(tmp_path):
    bad = evil(tmp_path / "ran")
    for data in (pickle.dumps(bad), torch_bytes(bad, zipped=False), torch_bytes([MASK, bad], zipped=True)):
        tensor = Reduced(
            torch._utils._rebuild_tensor_v2, Reduced(torch.storage._load_from_bytes, data), 0, (1,), (1,), 0, {}
        )
        with pytest.raises(UnsafePickle, match="a.pkl: refused"):
            load_pickle(dump(tmp_path / "a.pkl", tensor))
    assert not (tmp_path / "ran").exists()
    # The bytes do run where PyTorch's own function reads them: the test would see it.
    torch.storage._load_from_bytes(torch_bytes(bad, zipped=False))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("named", [torch.load, eval, getattr, np.load, torch.nn.Linear], ids=str)
def test_only_what_masks_need_is_known(tmp_path, named):
    with pytest.raises(UnsafePickle, match=r"asks for \S+\.\w+, which"):
        load_pickle(dump(tmp_path / "a.pkl", Reduced(named, "1")))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    "offset, size, stride",
    [(3, (9, 9), (9, 1)), (0, (7,), (0,)), (0, (9, 9), (0, 0)), (-1, (2, 3), (3, 1)), (0, (-1, -2), (1, 1))]
    + [(5, (2, 3), (-3, -1)), (0, (2,), (2**62,)), (7, (0,), (1,)), (0, (2, 3), (1,)), (0, (1,) * 99, (1,) * 99)],
)
def test_a_tensor_beyond_its_values_is_refused(tmp_path, offset, size, stride):
    storage = Reduced(torch.storage._load_from_bytes, torch_bytes(MASK.storage(), zipped=False))
    beyond = Reduced(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())
    with pytest.raises(DataError, match=r"a\.pkl: no whole pickle"):
        load_pickle(dump(tmp_path / "a.pkl", beyond))


def test_a_storage_without_all_its_values_is_refused(tmp_path):
    data = pickle.dumps(MASK, protocol=4)
    at = data.rindex(struct.pack("<q6h", 6, *range(6)))
    for count in (5, 7, 2**40, -1):
        (tmp_path / "a.pkl").write_bytes(data[:at] + struct.pack("<q", count) + data[at + 8 :])
        with pytest.raises(DataError, match="no whole pickle"):
            load_pickle(tmp_path / "a.pkl")


POINTERS = Reduced(np.ndarray, (1,), np.dtype("O"), b"A" * 8)
RECORDS = Reduced(np.dtype, "i8", False, True, state=(3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 63))
CRASHES = {
    "array of addresses": pickle.dumps(Reduced(OrderedDict, POINTERS)),
    "scalar of an address": pickle.dumps(Reduced(np.int64(1).__reduce__()[0], np.dtype([("a", "O")]), POINTERS)),
    "integers with fields": pickle.dumps(Reduced(np.ndarray, (1,), RECORDS, b"A" * 8)),
    "objects of bytes": pickle.dumps(Reduced(np.empty(1).__reduce_ex__(5)[0], b"A" * 8, np.dtype("O"), (1,), "C")),
    "hash of nested tuples": b"\x80\x04})" + b"\x85" * 2**20 + b"Ns.",
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_pickle_cannot_crash_the_program(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(CRASHES[name])
    code = "import sys; from data.safe_pickle import load_pickle; print(repr(load_pickle(sys.argv[1])))"
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "a.pkl"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "UnsafePickle" in ended.stderr and "a.pkl: refused, since it asks for" in ended.stderr


def test_no_class_of_numpys_is_called(tmp_path):
    with pytest.raises(UnsafePickle, match="a call of numpy.ndarray"):
        load_pickle(dump(tmp_path / "a.pkl", Reduced(np.ndarray, (1,), np.dtype("i8"), b"A" * 8)))
    for kind in ("O", "c16", "S8", "M8[s]", "V8"):
        with pytest.raises(UnsafePickle, match="asks for values of type"):
            load_pickle(dump(tmp_path / "a.pkl", np.dtype(kind)))


@pytest.mark.parametrize(
    "named", [torch._utils._rebuild_tensor_v2, torch.storage._load_from_bytes, OrderedDict, np.ndarray, np.dtype]
)
@pytest.mark.parametrize("state", [{"__defaults__": (1,)}, (None, {"__defaults__": (1,)}), (None, {"_function": 1})])
def test_what_is_known_cannot_be_changed(tmp_path, named, state):
    (tmp_path / "a.pkl").write_bytes(Changed(named, state).pickled())
    with pytest.raises(UnsafePickle):
        load_pickle(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(Changed(named, (None, None)).pickled())
    with pytest.raises(UnsafePickle, match=r"a change of \w+, which"):
        load_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("place", [2, 2**24, 2**31])
@pytest.mark.parametrize("put", [lambda place: b"r" + struct.pack("<I", place), lambda place: b"p%d\n" % place])
def test_memory_out_of_proportion_is_refused_before_it_is_taken(tmp_path, put, place):
    (tmp_path / "a.pkl").write_bytes(b"N" + put(place) + b".")
    with pytest.raises(UnsafePickle, match=f"asks for place {place} of its memory"):
        load_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("head", [b"\x95", b"\x8e", b"\x8d", b"\x96"], ids=["frame", "bytes", "text", "bytearray"])
def test_a_length_beyond_the_file_takes_no_memory(tmp_path, head):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x05" + head + struct.pack("<Q", 2**36) + b"abc.")
    with pytest.raises(DataError, match="no whole pickle"):
        load_pickle(tmp_path / "a.pkl")


def test_a_frame_that_ends_inside_an_opcode_hides_none(tmp_path):
    # The unpickler drops what is left of such a frame, two letters, and would take the text for an opcode.
    text = b"r" + struct.pack("<I", 2**24) + b"0"
    data = b"\x80\x04\x95" + struct.pack("<Q", 5) + b"N\x8c\x05ab" + b"cde" + b"U\x06" + text + b"."
    (tmp_path / "a.pkl").write_bytes(data)
    assert load_pickle(tmp_path / "a.pkl") == text.decode()
