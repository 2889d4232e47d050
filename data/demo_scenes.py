"""Scenes of the demo data: a few large textured objects over a piece of a photograph, with their ground truth."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from skimage import data as photographs

from data.demo_shapes import CATEGORIES

# Photographs inside scikit-image's own package: none of them is downloaded.
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "grass", "gravel", "moon")
# Changes whenever the same seed gives other pictures, so that data made by older code is not taken for today's.
SCENES_VERSION = 1
# Objects are drawn at twice the scene's resolution and averaged, so that their edges are smooth.
OVERSAMPLING = 2
# Of an object's drawn pixels, the part that objects in front of it must leave to be seen.
LEAST_VISIBLE = 0.6
# Half of an object's length as a share of the scene's side, by the number of objects.
LARGEST_RADIUS = {1: 0.45, 2: 0.4, 3: 0.34, 4: 0.3}
# What red, green and blue add to lightness, and how much lighter an object's paper is than its ink.
LIGHTNESS = np.array([0.299, 0.587, 0.114])
PAPER_OVER_INK = 0.45


class Scene(NamedTuple):
    """One scene of S x S pixels with M objects, ordered from the back to the front.

    image: (S, S, 3) uint8 RGB.
    instances: (S, S) uint8, the object each pixel shows: 0 for the background, else its place from 1 to M.
    categories: (M,) uint8, each object's category id from 1 to 10 (its place in `demo_shapes.CATEGORIES`, from 1).
    """

    image: np.ndarray
    instances: np.ndarray
    categories: np.ndarray

    @property
    def segmentation(self) -> np.ndarray:
        """(S, S) uint8: the category id of each pixel, 0 for the background."""
        return np.concatenate([np.zeros(1, np.uint8), self.categories])[self.instances]


def draw_scene(rng: np.random.Generator, *, size: int, num_objects: tuple[int, int] = (2, 3)) -> Scene:
    """Draws one scene; the generator alone decides what it shows.

    Args:
        rng: Its state is advanced.
        size: Side of the square picture in pixels, at least 32.
        num_objects: Least and greatest number of objects to place, both inclusive, at most 4; one that would hide
            another is left out.
    Raises:
        ValueError: for a size below 32, where textures can no longer be told apart, or numbers of objects out of range.
    """
    if size < 32:
        raise ValueError(f"size is {size}: scenes need at least 32 pixels a side for their textures to be seen")
    if not 1 <= num_objects[0] <= num_objects[1] <= max(LARGEST_RADIUS):
        raise ValueError(f"num_objects is {num_objects}: a scene takes from 1 to {max(LARGEST_RADIUS)}, least first")
    canvas = draw_background(rng, size=size)
    instances = np.zeros((size, size), np.uint8)
    categories = []
    for centre, radius in _places(rng, size=size, count=int(rng.integers(num_objects[0], num_objects[1] + 1))):
        category = int(rng.integers(len(CATEGORIES)))
        colour, alpha = draw_object(rng, category=category, centre=centre, radius=radius, size=size)
        shown = np.where(alpha > 0.5, len(categories) + 1, instances).astype(np.uint8)
        if not _all_visible(shown, instances):
            continue
        canvas = _cast_shadow(rng, canvas, alpha)
        canvas = canvas * (1 - alpha[..., None]) + colour
        instances = shown
        categories.append(category + 1)
    canvas = _light(rng, canvas)
    return Scene((255 * np.clip(canvas, 0, 1) + 0.5).astype(np.uint8), instances, np.array(categories, np.uint8))


def draw_background(rng: np.random.Generator, *, size: int) -> np.ndarray:
    """(size, size, 3) float in [0, 1]: a random square of a photograph, mirrored or not, in colours of its own."""
    photograph = load_photograph(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
    width, height = photograph.size
    side = int(rng.uniform(0.35, 0.95) * min(width, height))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    piece = photograph.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = np.asarray(piece, np.float32) / 255
    if rng.uniform() < 0.5:
        pixels = pixels[:, ::-1]
    pixels = pixels[..., rng.permutation(3)]
    tint = rng.uniform(0.6, 1.25, 3).astype(np.float32)
    return np.clip(pixels * tint, 0, 1)


def draw_object(
    rng: np.random.Generator, *, category: int, centre: tuple[float, float], radius: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one object on an empty canvas.

    Args:
        rng: Decides rotation, proportions, colours, light and the texture's details.
        category: From 0, its place in `demo_shapes.CATEGORIES`.
        centre: (x, y) in pixels.
        radius: Half of the object's length in pixels.
        size: Side of the canvas in pixels.
    Returns:
        (size, size, 3) float colour, already multiplied by alpha, and (size, size) float alpha in [0, 1].
    """
    u, v = _object_coordinates(rng, centre=centre, radius=radius, size=size)
    outline, texture = CATEGORIES[category](u, v, rng)
    paper, ink = draw_colours(rng, paper_share=float(np.mean(texture, where=outline)))
    direction = rng.uniform(0, 2 * math.pi)
    slope = rng.uniform(0.1, 0.35)
    bulge = 1.08 - 0.28 * np.clip(u**2 + v**2, 0, 1.5)
    shade = bulge * (1 + slope * (math.cos(direction) * u + math.sin(direction) * v))
    weight = np.asarray(texture, np.float32) * shade * outline
    rest = shade * outline - weight
    colour = _average(weight)[..., None] * paper + _average(rest)[..., None] * ink
    return np.clip(colour, 0, 1), _average(outline.astype(np.float32))


