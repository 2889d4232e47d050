"""Felzenszwalb and Huttenlocher's segments with scikit-image's labels, several times as fast where numba is installed."""

import logging
from functools import cache
from types import ModuleType

import numpy as np
from skimage.filters import gaussian
from skimage.segmentation import felzenszwalb
from skimage.util import img_as_float64

_log = logging.getLogger(__name__)
# Above it the compiled loops' numbers of edges, 32 bits, would not do.
_MAX_PIXELS = 2**30


def fh_labels(image: np.ndarray, *, scale: float, sigma: float, min_size: int) -> np.ndarray:
    """The labels of `skimage.segmentation.felzenszwalb`, the same numbers in every pixel.

    Where edges of equal cost could be joined in more than one order to other ends, scikit-image's is that in which numpy's sort
    leaves them, which differs between processors: these images are sorted by numpy too. For all others the order decides nothing.

    Args:
        image: (H, W, 3) uint8.
        scale: above 0; larger makes larger segments.
        sigma: of the smoothing before, in pixels.
        min_size: pixels; smaller segments are joined to a neighbour.
    Returns:
        (H, W) int64, dense from 0.
    Source: scikit-image, segmentation/_felzenszwalb_cy.pyx. Differs: edges are sorted otherwise, see above; the second look at
        them leaves out those that the first found inside a segment; labels are numbered by each segment's first pixel at once.
    """
    loops = _compiled_loops()
    if loops is None or image.shape[0] * image.shape[1] >= _MAX_PIXELS:
        return felzenszwalb(image, scale=scale, sigma=sigma, min_size=min_size)
    return _by_loops(loops, image, scale=scale, sigma=sigma, min_size=min_size)


def prepare() -> None:
    """Compile, or warn that nothing can: once, before worker processes start, which would each do it."""
    if _compiled_loops() is None:
        _log.warning("FH segments by scikit-image itself: with numba the same are made several times as fast")


def compiler_versions() -> dict[str, str]:
    """What compiled the loops, for the note beside label maps; empty where scikit-image does all."""
    loops = _compiled_loops()
    return {} if loops is None else {"numba": loops.numba.__version__}


def _by_loops(loops: ModuleType, image: np.ndarray, *, scale: float, sigma: float, min_size: int) -> np.ndarray:
    # scikit-image's own call.
    smooth = gaussian(img_as_float64(image), sigma=[sigma, sigma, 0], mode="reflect", channel_axis=-1)
    costs, edges = loops.edge_costs(np.ascontiguousarray(smooth))
    height, width, _ = image.shape
    options = height, width, float(scale) / 255.0, min_size
    labels, is_clear = loops.join_pixels(costs, edges, loops.sort_edges(costs), *options)
    if not is_clear:
        # scikit-image's own call again: which of equal edges it puts first is the processor's choice.
        labels, _ = loops.join_pixels(costs, edges, np.argsort(costs).astype(np.uint32), *options)
    return labels.reshape(height, width)


@cache
def _compiled_loops() -> ModuleType | None:
    """The compiled loops; None where numba is missing or switched off, or scikit-image does otherwise than it did."""
    try:
        # Not above: it takes half a second, which only those who make FH segments shall wait.
        from data import felzenszwalb_compiled as loops
    except ImportError:
        return None
    # Run by Python itself, as debuggers want it, they would take hours.
    if loops.numba.config.DISABLE_JIT:
        return None
    if _agrees(loops):
        return loops
    _log.warning("FH segments by scikit-image itself: this version's are not those that the compiled loops make")
    return None


def _agrees(loops: ModuleType) -> bool:
    """Whether the loops give scikit-image's labels of a small image; compiles them."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))) + rng.integers(-20, 20, (48, 64, 3))
    image, options = image.clip(0, 255).astype(np.uint8), {"scale": 30.0, "sigma": 0.8, "min_size": 10}
    # numba keeps a loop in memory first: where the disk is full, each of the three fails once.
    for _ in range(3):
        try:
            _by_loops(loops, image, **options)
        except OSError as error:
            _log.info("compiled loops are not kept on disk: %s", error)
    return np.array_equal(_by_loops(loops, image, **options), felzenszwalb(image, **options))
