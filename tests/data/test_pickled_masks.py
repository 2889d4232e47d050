import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from data.listing import find_images
from data.mask_makers import MaskError
from data.orientation import turn_upright
from data.pickled_masks import find_pickles, read_mask_pickle
from data.safe_pickle import UnsafePickle
from tests.data.test_safe_pickle import dump, evil
from utils.errors import DataError

MASK = torch.arange(6, dtype=torch.int16).reshape(2, 3)


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(
    "mask",
    [MASK, MASK[None], MASK[None, None].int(), MASK.t().contiguous().t(), MASK.repeat(2, 2)[2:, 3:], MASK.numpy()]
    + [np.asfortranarray(MASK.numpy()), MASK.numpy()[None].astype(np.uint8)],
)
def test_tensors_and_arrays_come_back(tmp_path, mask, protocol):
    assert np.array_equal(read_mask_pickle(dump(tmp_path / "a.pkl", mask, protocol)), MASK)


def test_a_pickle_with_the_names_of_older_numpy_comes_back(tmp_path):
    data = pickle.dumps(MASK.numpy(), protocol=4).replace(b"numpy._core", b"numpy.core")
    # The length of the frame and of the name stand before them.
    data = data.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
    (tmp_path / "a.pkl").write_bytes(data[:2] + data[11:] if data[2:3] == b"\x95" else data)
    assert np.array_equal(read_mask_pickle(tmp_path / "a.pkl"), MASK)


@pytest.mark.parametrize("wrong", ["text", ["mask"], MASK.bool(), MASK[0], MASK.repeat(2, 1, 1), None], ids=str)
def test_what_is_no_mask_is_named(tmp_path, wrong):
    with pytest.raises(DataError, match=r"a\.pkl: .*expected"):
        read_mask_pickle(dump(tmp_path / "a.pkl", wrong))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.complex64], ids=str)
def test_a_mask_of_other_numbers_is_a_failure_of_its_image(tmp_path, images, kind):
    maker = find_pickles(published(tmp_path, {"n01_a": MASK.to(kind)}), images, kind="fh", type="fh")
    with pytest.raises(MaskError, match=r"n01_a_fh\.pkl: refused, since it asks for torch\.\w+Storage"):
        maker(IMAGE, "n01/a.jpg")


def test_a_cut_off_or_missing_pickle_is_named(tmp_path):
    path = dump(tmp_path / "a.pkl", MASK)
    for length in (0, 1, 40, len(path.read_bytes()) - 30):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(DataError, match=r"a\.pkl: no whole pickle"):
            read_mask_pickle(path)
    with pytest.raises(DataError, match=r"b\.pkl: No such file"):
        read_mask_pickle(tmp_path / "b.pkl")


IMAGE = np.zeros((2, 3, 3), np.uint8)


@pytest.fixture
def images(tmp_path):
    """Three photographs of 3 x 2 pixels, of which the last is stored turned."""
    exif = Image.Exif()
    exif[0x112] = 6
    for name, options in (("n01/a.jpg", {}), ("n02/b.c.png", {}), ("n02/turned.png", {"exif": exif})):
        path = tmp_path / "images" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 3) if options else (3, 2)).save(path, **options)
    return find_images(tmp_path)


def published(tmp_path, masks, root="/far/away"):
    """Pickles as the release writes them, and its list, whose paths are another machine's."""
    folder = tmp_path / "masks" / "train_tf"
    for name, mask in masks.items():
        dump(folder / f"{name}_fh.pkl", mask)
    return dump(
        tmp_path / "masks" / "train_tf_img_to_fh.pkl", tuple(f"{root}/train_tf/{name}_fh.pkl" for name in masks)
    )


@pytest.mark.parametrize("is_list", [True, False])
def test_masks_are_found_by_name_whatever_their_order(tmp_path, images, is_list):
    listed = published(tmp_path, {"n02_b.c": MASK + 10, "n01_a": MASK})
    maker = find_pickles(listed if is_list else tmp_path / "masks" / "train_tf", images, kind="fh", type="fh")
    assert np.array_equal(maker(IMAGE, "n01/a.jpg"), MASK)
    assert np.array_equal(maker(IMAGE, "n02/b.c.png"), MASK + 10)
    with pytest.raises(MaskError, match=r"n02_turned_fh\.pkl: not in .*train_tf"):
        maker(IMAGE, "n02/turned.png")


def test_listed_paths_count_where_they_exist(tmp_path, images):
    published(tmp_path, {"n01_a": MASK})
    listed = dump(tmp_path / "elsewhere.pkl", [str(tmp_path / "masks" / "train_tf" / "n01_a_fh.pkl")])
    assert np.array_equal(find_pickles(listed, images, kind="fh", type="fh")(IMAGE, "n01/a.jpg"), MASK)


@pytest.mark.parametrize("stored, expected", [(MASK.t(), turn_upright(MASK.t().numpy(), 6)), (MASK, MASK.numpy())])
def test_a_mask_of_the_stored_pixels_is_turned_like_the_photo(tmp_path, images, stored, expected):
    maker = find_pickles(published(tmp_path, {"n02_turned": stored.contiguous()}), images, kind="fh", type="fh")
    assert np.array_equal(maker(IMAGE, "n02/turned.png"), expected)


def test_two_images_of_one_name_are_ambiguous(tmp_path, images):
    listed = published(tmp_path, {"n01_a": MASK})
    Image.new("RGB", (3, 2)).save(images.root / "n01" / "a.png")
    maker = find_pickles(listed, find_images(tmp_path), kind="fh", type="fh")
    for name in ("n01/a.jpg", "n01/a.png"):
        with pytest.raises(MaskError, match=r"n01_a_fh\.pkl: ambiguous"):
            maker(IMAGE, name)


def test_a_mask_that_is_none_is_refused(tmp_path, images):
    listed = published(tmp_path, {"n02_b.c": evil(tmp_path / "ran")})
    maker = find_pickles(listed, images, kind="fh", type="fh")
    with pytest.raises(MaskError, match="n02_b.c_fh.pkl: refused"):
        maker(IMAGE, "n02/b.c.png")


def test_a_list_that_is_none_or_leads_nowhere_is_refused(tmp_path, images):
    for wrong in ([], MASK, [1, 2], "a"):
        with pytest.raises(DataError, match="neither a folder"):
            find_pickles(dump(tmp_path / "list.pkl", wrong), images, kind="fh", type="fh")
    with pytest.raises(DataError, match="names /far/away/train_tf, which is neither there nor beside"):
        find_pickles(dump(tmp_path / "list.pkl", ["/far/away/train_tf/a_fh.pkl"]), images, kind="fh", type="fh")
    with pytest.raises(UnsafePickle):
        find_pickles(dump(tmp_path / "list.pkl", [evil(tmp_path / "ran")]), images, kind="fh", type="fh")
    assert not (tmp_path / "ran").exists()
