import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from data.derived import is_complete, read_meta
from data.felzenszwalb import compiler_versions
from data.images import read_image
from data.label_maps import label_map_path, read_label_map
from data.listing import find_images
from data.mask_makers import FH, Grid, Ground, MaskError, OpenCVFH, Slic
from tools import make_masks as tool
from tools import mask_tasks
from tools.make_masks import ensure_masks, make_masks, verify_masks
from utils.errors import StorageError, UserError

FINE = FH(scale=50, min_size=10)


@pytest.fixture
def folder(eight_photos):
    return eight_photos


def make(folder, *makers, **options):
    return make_masks(find_images(folder), folder / "masks", makers or [FINE], **{"workers": 1, **options})


def map_path(folder, name, mask_type=FINE.type):
    return label_map_path(folder / "masks", mask_type, "train", name)


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "masks").glob("**/*.png")}


@dataclass(frozen=True)
class Numbered:
    """Labels each pixel with its own number."""

    start: int = 0
    type = "numbered"

    @property
    def parameters(self):
        return {"start": self.start}

    def __call__(self, image, name):
        return self.start + np.arange(image[..., 0].size).reshape(image.shape[:2])


@pytest.mark.parametrize("workers", [1, 2])
def test_every_image_gets_each_makers_map(folder, workers):
    makers = [FINE, Slic(8, 20), Grid(2, 2)]
    summary = make(folder, *makers, workers=workers)
    assert (summary.done, summary.skipped, summary.failures) == (8, 0, [])
    images = find_images(folder)
    for maker in makers:
        for index in range(8):
            expected = maker(read_image(images.path(index)), images.name(index))
            assert np.array_equal(read_label_map(map_path(folder, images.name(index), maker.type)), expected)
        assert is_complete(map_path(folder, "", maker.type).parent, images)
        assert read_meta(folder / "masks" / maker.type / "train")["parameters"] == maker.parameters


def test_several_types_are_made_in_one_reading(folder, monkeypatch):
    read = []
    monkeypatch.setattr(mask_tasks, "read_image", lambda path: read.append(path) or read_image(path))
    make(folder, FINE, FH(scale=200, min_size=10), Grid())
    assert len(read) == 8
    make(folder, FINE, Grid(2, 2))
    assert len(read) == 16 and len(stamps(folder)) == 32


def test_more_than_256_labels_take_16_bits_and_too_many_are_a_failure(folder):
    Image.new("RGB", (300, 300)).save(folder / "images" / "train" / "large.png")
    summary = make(folder, Numbered(), Grid())
    labels = read_label_map(map_path(folder, "0.png", "numbered"))
    assert labels.dtype == np.uint16 and labels.max() == 24 * 30 - 1
    [(path, reason)] = summary.failures
    assert path.endswith("large.png") and "90000 labels" in reason and summary.done == 8
    assert map_path(folder, "large.png", "grid3x3").exists()
    assert not is_complete(folder / "masks" / "numbered" / "train", find_images(folder))
    assert len(make(folder, Numbered()).failures) == 1


def test_a_turned_photo_gets_the_map_of_the_upright_one(folder):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (40, 20)).save(folder / "images" / "train" / "turned.jpg", exif=exif)
    make(folder)
    assert read_label_map(map_path(folder, "turned.jpg")).shape == (40, 20)
    assert verify_masks(find_images(folder), folder / "masks", FINE.type, workers=1).failures == []


def test_a_stopped_job_goes_on_with_what_is_missing(folder):
    make(folder, shard=(0, 2))
    assert not is_complete(map_path(folder, "").parent, find_images(folder))
    before = stamps(folder)
    summary = make(folder)
    assert (summary.done, summary.skipped) == (4, 4)
    assert {path: stamp for path, stamp in stamps(folder).items() if path in before} == before


def test_shards_share_the_work_and_the_last_one_notes_that_it_is_complete(folder):
    assert [make(folder, shard=(part, 3)).done for part in range(3)] == [3, 3, 2]
    assert is_complete(map_path(folder, "").parent, find_images(folder))


def test_a_run_makes_what_it_lacks_and_trusts_the_note(folder, monkeypatch):
    images = find_images(folder)
    ensure_masks(images, folder / "masks", [Grid()])
    assert len(stamps(folder)) == 8
    monkeypatch.setattr(tool, "missing_label_maps", lambda *arguments: pytest.fail("looked"))
    ensure_masks(images, folder / "masks", [Grid()])


def test_a_run_is_told_of_images_without_a_map(folder, caplog):
    (folder / "images" / "train" / "3.png").write_bytes(b"text")
    ensure_masks(find_images(folder), folder / "masks", [Grid()])
    assert "3.png: no label map: no known image format" in caplog.text
    assert is_complete(folder / "masks" / "grid3x3" / "train", find_images(folder))


def test_more_images_than_noted_are_made(folder):
    make(folder)
    Image.new("RGB", (9, 9)).save(folder / "images" / "train" / "new.png")
    assert make(folder).done == 1


def test_maps_made_otherwise_are_refused_even_of_a_stopped_job(folder):
    images = find_images(folder)
    for shard in ((0, 2), (0, 1)):
        make(folder, Numbered(), shard=shard)
        with pytest.raises(UserError, match=r"numbered/train: .* with start 0, not with start 7: give another"):
            make(folder, Numbered(7))
        with pytest.raises(UserError, match="start 0"):
            ensure_masks(images, folder / "masks", [Numbered(7)])
    assert is_complete(folder / "masks" / "numbered" / "train", images)


