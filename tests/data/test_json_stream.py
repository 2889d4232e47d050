import json

import pytest

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
    "last": {"x": True},
}


@pytest.mark.parametrize(
    "options", [{"indent": 2}, {"separators": (",", ":"), "ensure_ascii": False}], ids=["wide", "dense"]
)
def test_parts_are_found_as_they_are(tmp_path, options):
    (tmp_path / "a.json").write_text(json.dumps(CONTENT, **options), encoding="utf-8")
    found = read_parts(tmp_path / "a.json", PARTS)
    assert found == FOUND and isinstance(found["numbers"][0], int)


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
    with pytest.raises(DataError, match=r"a\.json: .*; make it again"):
        read_parts(tmp_path / "a.json", PARTS)


@pytest.mark.parametrize("text", ['{"n": [1 2]}', '{"n": [1,]}', "{1: 2}", '{"n": [1, ?]}', "no JSON"])
def test_what_is_no_json_is_told_with_the_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: .*; make it again"):
        read_parts(tmp_path / "a.json", {"n": list})


def test_what_refuses_a_part_is_told_with_its_place(tmp_path):
    def refuse(items):
        raise ValueError(f"{next(items)} is wrong")

    (tmp_path / "a.json").write_text('{"a": {"n": [7]}}')
    with pytest.raises(DataError, match=r"a\.json: a\.n: 7 is wrong; make it again"):
        read_parts(tmp_path / "a.json", {"a.n": refuse})


def test_items_are_read_one_at_a_time(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"n": [' + b"[1], " * 200000 + b"?")
    with pytest.raises(DataError, match="n: enough"):
        read_parts(tmp_path / "a.json", {"n": lambda items: _stop_after(items, 3)})


def _stop_after(items, count):
    for _ in range(count):
        next(items)
    raise ValueError("enough")


def test_no_file_and_no_text_are_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: No such file"):
        read_parts(tmp_path / "a.json", {"n": list})
    (tmp_path / "a.json").write_bytes(b'{"n": ["\xff"]}')
    with pytest.raises(DataError, match=r"a\.json: .*again"):
        read_parts(tmp_path / "a.json", {"n": list})
