import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from data.images import UnreadableImage, read_image
from data.orientation import read_orientation, turn_upright, upright_shape


def save_turned(path, orientation, pixels=None):
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = np.arange(9 * 12, dtype=np.uint8).reshape(9, 12) if pixels is None else pixels
    Image.fromarray(pixels).save(path, exif=exif)
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_shape_and_turning_are_those_of_the_image_as_it_is_read(tmp_path, name, orientation):
    pixels = save_turned(tmp_path / name, orientation)
    if not name.endswith("tif"):
        assert read_orientation(tmp_path / name) == (pixels.shape, orientation)
    assert upright_shape(tmp_path / name) == read_image(tmp_path / name).shape[:2]


@pytest.mark.parametrize("exif", [None, 3])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.mpo"])
def test_xmps_orientation_counts_where_it_does_as_the_image_is_read(tmp_path, name, exif):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options = {"pnginfo": text} if name == "a.png" else {"xmp": xmp}
    if exif:
        options["exif"] = Image.Exif()
        options["exif"][0x112] = exif
    image = Image.new("RGB", (12, 9))
    more = {"save_all": True, "append_images": [image]} if name == "a.mpo" else {}
    image.save(tmp_path / name, **options, **more)
    assert upright_shape(tmp_path / name) == read_image(tmp_path / name).shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_is_pils(tmp_path, orientation):
    pixels = save_turned(tmp_path / "a.png", orientation)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(turn_upright(pixels, orientation), ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_means_nothing_changes_nothing(tmp_path, orientation):
    pixels = save_turned(tmp_path / "a.png", orientation)
    assert read_orientation(tmp_path / "a.png") == (pixels.shape, 1)
    assert upright_shape(tmp_path / "a.png") == pixels.shape


def test_the_header_alone_is_read(tmp_path):
    save_turned(tmp_path / "a.jpg", 6, np.random.default_rng(0).integers(0, 255, (90, 120)).astype(np.uint8))
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    assert upright_shape(tmp_path / "a.jpg") == (120, 90)


def test_what_is_no_image_has_no_shape(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"text")
    assert read_orientation(tmp_path / "a.jpg") is None
    with pytest.raises(UnreadableImage, match="a.jpg"):
        upright_shape(tmp_path / "a.jpg")
