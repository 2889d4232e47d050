import json
import re

import pytest

import data.json_stream
from data.json_stream import read_parts, write_parts
from utils.errors import DataError

CONTENT = {
    "skipped": [{"a": [1, [2]], "b": "]}"}, 3, "x"],
    "numbers": [12345678, -1.5e-3, 0, 7],
    "nested": {"texts": ["a", 'b"]', "ü"], "other": {"deep": None}, "empty": []},
    "last": {"x": True},
}
PARTS = {"numbers": list, "nested.texts": list, "nested.empty": list, "last": None}
FOUND = {
    "numbers": CONTENT["numbers"],
    "nested.texts": CONTENT["nested"]["texts"],
    "nested.empty": [],
    "last": {"x": True},
}


@pytest.mark.parametrize("chunk", [*range(1, 24), 1 << 20])
@pytest.mark.parametrize(
    "options", [{"indent": 2}, {"separators": (",", ":"), "ensure_ascii": False}], ids=["wide", "dense"]
)
def test_parts_are_found_wherever_the_file_is_cut_for_reading(tmp_path, monkeypatch, chunk, options):
    monkeypatch.setattr(data.json_stream, "_CHUNK", chunk)
    monkeypatch.setattr(data.json_stream, "_LONGEST_NUMBER", 10)
    (tmp_path / "a.json").write_text(json.dumps(CONTENT, **options), encoding="utf-8")
    assert read_parts(tmp_path / "a.json", PARTS) == FOUND


def test_parts_that_are_not_there_are_left_out(tmp_path):
    (tmp_path / "a.json").write_text('{"a": {"b": 1}, "c": {}}')
    assert read_parts(tmp_path / "a.json", {"a.b": None, "c.d": None, "e": list}) == {"a.b": 1}


def test_iterators_are_written_as_lists_and_one_item_is_taken_after_the_other_is_read(tmp_path):
    write_parts(tmp_path / "a.json", {"a": {"b": iter([[1], [], "ü"]), "c": iter([])}, "d": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": {"b": [[1], [], "ü"], "c": []}, "d": [1, None]}
    first = read_parts(tmp_path / "a.json", {"a.b": lambda items: [next(items), list(items)]})
    assert first == {"a.b": [[1], [[], "ü"]]}


@pytest.mark.parametrize("length", range(0, len(json.dumps(CONTENT)) - 1, 5))
def test_a_file_that_ends_early_is_damaged(tmp_path, length):
    (tmp_path / "a.json").write_text(json.dumps(CONTENT)[:length])
    with pytest.raises(DataError, match=r"a\.json: (\S+: )?character \d+: .*; make it again"):
        read_parts(tmp_path / "a.json", PARTS)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "character 0: { expected, not '['"),
        ('{"n": 3}', "character 6: [ expected, not '3'"),
        ('{"n": [1 2]}', "character 9: , or ] expected, not '2'"),
        ('{"n": [1,]}', "character 9: Expecting value"),
        ("{1: 2}", "character 2: a key in quotes expected before it"),
        ('{"n": [' + "[" * 100000, ""),
    ],
)
def test_what_is_wrong_is_told_by_place(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json: (n: )?{re.escape(message)}"):
        read_parts(tmp_path / "a.json", {"n": list})


def test_a_mistake_is_found_without_reading_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(data.json_stream, "_CHUNK", 100)
    monkeypatch.setattr(data.json_stream, "_LONGEST_TEXT", 100)
    (tmp_path / "a.json").write_bytes(b'{"n": [[1, ?, ' + b"1, " * 10000 + b"\xff")
    # Not the byte that is no UTF-8, which comes far behind.
    with pytest.raises(DataError, match="character 11: Expecting value"):
        read_parts(tmp_path / "a.json", {"n": list})


def test_no_file_and_no_text_are_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: No such file"):
        read_parts(tmp_path / "a.json", {"n": list})
    (tmp_path / "a.json").write_bytes(b'{"n": "\xff"}')
    with pytest.raises(DataError, match=r"a\.json: 'utf-8' codec.*again"):
        read_parts(tmp_path / "a.json", {"n": list})
