"""Pictures: outlines against polygons and a circle point by point; one scene at all sizes."""

from math import cos, pi, sin

import numpy as np
import pytest
from PIL import Image

from mlm_jax.world import scene
from mlm_jax.world.render import coverage, render
from mlm_jax.world.scene import SHAPES, Object

INNER = 1.08 * cos(2 * pi / 5) / cos(pi / 5)  # radius of a pentagram's inner corners
CORNERS = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0, -0.95), (1, 0.8), (-1, 0.8)],
    "diamond": [(0, -1.05), (1.05, 0), (0, 1.05), (-1.05, 0)],
    "star": [
        (r * sin(pi * k / 5), -r * cos(pi * k / 5))
        for k in range(10)
        for r in [(1.08, INNER)[k % 2]]
    ],
    "cross": [
        *[(-0.33, -0.95), (0.33, -0.95), (0.33, -0.33), (0.95, -0.33), (0.95, 0.33), (0.33, 0.33)],
        *[
            (0.33, 0.95),
            (-0.33, 0.95),
            (-0.33, 0.33),
            (-0.95, 0.33),
            (-0.95, -0.33),
            (-0.33, -0.33),
        ],
    ],
}


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd rule, edge by edge."""
    if shape == "circle":
        return x**2 + y**2 < 0.97**2
    corners = CORNERS[shape]
    odd = np.zeros(np.broadcast(x, y).shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y1 != y2:
            odd ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return odd


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [0.1, 0.16])
def test_coverage_is_the_share_of_a_pixel_inside_the_outline(shape, radius):
    size, fine = 48, 16
    thing = Object(shape, "red", "", 0.4731, 0.5127, radius)
    whole = slice(0, size)
    drawn = coverage(thing, size, whole, whole)
    line = (np.arange(size * fine) + 0.5) / (size * fine)
    hit = inside(shape, (line[None] - thing.x) / radius, (line[:, None] - thing.y) / radius)
    exact = hit.reshape(size, fine, size, fine).mean((1, 3))
    assert abs(drawn - exact).max() < 0.36  # at a star's tips
    assert abs(drawn - exact).sum() < 0.06 * exact.sum()
    assert drawn.sum() == pytest.approx(exact.sum(), rel=0.04)


@pytest.mark.parametrize("seed", range(20))
def test_one_scene_looks_the_same_at_all_sizes(seed):
    drawn = scene.sample(np.random.default_rng(seed))
    small = render(drawn, 48).astype(float)
    for size in (32, 224, 512):
        picture = render(drawn, size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        shrunk = np.asarray(Image.fromarray(picture).resize((48, 48), Image.Resampling.BOX))
        if size > 48:
            assert abs(shrunk - small).mean() < 2


def test_objects_have_their_colour_and_the_rest_is_background():
    drawn = scene.sample(np.random.default_rng(3))
    picture = render(drawn, 96).astype(int)
    empty = render(drawn._replace(objects=()), 96).astype(int)
    touched = np.zeros((96, 96), bool)
    for thing in drawn.objects:
        centre = picture[int(thing.y * 96), int(thing.x * 96)]
        wanted = np.minimum(np.array(scene.COLOURS[thing.colour]) * thing.shade, 255)
        assert abs(centre - wanted).max() <= 1
        reach = int(1.2 * thing.radius * 96) + 2
        y, x = int(thing.y * 96), int(thing.x * 96)
        touched[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = True
    assert (picture[~touched] == empty[~touched]).all()


@pytest.mark.parametrize("size", [0, 31, 513])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="32 to 512"):
        render(scene.sample(np.random.default_rng(0)), size)
