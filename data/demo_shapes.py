"""The ten categories of the demo data, each an outline and a texture in the object's own coordinates.

A category is a function of (u, v), the right and the down coordinate of every pixel in the object's frame (the object
lies within [-1, 1] in both), and of a generator for what differs between its instances. It returns the outline as a
bool array and the texture as an array in [0, 1] that later mixes two colours, so that no category has its own colours.
"""

from collections.abc import Callable

import numpy as np

Drawing = tuple[np.ndarray, np.ndarray]
Category = Callable[[np.ndarray, np.ndarray, np.random.Generator], Drawing]


def house(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Gabled wall of bricks laid in running bond."""
    wall = (np.abs(u) < 0.72) & (v < 0.85) & (v > -0.1)
    roof = (v <= -0.1) & (v > -0.9) & (np.abs(u) < 0.9 * (v + 0.9) / 0.8)
    course = (v + rng.uniform(0, 0.3)) / rng.uniform(0.30, 0.36)
    row = np.floor(course)
    along = u / rng.uniform(0.58, 0.66) + 0.5 * (row % 2) + rng.uniform()
    mortar = (course - row < 0.24) | (along - np.floor(along) < 0.16)
    return wall | roof, 1.0 - mortar


def fish(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Oval body with a forked tail, banded across."""
    body = ((u + 0.22) / 0.76) ** 2 + (v / 0.56) ** 2 < 1
    tail = (u > 0.36) & (u < 0.98) & (np.abs(v) < 0.1 + 0.75 * (u - 0.36)) & (u < 0.75 + 0.4 * np.abs(v))
    bands = np.sin(2 * np.pi * (u + 0.12 * v * v) / rng.uniform(0.34, 0.40) + rng.uniform(0, 2 * np.pi)) > 0
    eye = (u + 0.68) ** 2 + (v + 0.12) ** 2 < 0.1**2
    return body | tail, bands ^ eye


def mushroom(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Domed cap with large round spots on a plain stalk."""
    cap = (v < 0.12) & ((u / 0.95) ** 2 + ((v - 0.12) / 0.98) ** 2 < 1)
    stalk = (v >= 0.12) & (v < 0.9) & (np.abs(u) < 0.3 + 0.15 * (v - 0.12) ** 2)
    pitch = rng.uniform(0.52, 0.58)
    row = np.floor(v / pitch + (shift := rng.uniform()))
    across = (u / pitch + 0.5 * (row % 2) + rng.uniform()) % 1 - 0.5
    down = (v / pitch + shift) % 1 - 0.5
    spots = across**2 + down**2 < 0.33**2
    return cap | stalk, np.where(cap, spots, 0.85)


def balloon(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Globe with a small knot below, checkered."""
    globe = u**2 + ((v + 0.1) / 0.9) ** 2 < 0.88**2
    knot = (v > 0.66) & (v < 0.98) & (np.abs(u) < 0.55 * (v - 0.6))
    side = rng.uniform(0.36, 0.42)
    checks = (np.floor(u / side + rng.uniform()) + np.floor(v / side + rng.uniform())) % 2
    return globe | knot, checks


def leaf(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Pointed oval with a midrib and veins that slant from it."""
    half = 0.62 * (1 - u**2) * (1 + 0.25 * u)
    outline = (np.abs(v) < half) | ((np.abs(v) < 0.06) & (u > -1) & (u < 0))
    veins = ((u - 0.9 * np.abs(v)) / rng.uniform(0.28, 0.33) + rng.uniform()) % 1 < 0.36
    return outline, 1.0 - (veins | (np.abs(v) < 0.06))


def starfish(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Five arms, each with a row of dots."""
    angle, radius = np.arctan2(u, -v), np.hypot(u, v)
    arm = (angle / (2 * np.pi / 5) + 0.5) % 1 - 0.5
    outline = radius < 0.98 / (1 + 3.4 * np.abs(arm) ** 1.1)
    pitch = rng.uniform(0.24, 0.28)
    along = (radius * np.cos(arm * 2 * np.pi / 5) / pitch + 0.5) % 1 - 0.5
    aside = radius * np.sin(arm * 2 * np.pi / 5) / pitch
    return outline, along**2 + aside**2 < 0.36**2


def tyre(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Ring with treads that point outwards; what lies behind shows through its hole."""
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    outline = (radius < 0.95) & (radius > 0.46)
    treads = (angle / (2 * np.pi) * int(rng.integers(11, 14)) + rng.uniform()) % 1 < 0.5
    return outline, treads & (radius > 0.58)


def block(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Thick board with grain that bends around a knot."""
    outline = (np.abs(u) < 0.95) & (np.abs(v) < 0.58)
    knot_u, knot_v = rng.uniform(-0.4, 0.4), rng.uniform(-0.2, 0.2)
    bend = 0.24 * np.exp(-((u - knot_u) ** 2) / 0.12) * np.tanh((v - knot_v) / 0.15)
    grain = np.sin(2 * np.pi * (v - bend + 0.05 * np.sin(3 * u)) / rng.uniform(0.26, 0.31) + rng.uniform(0, 2 * np.pi))
    return outline, np.clip(0.5 + 0.9 * grain, 0, 1)


def tent(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Triangle with zigzag stripes and a dark entrance."""
    outline = (v < 0.75) & (v > -0.9) & (np.abs(u) < 0.98 * (v + 0.9) / 1.65)
    zigzag = np.abs((u / rng.uniform(0.46, 0.54) + rng.uniform()) % 1 - 0.5) * 0.5
    stripes = ((v + zigzag) / rng.uniform(0.36, 0.42) + rng.uniform()) % 1 < 0.5
    entrance = (v > 0.25) & (np.abs(u) < 0.4 * (v - 0.25))
    return outline, stripes & ~entrance


def crescent(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Drawing:
    """Crescent under a net of crossed lines."""
    outline = (u**2 + v**2 < 0.95**2) & ((u - 0.5) ** 2 + v**2 > 0.62**2)
    pitch = rng.uniform(0.30, 0.36)
    net = (((u + v) / pitch + rng.uniform()) % 1 < 0.3) | (((u - v) / pitch + rng.uniform()) % 1 < 0.3)
    return outline, 1.0 - net


# The place in this tuple, from 1, is the category's id in the annotations; 0 is the background.
CATEGORIES: tuple[Category, ...] = (
    house, fish, mushroom, balloon, leaf, starfish, tyre, block, tent, crescent,
)  # fmt: skip
CATEGORY_NAMES: tuple[str, ...] = tuple(category.__name__ for category in CATEGORIES)
