import io
import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.images import UnreadableImage, read_image


def saved(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def jpeg_bytes(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_a_jpeg_is_read_as_pil_reads_it(tmp_path, photo):
    path = saved(tmp_path / "a.jpg", photo, quality=90)
    image = read_image(path)
    assert image.shape == photo.shape and image.dtype == np.uint8
    assert np.abs(image.astype(int) - np.asarray(Image.open(path))).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_turned_photo_is_read_upright(tmp_path, photo, orientation, name):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = saved(tmp_path / name, photo, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(int)
    image = read_image(path)
    assert image.flags.c_contiguous and image.flags.writeable
    assert image.shape == expected.shape and np.abs(image - expected).max() <= 1


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_grey_image_gets_three_equal_channels(tmp_path, photo, name):
    image = read_image(saved(tmp_path / name, photo[..., 0]))
    assert image.shape == photo.shape and (image == image[..., :1]).all()
    assert np.abs(image[..., 0].astype(int) - photo[..., 0]).mean() < 6


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path, photo):
    smooth = photo[:30]
    image = read_image(saved(tmp_path / "a.jpg", Image.fromarray(smooth).convert("CMYK"), quality=95))
    assert np.abs(image.astype(int) - smooth).mean() < 6


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 256, 30000, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        assert read_image(saved(tmp_path / name, values))[0, :, 0].tolist() == [0, 1, 117, 255]


def test_32_bit_grey_is_taken_as_8_or_16_bits(tmp_path):
    assert read_image(saved(tmp_path / "a.tif", np.array([[0, 200]], dtype=np.int32)))[0, :, 0].tolist() == [0, 200]
    assert read_image(saved(tmp_path / "b.tif", np.array([[0, 51200]], dtype=np.int32)))[0, :, 0].tolist() == [0, 200]


def test_a_palette_image_gets_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert read_image(saved(tmp_path / "a.png", image)).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_transparency_lies_over_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)
    assert read_image(saved(tmp_path / "a.png", pixels)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    assert read_image(saved(tmp_path / "b.png", palette, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp"])
def test_one_pixel_and_a_panorama_are_images(tmp_path, name):
    assert read_image(saved(tmp_path / name, np.full((1, 1, 3), 90, np.uint8))).shape == (1, 1, 3)
    assert read_image(saved(tmp_path / name, np.zeros((10, 300, 3), np.uint8))).shape == (10, 300, 3)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp"])
def test_a_truncated_file_is_refused(tmp_path, photo, name):
    path = saved(tmp_path / name, photo)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage, match="trunc|complete"):
        read_image(path)


def test_a_jpeg_without_its_last_bytes_is_refused(tmp_path, photo):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes(photo)[:-60])
    with pytest.raises(UnreadableImage, match="truncated"):
        read_image(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path, photo):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(photo) + b"a phone's own data")
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - photo).mean() < 6


def test_what_is_no_image_is_refused_with_file_and_reason(tmp_path):
    for name, data, reason in (
        ("text.jpg", b"not a photo\n", "no known image format"),
        ("empty.jpg", b"", "empty"),
        ("start.jpg", b"\xff\xd8\xff\xe0", "."),
        ("start.png", b"\x89PNG\r\n\x1a\n", "."),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableImage, match=f"{name}: .*{reason}"):
            read_image(tmp_path / name)
    with pytest.raises(UnreadableImage, match="absent.jpg"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(UnreadableImage, match="directory"):
        read_image(tmp_path)


def test_floating_point_pixels_are_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="floating-point"):
        read_image(saved(tmp_path / "a.tif", np.zeros((2, 2), np.float32)))


def test_the_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "empty")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "empty", "a.jpg: empty")