@dataclass(frozen=True)
class Imported:
    """Stands for published masks, of which 6.png and 7.png have none."""

    source: str = "pickles"
    type = FINE.type

    @property
    def parameters(self):
        return {"imported": self.source}

    def __call__(self, image, name):
        if name in ("6.png", "7.png"):
            raise MaskError(f"{name}: none")
        return np.zeros(image.shape[:2], int)


def test_an_imported_folder_notes_what_is_computed_before_the_first_map(folder, monkeypatch):
    make(folder, Imported())
    note = map_path(folder, "").parent
    noted = []
    monkeypatch.setattr(mask_tasks, "write_label_map", lambda path, labels: noted.append(read_meta(note)["parameters"]))
    both = {"imported": "pickles", **FINE.parameters}
    # One of two missing maps: the listing is not complete.
    make(folder, FINE, shard=(6, 8))
    assert noted == [both] and read_meta(note)["parameters"] == both
    assert not is_complete(note, find_images(folder))


def test_an_imported_folder_takes_only_maps_of_its_own_type(folder):
    make(folder, Imported())
    others = [Ground(str(folder), type=FINE.type), Imported("other pickles")]
    for filled in (False, True):
        for other in others:
            with pytest.raises(UserError, match="its maps were made with imported pickles"):
                make(folder, other)
        if not filled:
            make(folder, FINE, shard=(6, 8))
            others = [Ground(str(folder), type=FINE.type)]
    assert make(folder, Imported()).skipped == 7
    assert make(folder, FINE).done == 1


def test_superpixels_of_the_earlier_tool_go_on(folder):
    make(folder, Slic(8, 20))
    note = folder / "masks" / "slic8_20" / "train" / "meta.json"
    note.write_text(note.read_text().replace('"make_masks"', '"make_superpixels"'))
    assert json.loads(note.read_text())["parameters"] == {"size": 20, "segments": 8}
    assert make(folder, Slic(8, 20)).skipped == 8


def test_a_folder_that_cannot_be_made_is_named(folder):
    (folder / "masks").write_bytes(b"")
    with pytest.raises(UserError, match=r"masks.*: (Not a directory|File exists): .*--output_dir"):
        make(folder)


def test_a_full_disk_is_told_with_the_file(folder, monkeypatch):
    def full(path, labels):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mask_tasks, "write_label_map", full)
    with pytest.raises(StorageError, match=r"0\.png\.png: No space left on device: make room"):
        make(folder)


def damage(folder):
    """A cut-off map, one of another size, a missing one, and one whose ids are not dense."""
    path = map_path(folder, "1.png")
    path.write_bytes(path.read_bytes()[:40])
    Image.new("L", (3, 3)).save(map_path(folder, "2.png"))
    map_path(folder, "3.png").unlink()
    Image.fromarray(np.eye(24, 30, dtype=np.uint8) * 2).save(map_path(folder, "4.png"))


@pytest.mark.parametrize("workers", [1, 2])
def test_looking_through_names_each_defect_and_makes_nothing(folder, workers):
    make(folder)
    damage(folder)
    before = stamps(folder)
    summary = verify_masks(find_images(folder), folder / "masks", FINE.type, workers=workers)
    assert summary.skipped == 4 and stamps(folder) == before
    assert [(os.path.basename(path), reason.partition(" ")[0]) for path, reason in summary.failures] == [
        ("1.png.png", "no"),
        ("2.png.png", "3"),
        ("3.png.png", "missing"),
        ("4.png.png", "its"),
    ]


def test_repair_makes_exactly_the_defective_maps_again(folder, caplog):
    make(folder)
    before = {path: path.read_bytes() for path in stamps(folder)}
    damage(folder)
    untouched = {path: stamp for path, stamp in stamps(folder).items() if path.name[0] not in "1234"}
    assert make(folder).done == 1
    damage(folder)
    summary = make(folder, repair=True)
    assert (summary.done, summary.skipped, summary.failures) == (4, 4, [])
    assert {path: path.read_bytes() for path in before} == before
    assert {path: stamp for path, stamp in stamps(folder).items() if path in untouched} == untouched
    assert "1.png.png: no complete PNG: made again" in caplog.text


def test_the_loops_of_fh_are_compiled_once_before_workers_start_and_noted(folder, monkeypatch):
    done = []
    monkeypatch.setattr(tool, "prepare", lambda: done.append("prepared"))
    run_job = tool.run_job
    monkeypatch.setattr(tool, "run_job", lambda *args, **kwargs: done.append("run") or run_job(*args, **kwargs))
    for makers in ([FINE, FH(scale=200, min_size=10)], [FINE], [OpenCVFH(), Grid()]):
        make(folder, *makers)
    assert done == ["prepared", "run", "run", "run"]
    versions = {name: read_meta(folder / "masks" / name / "train")["versions"] for name in (FINE.type, "fh_opencv")}
    assert compiler_versions().items() <= versions[FINE.type].items() and "skimage" in versions[FINE.type]
    assert "numba" not in versions["fh_opencv"]
