import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from skimage.segmentation import felzenszwalb

import data.felzenszwalb as module
from data.felzenszwalb import compiler_versions, fh_labels, prepare
from data.images import read_image
from tests.paths import BSDS500, ROOT, needs_photographs

SIGMA = 0.8
try:
    import numba

    NUMBA = {"numba": numba.__version__}
except ImportError:
    NUMBA = {}
needs_numba = pytest.mark.skipif(not NUMBA, reason="numba is not installed")


def assert_equals_scikit_image(image, *, scale, min_size, sigma=SIGMA):
    expected = felzenszwalb(image, scale=scale, sigma=sigma, min_size=min_size)
    labels = fh_labels(image, scale=scale, sigma=sigma, min_size=min_size)
    assert labels.shape == expected.shape and labels.dtype == expected.dtype
    assert np.array_equal(labels, expected)
    return labels


def blocks(seed, *, height, width, side, noise):
    rng = np.random.default_rng(seed)
    image = np.kron(rng.integers(0, 256, (height, width, 3)), np.ones((side, side, 1), dtype=int))
    return (image + rng.integers(-noise, noise + 1, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def anew():
    """What is kept of a process' first call is forgotten before and after."""
    module._compiled_loops.cache_clear()
    yield
    module._compiled_loops.cache_clear()


@needs_numba
def test_where_numba_is_installed_the_loops_are_compiled_and_say_by_what():
    prepare()
    assert module._compiled_loops() is not None and compiler_versions() == NUMBA


@pytest.mark.parametrize("scale", [1e-300, 1e-42, 1e-6, 0.01, 1, 30, 1000, 1e6])
@pytest.mark.parametrize("seed", range(4))
def test_labels_of_random_images_are_scikit_images(seed, scale):
    noisy = np.random.default_rng(seed).integers(0, 256, (37, 53, 3), np.uint8)
    for image in (noisy, blocks(seed, height=5, width=7, side=9, noise=12)):
        for min_size in (0, 1, 20, 500, 10**6):
            assert_equals_scikit_image(image, scale=scale, min_size=min_size)


@pytest.mark.parametrize("sigma", [0, 0.3, 2.5])
def test_labels_at_other_smoothings_are_scikit_images(sigma):
    image = blocks(0, height=5, width=7, side=9, noise=12)
    assert_equals_scikit_image(image, scale=50, min_size=20, sigma=sigma)


def greys(seed, *, height, width, side):
    """An image of three greys at equal distances: nearly every edge costs what many others do."""
    image = 100 * np.kron(np.random.default_rng(seed).integers(0, 3, (height, width)), np.ones((side, side)))
    return np.repeat(image[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_where_costs_are_equal_small_segments_go_where_scikit_image_puts_them(seed):
    image = greys(seed, height=15, width=20, side=4)
    for sigma in (0, SIGMA):
        labels = assert_equals_scikit_image(image, scale=0.1, min_size=20, sigma=sigma)
        assert labels.max() > 5


@needs_numba
@pytest.mark.parametrize("scale", [1e-42, 0.1, 30, 3000])
def test_where_the_loops_say_that_the_order_of_equal_edges_decides_nothing_it_does_not(scale):
    loops, rng, clear = module._compiled_loops(), np.random.default_rng(0), []
    for seed in range(60):
        image = greys(seed, height=3, width=4, side=1 + seed % 3)
        height, width, _ = image.shape
        costs, edges = loops.edge_costs(image / 255.0)
        options = height, width, scale / 255, 1 + seed % 7
        labels, is_clear = loops.join_pixels(costs, edges, loops.sort_edges(costs), *options)
        orders = [np.lexsort((rng.random(len(costs)), costs)).astype(np.uint32) for _ in range(20)]
        others = [loops.join_pixels(costs, edges, order, *options)[0] for order in orders]
        assert not is_clear or all(np.array_equal(labels, other) for other in others)
        clear.append(is_clear)
    assert any(clear) and not all(clear)


def test_tolerances_are_compared_in_32_bits_as_scikit_image_does():
    image = np.array([[[0] * 3, [90] * 3]], np.uint8)
    cost, joined = np.sqrt(3 * (90 / 255.0) ** 2), []
    for part in range(-40, 41):
        labels = assert_equals_scikit_image(image, scale=255 * cost * (1 + part * 2e-9), min_size=0, sigma=0)
        joined.append(labels.max() == 0)
    # In 64 bits, those of a larger scale than the cost.
    assert any(joined) and not all(joined) and joined != [part > 0 for part in range(-40, 41)]


@needs_numba
def test_edges_are_sorted_by_all_digits_of_their_cost():
    rng, sort = np.random.default_rng(0), module._compiled_loops().sort_edges
    close = 0.5 + rng.permutation(5000) * 2.0**-53
    # Beside a large cost, small ones are alike in the digits that the first part of the sort looks at.
    tiny = np.append(rng.permutation(5000) * 1e-30, 1.0)
    few = rng.integers(0, 3, 5000) * 1e-25 + (rng.random(5000) < 0.1)
    for costs in (
        rng.random(5000),
        rng.random(5000) ** 9,
        close,
        tiny,
        few,
        np.zeros(500),
        np.full(3, 1e-310),
        np.empty(0),
    ):
        order = sort(costs)
        assert np.array_equal(costs[order], np.sort(costs)) and np.array_equal(np.sort(order), np.arange(len(costs)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (2, 2), (2, 40), (40, 2), (3, 3)])
def test_images_a_pixel_or_two_wide_have_scikit_images_labels(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for options in ({"scale": 1, "min_size": 0}, {"scale": 100, "min_size": 3}):
        assert_equals_scikit_image(image, **options)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_is_one_segment(value):
    labels = assert_equals_scikit_image(np.full((30, 40, 3), value, np.uint8), scale=1000, min_size=1000)
    assert labels.max() == 0


def test_a_turned_view_of_an_image_is_taken_as_its_copy_is():
    image = blocks(1, height=5, width=7, side=9, noise=12)
    for view in (image.transpose(1, 0, 2), image[::-1], image[:, ::2], image[..., ::-1]):
        labels = assert_equals_scikit_image(view, scale=50, min_size=20)
        assert np.array_equal(labels, fh_labels(view.copy(), scale=50, sigma=SIGMA, min_size=20))


@needs_photographs
@pytest.mark.parametrize("scale", [1000, 300, 50])
def test_labels_of_photographs_are_scikit_images(scale):
    for path in sorted((BSDS500 / "images").rglob("*.jpg"))[::75]:
        assert_equals_scikit_image(read_image(path), scale=scale, min_size=scale)


@needs_numba
def test_where_numba_compiles_nothing_scikit_image_does_it(anew, monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert module._compiled_loops() is None and compiler_versions() == {}


def test_without_numba_scikit_image_does_it_and_prepare_says_so(anew, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "data.felzenszwalb_compiled", raising=False)
    monkeypatch.delattr("data.felzenszwalb_compiled", raising=False)
    prepare()
    assert "numba" in caplog.text and compiler_versions() == {} and module._compiled_loops() is None
    assert_equals_scikit_image(blocks(2, height=3, width=4, side=9, noise=12), scale=50, min_size=20)


def test_a_scikit_image_that_does_otherwise_is_followed(anew, monkeypatch, caplog):
    monkeypatch.setattr(module, "felzenszwalb", lambda image, **options: 1 + felzenszwalb(image, **options))
    image = blocks(2, height=3, width=4, side=9, noise=12)
    labels = fh_labels(image, scale=50, sigma=SIGMA, min_size=20)
    assert np.array_equal(labels, 1 + felzenszwalb(image, scale=50, sigma=SIGMA, min_size=20))
    assert not NUMBA or "this version's" in caplog.text


def test_an_image_too_large_for_the_loops_numbers_goes_to_scikit_image(monkeypatch):
    image = blocks(2, height=3, width=4, side=9, noise=12)
    monkeypatch.setattr(module, "_by_loops", None)
    monkeypatch.setattr(module, "_MAX_PIXELS", image.shape[0] * image.shape[1])
    prepared = module._compiled_loops
    monkeypatch.setattr(module, "_compiled_loops", lambda: prepared)
    assert_equals_scikit_image(image, scale=50, min_size=20)


CHILD = """
import numpy as np
from data.felzenszwalb import compiler_versions, fh_labels
image = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)
print(compiler_versions(), fh_labels(image, scale=20, sigma=0.8, min_size=9).tolist())
"""


def start_child(cache, **options):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **options
    )


def expected_of_child():
    image = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)
    return f"{NUMBA} {felzenszwalb(image, scale=20, sigma=0.8, min_size=9).tolist()}\n"


def test_processes_that_compile_at_the_same_time_all_have_the_labels(tmp_path):
    children = [start_child(tmp_path) for _ in range(2)]
    said = [child.communicate()[0] for child in children]
    assert said == 2 * [expected_of_child()]
    assert not NUMBA or list(tmp_path.rglob("*.nbc"))


@needs_numba
def test_a_cache_that_cannot_be_written_to_costs_nothing_but_time(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a full disk: files can be made, but nothing written to them.
    child = start_child(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1])))
    assert child.communicate()[0] == expected_of_child() and child.returncode == 0
    (tmp_path / "file").write_text("")
    child = start_child(tmp_path / "file" / "below")
    assert child.communicate()[0] == expected_of_child() and child.returncode == 0
