"""Pictures as published processors prepare them: resize, centre crop, scale, normalise.

Resizing is Pillow's, on grey levels, as in the reference's Pillow processors; its torchvision
processors differ by a few grey levels. Defaults are those of the published classes
(`image_processing_pil_*.py` of transformers 5), which a checkpoint's own file overrides.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from mlm_jax.config import UserError
from mlm_jax.pretrained.files import CONFIG, read_json

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
VIDEO = "video_preprocessor_config.json"
MAX_EDGE = 8192
MAX_PIXELS = 64_000_000
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Family = Literal["ViT", "DeiT", "CLIP", "Siglip", "Blip", "VideoMAE", "Vivit", "Timesformer"]
Size = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Pixels:
    """One published image processor."""

    family: Family = "ViT"
    """Its class, without `ImageProcessor` or `VideoProcessor`."""
    resize: Size | int | None = (224, 224)
    """Height and width, or the shorter edge, or None: as the picture is."""
    resample: Image.Resampling = Image.Resampling.BILINEAR
    crop: Size | None = None
    """Height and width around the centre, after resizing; zeros where the picture is smaller."""
    mean: tuple[float, float, float] = HALF
    """Of grey levels / 255."""
    std: tuple[float, float, float] = HALF

    @property
    def size(self) -> Size | None:
        """Height and width of what comes out; None where they follow the picture."""
        if self.crop is None and not isinstance(self.resize, int):
            return self.resize
        return self.crop

    def __call__(
        self, picture: Image.Image | UInt8[np.ndarray, "H W 3"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Resized and cropped, in grey levels. Raises: UserError where that becomes too large."""
        image = rgb(picture if isinstance(picture, Image.Image) else Image.fromarray(picture))
        if self.resize is not None:
            image = image.resize(self._resized(*image.size), self.resample)
        array = np.array(image)
        return array if self.crop is None else centre(array, self.crop)

    def _resized(self, width: int, height: int) -> Size:
        """Width and height; a longer edge is cut down to whole pixels, as in torchvision."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        edge = self.resize or 0
        wide = max(edge, int(edge * width / height)), max(edge, int(edge * height / width))
        if wide[0] * wide[1] > MAX_PIXELS:
            raise UserError(
                f"a picture of {width} x {height} becomes {wide[0]} x {wide[1]} with the shorter"
                f" edge at {edge}; at most {MAX_PIXELS:,} pixels are accepted"
            )
        return wide

    def normalise(self, image: UInt8[np.ndarray, "*shape 3"]) -> Float32[np.ndarray, "*shape 3"]:
        """(grey level / 255 - mean) / std, with the reference's roundings."""
        levels = (np.arange(256) * (1 / 255)).astype(np.float32)[:, None]
        table = (levels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return table[image, np.arange(3)]  # table: 256 3

    def to_json(self) -> dict[str, Any]:
        """What preprocessor_config.json says, every field that matters.

        The classes of transformers 4 crop and keep proportions only in CLIP, DeiT crops only, and
        those of videos. ViViT's takes grey levels to -1 to 1 before the mean and the std.
        """
        video = {"VideoMAE": "VideoMAE", "Timesformer": "VideoMAE", "Vivit": "Vivit"}
        only_clip = isinstance(self.resize, int) or (self.crop and self.family != "DeiT")
        kind = video.get(self.family) or ("CLIP" if only_clip else self.family)
        offset = self.family == "Vivit"
        size = {"shortest_edge": self.resize} if isinstance(self.resize, int) else None
        if isinstance(self.resize, tuple):
            size = dict(zip(("height", "width"), self.resize, strict=True))
        written = {
            "image_processor_type": f"{kind}ImageProcessor",
            "do_convert_rgb": True,
            "do_resize": self.resize is not None,
            "size": size,
            "resample": int(self.resample),
            "do_center_crop": self.crop is not None,
            "crop_size": self.crop and dict(zip(("height", "width"), self.crop, strict=True)),
            "do_rescale": True,
            "rescale_factor": 1 / 127.5 if offset else 1 / 255,
            "offset": offset or None,
            "do_normalize": True,
            "image_mean": [2 * m - 1 for m in self.mean] if offset else list(self.mean),
            "image_std": [2 * s for s in self.std] if offset else list(self.std),
        }
        return {key: value for key, value in written.items() if value is not None}


DEFAULTS: dict[str, Pixels] = {
    "ViT": Pixels("ViT"),
    "DeiT": Pixels("DeiT", (256, 256), Image.Resampling.BICUBIC, (224, 224)),
    "CLIP": Pixels("CLIP", 224, Image.Resampling.BICUBIC, (224, 224), CLIP_MEAN, CLIP_STD),
    "Siglip": Pixels("Siglip", (224, 224), Image.Resampling.BICUBIC),
    "Blip": Pixels("Blip", (384, 384), Image.Resampling.BICUBIC, None, CLIP_MEAN, CLIP_STD),
    "VideoMAE": Pixels("VideoMAE", 224, crop=(224, 224)),
    "Vivit": Pixels("Vivit", 256, crop=(224, 224), mean=(0.75, 0.75, 0.75), std=(0.25, 0.25, 0.25)),
    "Timesformer": Pixels(
        "Timesformer", 224, crop=(224, 224), mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
}
MODELS = {"vit": "ViT", "vit_mae": "ViT", "deit": "DeiT", "clip": "CLIP",
          "clip_vision_model": "CLIP", "git": "CLIP", "siglip": "Siglip",
          "siglip_vision_model": "Siglip", "paligemma": "Siglip", "blip": "Blip",
          "videomae": "VideoMAE", "vivit": "Vivit", "timesformer": "Timesformer"}  # fmt: skip
SQUARE = ("ViT", "DeiT", "Blip")
"""Families in which an old file's single number is both edges, and not the shorter one."""
REFUSED = ("pad_size", "offset", "crop_pct", "use_square_size", "do_flip_channel_order",
           "do_image_splitting", "do_thumbnail", "do_align_long_axis", "do_affine_transform",
           "max_num_patches")  # fmt: skip
"""What changes the picture in some processor and is not done here. `size_divisor` is not among
them: published BLIP files have it, and no class here reads it."""


def rgb(image: Image.Image) -> Image.Image:
    """Transparency on white, as transformers 5; 4 drops it. Without a copy where it is RGB."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def centre(image: UInt8[np.ndarray, "H W 3"], size: Size) -> UInt8[np.ndarray, "h w 3"]:
    """The middle; of an odd rest the smaller half is cut off, or the larger half put, in front."""
    out = np.zeros((*size, 3), np.uint8)
    starts = [(have - want) // 2 for have, want in zip(image.shape, size, strict=False)]
    top, left = (max(0, start) for start in starts)
    part = image[top : top + size[0], left : left + size[1]]
    down, right = (max(0, -start) for start in starts)
    out[down : down + part.shape[0], right : right + part.shape[1]] = part
    return out


def load_pixels(folder: Path | str) -> Pixels:
    """The image processor of a published folder.

    Raises: UserError where there is none, and listing all that is wrong or not supported in it.
    """
    path, values = _find(Path(folder))
    values = {key: value for key, value in values.items() if value is not None}
    pixels, wrong = _parse(values, _family(values, Path(folder)))
    if wrong:
        raise UserError(f"{path}:\n" + "\n".join(f"  {line}" for line in wrong))
    return pixels


def pixels_of(folder: Path, family: Family) -> Pixels:
    """As the folder says, or where it says nothing as the class is by itself. Raises: UserError."""
    return load_pixels(folder) if _found(folder) else DEFAULTS[family]


def save_pixels(pixels: Pixels, folder: Path | str) -> None:
    """Write preprocessor_config.json, readable by transformers 4 and 5; whole or not at all."""
    text = json.dumps(pixels.to_json(), indent=2) + "\n"
    part = Path(folder) / f"{PREPROCESSOR}.part"
    part.write_text(text, encoding="utf-8")
    part.replace(Path(folder) / PREPROCESSOR)


def _find(folder: Path) -> tuple[Path, dict[str, Any]]:
    found = _found(folder)
    if found is None:
        raise UserError(
            f"{folder} has neither {PREPROCESSOR} nor a {PROCESSOR} with `image_processor`: how"
            " its pictures are resized and normalised is not known; copy it from the checkpoint"
        )
    return found


def _found(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    if (folder / PROCESSOR).is_file():
        whole = read_json(folder / PROCESSOR)
        nested = whole.get("image_processor", whole.get("video_processor"))
        if isinstance(nested, dict):
            return folder / PROCESSOR, nested
    paths = (path for path in (folder / VIDEO, folder / PREPROCESSOR) if path.is_file())
    return next(((path, read_json(path)) for path in paths), None)


def _family(values: Mapping[str, Any], folder: Path) -> str:
    """The class without its ending; by the model in config.json where no class is named."""
    keys = ("video_processor_type", "image_processor_type", "feature_extractor_type")
    name = next((values[key] for key in keys if key in values), None)
    if name is not None:
        return re.sub("((Image|Video)Processor|FeatureExtractor)(Fast|Pil)?$", "", str(name))
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if isinstance(config.get("encoder"), dict):
        config = config["encoder"]
    model = str(config.get("model_type", "no class"))
    return MODELS.get(model, model)


def _parse(values: Mapping[str, Any], family: str) -> tuple[Pixels, list[str]]:
    """The processor, and what is wrong: without that list being empty it means nothing."""
    shifts = family == "Vivit"
    refused = [key for key in REFUSED if values.get(key) and not (shifts and key == "offset")]
    wrong = [f"{key} is not supported" for key in refused]
    if family not in DEFAULTS:
        known = ", ".join(f"{name}ImageProcessor" for name in DEFAULTS)
        wrong.append(f"image_processor_type: {family} is not supported; accepted: {known}")
    base = DEFAULTS.get(family, DEFAULTS["ViT"])

    def take(key: str, parse: Callable[[Any], T], default: T) -> T:
        try:
            return parse(values[key]) if key in values else default
        except ValueError as error:
            wrong.append(f"{key} is {json.dumps(values[key])}; accepted: {error}")
            return default

    def edges(value: Any) -> Size | int | None:
        return _edges(value, family in SQUARE, alone=True)

    resize: Size | int | None = None
    if take("do_resize", _flag, True):
        resize = take("size", edges, base.resize)
    crop = None
    if take("do_center_crop", _flag, base.crop is not None):
        crop = take("crop_size", _crop, base.crop)
        if crop is None:
            wrong.append("do_center_crop: true wants a crop_size")
    mean, std = (HALF, HALF) if shifts else (base.mean, base.std)
    mean, std = take("image_mean", _mean, mean), take("image_std", _std, std)
    if not take("do_normalize", _flag, True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if not take("do_rescale", _flag, True):  # the mean and std of the file are of grey levels
        mean, std = _scaled(mean, 255), _scaled(std, 255)
    elif shifts:  # they are of grey levels / 127.5 - 1
        take("rescale_factor", partial(_factor, parts=127.5), 1 / 127.5)
        low = 1 if take("offset", _flag, True) else 0
        mean, std = _scaled(mean, 2, low), _scaled(std, 2)
    else:
        take("rescale_factor", _factor, 1 / 255)
    resample = take("resample", _resample, base.resample)
    pixels = Pixels(base.family, resize, resample, crop, mean, std)
    if take("do_pad", _flag, False) and pixels.size is None:
        wrong.append("do_pad is not supported where pictures keep their proportions")
    return pixels, wrong


def _scaled(
    three: tuple[float, float, float], parts: float, low: float = 0
) -> tuple[float, float, float]:
    return (three[0] + low) / parts, (three[1] + low) / parts, (three[2] + low) / parts


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _edges(value: Any, square: bool, *, alone: bool) -> Size | int:
    """A size in any of its published forms; a single number is the shorter edge, or both."""
    if isinstance(value, dict):
        value = {key: edge for key, edge in value.items() if edge is not None}
        if alone and value.keys() == {"shortest_edge"}:
            value, square = value["shortest_edge"], False
        elif value.keys() == {"height", "width"}:
            value = [value["height"], value["width"]]
    both = value if isinstance(value, list) else [value, value]
    if len(both) != 2 or not all(type(edge) is int and 1 <= edge <= MAX_EDGE for edge in both):
        shorter = ' or {"shortest_edge"}' if alone else ""
        raise ValueError(f'a number, [height, width], {{"height", "width"}}{shorter}, 1-{MAX_EDGE}')
    return (both[0], both[1]) if square or isinstance(value, list) else both[0]


def _crop(value: Any) -> Size | None:
    both = _edges(value, True, alone=False)
    return (both, both) if isinstance(both, int) else both


def _mean(value: Any) -> tuple[float, float, float]:
    three = value if isinstance(value, list) else [value] * 3
    good = [v for v in three if type(v) in (int, float) and math.isfinite(v)]
    if len(three) != 3 or len(good) != 3:
        raise ValueError("three numbers, or one for all")
    return float(good[0]), float(good[1]), float(good[2])


def _std(value: Any) -> tuple[float, float, float]:
    three = _mean(value)
    if min(three) <= 0:
        raise ValueError("three numbers above 0, or one for all")
    return three


def _factor(value: Any, parts: float = 255) -> float:
    if type(value) is not float or not math.isclose(value, 1 / parts, rel_tol=1e-7):
        raise ValueError(f"1/{parts:g}, {1 / parts}")
    return value


def _resample(value: Any) -> Image.Resampling:
    if type(value) is not int or value not in list(Image.Resampling):
        known = ", ".join(f"{int(kind)} {kind.name.lower()}" for kind in Image.Resampling)
        raise ValueError(known)
    return Image.Resampling(value)
