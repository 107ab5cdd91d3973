"""The mark is read back after compression and cropping, is not seen, and is not found by chance."""

import io

import numpy as np
import pytest
from PIL import Image

from mlm_jax.watermark import RARE, mark, marked
from mlm_jax.world.grade import find
from mlm_jax.world.render import render
from mlm_jax.world.scene import sample

COUNT = 60


def jpeg(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def cropped(picture: np.ndarray, seed: int = 0) -> np.ndarray:
    """Nine tenths of each side, from anywhere."""
    rows, columns = (round(0.9 * side) for side in picture.shape[:2])
    rng = np.random.default_rng(seed)
    y, x = rng.integers(picture.shape[0] - rows + 1), rng.integers(picture.shape[1] - columns + 1)
    return picture[y : y + rows, x : x + columns]


def rescaled(picture: np.ndarray) -> np.ndarray:
    """To twice the size and back."""
    height, width = picture.shape[:2]
    large = Image.fromarray(picture).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    return np.asarray(large.resize((width, height), Image.Resampling.BICUBIC))


def decibels(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((one.astype(float) - two) ** 2).mean()))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [render(sample(np.random.default_rng(seed))) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def with_mark(pictures) -> list[np.ndarray]:
    return [mark(picture) for picture in pictures]


CHANGES = {
    "none": lambda picture: picture,
    "jpeg": jpeg,
    "crop": cropped,
    "both": lambda picture: jpeg(cropped(picture, 1)),
    "scale": rescaled,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_mark_is_read_back(with_mark, change):
    found = [marked(CHANGES[change](picture)).ours for picture in with_mark]
    assert np.mean(found) >= 0.98


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_found_without_it(pictures, change):
    """The same check as above, which fails."""
    found = [marked(CHANGES[change](picture)) for picture in pictures]
    assert not any(each.ours for each in found)
    assert np.mean([each.chance < 0.1 for each in found]) < 0.25


def test_another_key_does_not_find_it(pictures, with_mark):
    assert not any(marked(picture, key=5).ours for picture in with_mark)
    other = mark(pictures[0], key=5)
    assert marked(other, key=5).ours
    assert not marked(other).ours


def test_the_chance_says_how_sure_it_is(pictures, with_mark):
    plain, found = marked(pictures[0]), marked(with_mark[0])
    assert 0 <= found.chance < RARE <= plain.chance <= 1
    assert found.score > plain.score
    assert marked(mark(pictures[0], strength=0.0)).chance == plain.chance


def test_the_mark_is_not_seen(pictures, with_mark):
    assert min(map(decibels, with_mark, pictures)) > 36
    apart = [abs(a.astype(int) - b).max() for a, b in zip(with_mark, pictures, strict=True)]
    assert max(apart) <= 16


def test_the_grader_sees_the_same(pictures, with_mark):
    def names(picture):
        return [(thing.shape, thing.colour, thing.size) for thing in find(picture)]

    assert [*map(names, with_mark)] == [*map(names, pictures)]


def test_colours_but_for_their_grey_part_stay():
    grey = np.random.default_rng(0).integers(60, 190, (48, 48, 3)).astype(np.uint8)
    change = mark(grey).astype(int) - grey
    assert (change == change[..., :1]).all()
    assert change.any()


def plain(height: int, width: int, seed: int) -> np.ndarray:
    """Of one colour."""
    colour = np.random.default_rng(seed).integers(0, 256, 3).astype(np.uint8)
    return np.broadcast_to(colour, (height, width, 3))


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white(level):
    assert marked(cropped(jpeg(mark(np.full((48, 48, 3), level, np.uint8))))).ours


@pytest.mark.parametrize("size", [(48, 48), (48, 75), (130, 96), (256, 256)])
def test_pictures_of_one_colour_of_any_size(size):
    found = [marked(cropped(jpeg(mark(plain(*size, seed))), seed)).ours for seed in range(8)]
    assert all(found)
    assert not any(marked(plain(*size, seed)).ours for seed in range(8))


def test_more_is_added_where_a_picture_is_rough():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (48, 48, 3)).astype(np.uint8)
    smooth = np.full((48, 48, 3), 128, np.uint8)
    assert decibels(mark(noise), noise) + 5 < decibels(mark(smooth), smooth)
    assert marked(mark(noise)).ours


def test_what_is_marked_again_is_still_found(with_mark):
    assert marked(mark(with_mark[0])).ours


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((48, 48, 3), np.float32),
        np.zeros((48, 48), np.uint8),
        np.zeros((48, 48, 4), np.uint8),
        np.zeros((47, 60, 3), np.uint8),
        np.zeros((2, 48, 48, 3), np.uint8),
    ],
)
def test_bad_input(picture):
    with pytest.raises(ValueError, match="must be uint8"):
        mark(picture)
    with pytest.raises(ValueError, match="must be uint8"):
        marked(picture[:, :39])
