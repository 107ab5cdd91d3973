"""Frames as the published processors of videos prepare them: what folders say, and live."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_preprocess import odd_pictures, processor, write

from mlm_jax.config import UserError
from mlm_jax.pretrained.pixels import DEFAULTS, load_pixels, pixels_of, save_pixels

VIVIT = {"crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_normalize": True,
         "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
         "image_processor_type": "VivitImageProcessor", "image_std": [0.5, 0.5, 0.5],
         "offset": True, "resample": 2, "rescale_factor": 0.00784313725490196,
         "size": {"shortest_edge": 256}}  # fmt: skip
TIMESFORMER = {"do_center_crop": True, "do_normalize": True, "do_resize": True,
               "feature_extractor_type": "VideoMAEFeatureExtractor", "resample": 2, "size": 224,
               "image_mean": [0.45, 0.45, 0.45], "image_std": [0.225, 0.225, 0.225]}  # fmt: skip


def test_grey_levels_of_vivit_go_to_minus_one_first(tmp_path: Path) -> None:
    inner = processor(tmp_path, VIVIT)
    assert (inner.mean, inner.std) == ((0.75,) * 3, (0.25,) * 3)
    assert (inner.resize, inner.crop) == (256, (224, 224))
    assert (
        inner
        == DEFAULTS["Vivit"]
        == processor(tmp_path, {"video_processor_type": "VivitVideoProcessor"})
    )
    low = processor(tmp_path, VIVIT | {"do_normalize": False})
    assert (low.mean, low.std) == ((0.5,) * 3, (0.5,) * 3)
    flat = processor(tmp_path, VIVIT | {"offset": False})
    assert (flat.mean, flat.std) == ((0.25,) * 3, (0.25,) * 3)


def test_the_processor_of_timesformer_is_that_of_videomae(tmp_path: Path) -> None:
    inner = processor(tmp_path, TIMESFORMER)
    assert (inner.resize, inner.crop, inner.mean) == (224, (224, 224), (0.45,) * 3)
    save_pixels(inner, tmp_path)
    assert load_pixels(tmp_path) == inner


@pytest.mark.parametrize("family", ["VideoMAE", "Vivit", "Timesformer"])
def test_what_is_written_is_read(family: Any, tmp_path: Path) -> None:
    inner = DEFAULTS[family]
    save_pixels(inner, tmp_path)
    found = load_pixels(tmp_path)
    for name in ("resize", "resample", "crop", "mean", "std"):
        assert getattr(found, name) == getattr(inner, name)


def test_the_file_of_videos_comes_first(tmp_path: Path) -> None:
    assert pixels_of(tmp_path, "VideoMAE") == DEFAULTS["VideoMAE"]
    write(tmp_path, {"preprocessor_config.json": TIMESFORMER})
    mean = {"video_processor_type": "VideoMAEVideoProcessor", "image_mean": 0.25}
    write(tmp_path, {"video_preprocessor_config.json": mean})
    assert pixels_of(tmp_path, "VideoMAE").mean == (0.25, 0.25, 0.25)
    write(tmp_path, {"processor_config.json": {"video_processor": mean | {"image_mean": 0.75}}})
    assert pixels_of(tmp_path, "VideoMAE").mean == (0.75, 0.75, 0.75)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (VIVIT | {"rescale_factor": 1 / 255}, "rescale_factor .* 1/127.5"),
        (TIMESFORMER | {"offset": True}, "offset is not supported"),
    ],
)
def test_other_scales_are_refused(values: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        processor(tmp_path, values)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["VideoMAE", "Vivit"])
def test_live_frames(name: str, tmp_path: Path) -> None:
    """As published, as by default, and what is written here."""
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, f"{name}ImageProcessorPil", None)
    cls = cls or getattr(transformers, f"{name}ImageProcessor")
    said = {"VideoMAE": TIMESFORMER, "Vivit": VIVIT}[name]
    for values in ({"image_processor_type": f"{name}ImageProcessor"}, said):
        inner = processor(tmp_path, values)
        read = cls.from_pretrained(tmp_path)
        save_pixels(inner, tmp_path)
        for outer in (read, cls.from_pretrained(tmp_path)):
            for picture in odd_pictures():
                frames = outer([np.array(picture)], return_tensors="np")["pixel_values"][0]
                wanted = np.moveaxis(frames[0], 0, -1)
                assert np.abs(inner.normalise(inner(picture)) - wanted).max() < 1e-5