def draw_colours(rng: np.random.Generator, *, paper_share: float) -> tuple[np.ndarray, np.ndarray]:
    """The two colours of an object: paper and ink, of any hue, the paper lighter by a fixed amount.

    The mean over the object is drawn first and the two lie around it, so that neither a colour nor how much of the
    object is inked gives its category away: what does is where the lighter and the darker colour lie.

    Args:
        rng: Its state is advanced.
        paper_share: Share of the object that has the paper's colour, in [0, 1].
    Returns:
        Two (3,) float32 colours in [0, 1].
    """
    while True:
        mean = rng.uniform(0.15, 0.85, 3)
        hue = rng.uniform(-0.6, 0.6, 3)
        difference = PAPER_OVER_INK + hue - LIGHTNESS @ hue
        paper, ink = mean + (1 - paper_share) * difference, mean - paper_share * difference
        if 0.4 < LIGHTNESS @ mean < 0.6 and min(paper.min(), ink.min()) > 0 and max(paper.max(), ink.max()) < 1:
            return paper.astype(np.float32), ink.astype(np.float32)


@cache
def load_photograph(name: str) -> Image.Image:
    """The named photograph of scikit-image as an RGB picture, read once a process."""
    return Image.fromarray(getattr(photographs, name)()).convert("RGB")


def _places(rng: np.random.Generator, *, size: int, count: int) -> list[tuple[tuple[float, float], float]]:
    """Centres and radii in pixels; the fewer the objects, the larger, and a new one keeps away from those before it."""
    places: list[tuple[tuple[float, float], float]] = []
    for _ in range(count):
        radius = size * LARGEST_RADIUS[count] * rng.uniform(0.8, 1.0)
        tries = rng.uniform(0.75 * radius, size - 0.75 * radius, (20, 2))
        taken = np.array([centre for centre, _ in places]).reshape(-1, 2)
        distance = np.linalg.norm(tries[:, None] - taken, axis=2).min(axis=1, initial=np.inf)
        best = tries[int(np.argmax(distance))]
        places.append(((float(best[0]), float(best[1])), radius))
    return places


def _object_coordinates(
    rng: np.random.Generator, *, centre: tuple[float, float], radius: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(u, v) of every oversampled pixel in the frame of a rotated, stretched and perhaps mirrored object."""
    angle = math.radians(rng.uniform(-40, 40))
    cosine, sine = math.cos(angle), math.sin(angle)
    stretch = rng.uniform(0.88, 1.12)
    mirror = 1.0 if rng.uniform() < 0.5 else -1.0
    axis = (np.arange(size * OVERSAMPLING, dtype=np.float32) + 0.5) / OVERSAMPLING
    x, y = (axis[None, :] - centre[0]) / radius, (axis[:, None] - centre[1]) / radius
    u = mirror * stretch * (cosine * x + sine * y)
    v = (cosine * y - sine * x) / stretch
    return u, v


def _average(pixels: np.ndarray) -> np.ndarray:
    """Means of the oversampled pixels of each pixel."""
    step = OVERSAMPLING
    return sum(pixels[row::step, column::step] for row in range(step) for column in range(step)) / step**2


def _all_visible(shown: np.ndarray, before: np.ndarray) -> bool:
    """Whether every older object keeps enough of its pixels under the newest one."""
    old = np.bincount(before.ravel())[1:]
    return bool(np.all(np.bincount(shown.ravel(), minlength=len(old) + 1)[1 : len(old) + 1] >= LEAST_VISIBLE * old))


def _cast_shadow(rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The canvas darkened softly beside the object that is about to be laid on it."""
    size = len(canvas)
    shift = np.round(rng.uniform(-0.04, 0.04, 2) * size).astype(int)
    blurred = Image.fromarray((255 * alpha).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.025 * size))
    shadow = np.roll(np.asarray(blurred, np.float32) / 255, tuple(shift), axis=(0, 1))
    return canvas * (1 - 0.55 * shadow[..., None])


def _light(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """The canvas under a light that is brighter on one side, with a little noise of the sensor."""
    axis = np.linspace(-1, 1, len(canvas), dtype=np.float32)
    direction, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.25)
    light = rng.uniform(0.8, 1.1) + slope * (math.cos(direction) * axis[None, :] + math.sin(direction) * axis[:, None])
    return canvas * light[..., None] + 0.015 * rng.standard_normal(canvas.shape, dtype=np.float32)
