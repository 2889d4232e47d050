import multiprocessing
import os
import pickle

import numpy as np
import pytest

from data.ragged import Ragged, as_matrix
from utils.errors import DataError

ROWS = [[[1, 2], [3, 4]], [], [[65535, 0]]]


def ragged(rows=ROWS):
    return Ragged.from_rows(rows, width=2, dtype=np.uint16)


def as_lists(rows):
    return [row.tolist() for row in rows]


def save_and_load(stem, rows=ROWS):
    ragged(rows).save(stem)
    return Ragged.load(stem)


def test_rows_come_back_from_memory_and_from_disk(tmp_path):
    for rows in (ragged(), save_and_load(tmp_path / "boxes")):
        assert as_lists(rows) == ROWS and len(rows) == 3
        assert rows.lengths.tolist() == [2, 0, 1]
        assert rows.values.dtype == np.uint16 and rows[1].shape == (0, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.npy", "boxes_offsets.npy"]


def test_many_rows_stay_as_they_are_while_the_array_grows():
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 65536, (count, 2)) for count in rng.integers(0, 900, 40)]
    grown = ragged(iter(rows))
    assert len(grown.values) == sum(map(len, rows)) and all(map(np.array_equal, grown, rows))


@pytest.mark.parametrize("rows", [[], [[]], [[], []]], ids=str)
def test_nothing_at_all_can_be_stored(tmp_path, rows):
    assert as_lists(save_and_load(tmp_path / "empty", rows)) == rows


def test_there_is_no_row_beyond_the_last_nor_before_the_first():
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"row {index} of 3"):
            ragged()[index]


def test_a_loaded_one_is_mapped_and_read_only(tmp_path):
    rows = save_and_load(tmp_path / "boxes")
    assert isinstance(rows.values.base, np.memmap) and isinstance(rows.offsets.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        rows[0][0, 0] = 7


def test_a_pickle_holds_the_path_and_not_the_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    big = np.arange(20000).reshape(-1, 2)
    pickled = pickle.dumps(save_and_load("boxes", [big, []]))
    monkeypatch.chdir("/")
    copy = pickle.loads(pickled)
    assert len(pickled) < 500 and isinstance(copy.values.base, np.memmap)
    assert np.array_equal(copy[0], big) and len(copy) == 2


def test_one_that_was_not_loaded_is_pickled_whole():
    assert as_lists(pickle.loads(pickle.dumps(ragged()))) == ROWS


def send_back(rows, connection):
    connection.send((as_lists(rows), isinstance(rows.values.base, np.memmap)))


def test_a_spawned_process_maps_the_same_files(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=send_back, args=(save_and_load(tmp_path / "boxes"), theirs))
    process.start()
    assert ours.poll(60) and ours.recv() == (ROWS, True)
    process.join()


def test_killed_between_the_files_an_older_store_does_not_look_complete(tmp_path, monkeypatch):
    save_and_load(tmp_path / "boxes")
    replaced = []

    def replace_once(source, target, replace=os.replace):
        if replaced:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_once)
    # The same shape as the older one's, so that only the missing file tells.
    with pytest.raises(KeyboardInterrupt):
        ragged(ROWS[::-1]).save(tmp_path / "boxes")
    with pytest.raises(DataError, match=r"boxes_offsets\.npy: No such file.*run that again"):
        Ragged.load(tmp_path / "boxes")


@pytest.mark.parametrize("name", ["boxes.npy", "boxes_offsets.npy"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-2], lambda data: b"", lambda data: b"\x93NUMPY\x01\x00\x09\x00rubbish!!"]
)
def test_a_damaged_file_is_named_with_its_remedy(tmp_path, name, damage):
    save_and_load(tmp_path / "boxes")
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(DataError, match=rf"{name}: no whole \.npy file.*run that again"):
        Ragged.load(tmp_path / "boxes")


@pytest.mark.parametrize("offsets", [[0, 2, 1, 3], [1, 2, 3], [0, 2], [0, 4]], ids=str)
def test_offsets_of_other_values_are_refused(tmp_path, offsets):
    save_and_load(tmp_path / "boxes")
    np.save(tmp_path / "boxes_offsets.npy", np.array(offsets))
    with pytest.raises(DataError, match=r"boxes\.npy: the offsets do not lead from 0 up to the 3 rows.*run that again"):
        Ragged.load(tmp_path / "boxes")
    with pytest.raises(ValueError, match="the offsets do not lead"):
        Ragged(ragged().values, np.array(offsets))


@pytest.mark.parametrize(
    "value, named",
    [
        (65536, "65536"),
        (-1, "-1"),
        (0.5, "0.5"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (2**63, "9.22"),
    ],
)
def test_numbers_that_would_wrap_or_be_rounded_are_refused(value, named):
    with pytest.raises(ValueError, match=f"row 1: {named}.* is no whole number from 0 to 65535"):
        ragged([[], [[1, 2], [3, value]]])


@pytest.mark.parametrize(
    "row", [[1, 2], [[1, 2, 3]], [[]], [[1, 2], [3]], [["1", "2"]], [[None, 1]], 3, None, [[True, False]]]
)
def test_what_is_no_row_of_numbers_is_refused(row):
    with pytest.raises(ValueError, match="numbers"):
        as_matrix(row, width=2, dtype=np.uint16)


def test_whole_numbers_written_as_floats_are_taken_and_floats_stay_floats():
    assert as_matrix([[1.0, 2.0]], width=2, dtype=np.uint16).dtype == np.uint16
    assert as_matrix([[0.5, 2]], width=2, dtype=np.float32).tolist() == [[0.5, 2]]


def test_parts_end_to_end_are_one(tmp_path):
    parts = [ragged(), ragged([[], []]), save_and_load(tmp_path / "part", [[[9, 9]]])]
    assert as_lists(Ragged.concatenate(parts)) == [*ROWS, [], [], [[9, 9]]]


def test_what_is_half_written_does_not_exist_and_can_be_deleted(tmp_path):
    stem = tmp_path / "boxes"
    assert not Ragged.exists(stem)
    save_and_load(stem)
    assert Ragged.exists(stem)
    (tmp_path / "boxes_offsets.npy").unlink()
    assert not Ragged.exists(stem)
    Ragged.delete(stem)
    Ragged.delete(stem)
    assert list(tmp_path.iterdir()) == []
