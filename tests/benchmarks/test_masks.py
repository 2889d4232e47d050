import itertools
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import masks
from benchmarks.masks import achievable_accuracy, main
from evaluation.map_scores import adjusted_rand_index, contingency


def maps(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, (5, 6)), rng.integers(0, 3, (5, 6))


def rand_by_counting_pairs(first, second):
    """(agreeing pairs - expected) / (largest - expected), pair by pair."""
    pairs = list(itertools.combinations(range(first.size), 2))
    same = [[labels.flat[a] == labels.flat[b] for a, b in pairs] for labels in (first, second)]
    both, one, other = (sum(x) for x in ([a and b for a, b in zip(*same)], *same))
    expected = one * other / len(pairs)
    return (both - expected) / ((one + other) / 2 - expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_adjusted_rand_index_is_that_of_counting_pairs(seed):
    first, second = maps(seed)
    assert adjusted_rand_index(contingency(first, second)) == pytest.approx(rand_by_counting_pairs(first, second))
    assert adjusted_rand_index(contingency(first, 7 - first)) == 1
    assert adjusted_rand_index(contingency(first, np.zeros_like(first))) == 0


def test_accuracy_is_of_the_best_human_segment_for_each():
    segments = np.array([[0, 0, 0, 5, 5, 5]])
    human = np.array([[1, 1, 2, 2, 2, 3]])
    assert achievable_accuracy(contingency(segments, human)) == pytest.approx(4 / 6)
    assert achievable_accuracy(contingency(np.arange(6)[None], human)) == 1


def test_the_command_renews_the_table_and_only_that(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "segments"):
            (tmp_path / folder / split).mkdir(parents=True)
        photo = np.kron(rng.integers(0, 255, (3, 4, 3)), np.ones((20, 20, 1))).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / "images" / split / "8.jpg")
        for person in range(2):
            labels = np.kron(np.arange(12).reshape(3, 4) // (person + 1), np.ones((20, 20))).astype(np.uint8)
            Image.fromarray(labels).save(tmp_path / "segments" / split / f"8_{person}.png")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- masks -->\nold\n<!-- end -->\nafter\n")
    main([str(tmp_path), "--write", str(page), "--json", str(tmp_path / "masks.json")])
    text = page.read_text()
    assert text.startswith("before\n<!-- masks -->\n| type |") and text.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in text and "| grid3x3 |" in text and "2 photographs" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(masks.MAKERS) and len({row.count("|") for row in rows}) == 1
    found = {row["what"]: row for row in json.loads((tmp_path / "masks.json").read_text())["rows"]}
    assert found["fh"]["ms"] > 0 and found["people"]["ms"] is None and found["grid3x3"]["segments"] == 9
