"""Of pictures drawn for a text those that a run of CLIP finds nearest (2102.12092, section 2.6)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from mlm_jax.config import UserError
from mlm_jax.data.transforms import decode_for
from mlm_jax.drawing import Drawing, Pixels, draw, parts_of, read_prompts
from mlm_jax.generate import Params
from mlm_jax.models.clip import Clip
from mlm_jax.trained import Trained

Vectors = Float[np.ndarray, "N E"]


def best(
    trained: Trained,
    clip: Trained,
    prompts: Sequence[str],
    *,
    among: int,
    how: Drawing | None = None,
    seed: int = 0,
) -> Pixels:
    """Of `among` pictures of each prompt, of which `draw` makes the first, the nearest.

    Raises: UserError.
    """
    require_sight(clip, drawn_shape(trained))
    words = told(clip, prompts)  # what it refuses it does before the drawing
    kept = draw(trained, prompts, how=how, seed=seed)
    highest = cosines(seen(clip, kept), words)
    for turn in range(1, among):
        made = draw(trained, prompts, how=how, seed=seed + turn)
        scores = cosines(seen(clip, made), words)
        better = scores > highest
        kept[better], highest[better] = made[better], scores[better]
    return kept


def ranked(clip: Trained, prompts: Sequence[str], pictures: Pixels) -> Float[np.ndarray, " N"]:
    """The cosine of each picture and its prompt. Raises: UserError."""
    return cosines(seen(clip, pictures), told(clip, prompts))


def cosines(one: Vectors, other: Vectors) -> Float[np.ndarray, " N"]:
    found: Float[np.ndarray, " N"] = (one * other).sum(-1)
    return found


def told(clip: Trained, prompts: Sequence[str]) -> Vectors:
    """The unit vectors of prompts. Raises: UserError."""
    model = clip_of(clip)
    rows = read_prompts(clip, prompts)
    parts = (
        embed(model, clip.params, "read_captions", {key: row[here] for key, row in rows.items()})
        for here in parts_of(len(prompts))
    )
    return np.concatenate([*parts])[: len(prompts)]


def seen(clip: Trained, pictures: Pixels) -> Vectors:
    """The unit vectors of pictures, or clips, decoded as it decodes its own. Raises: UserError."""
    model = clip_of(clip)
    require_sight(clip, pictures.shape[1:])
    decode = decode_for(clip.config.data, model.eyes.size)
    one = decode if model.sense == "image" else partial(frame_by_frame, decode)
    parts = (
        embed(model, clip.params, "see", np.stack([one(each) for each in pictures[here]]))
        for here in parts_of(len(pictures))
    )
    return np.concatenate([*parts])[: len(pictures)]


def frame_by_frame(
    decode: Callable[[np.ndarray], np.ndarray], clip: UInt8[np.ndarray, "T H W 3"]
) -> UInt8[np.ndarray, "T h w 3"]:
    return np.stack([decode(frame) for frame in clip])


@partial(jax.jit, static_argnames=("model", "method"))
def embed(model: Clip, params: Params, method: str, given: Any) -> Float[Array, "N E"]:
    vectors: Any = model.apply({"params": params}, given, method=method)
    return vectors


def require_sight(clip: Trained, shape: Sequence[int]) -> None:
    """Raises: UserError for a CLIP of pictures where these are clips, or the other way round."""
    eyes = clip_of(clip).eyes.takes.shape
    if eyes[:-3] != tuple(shape[:-3]):
        raise UserError(f"{clip.path} sees {kind_of(eyes)}, and these are {kind_of(shape)}")


def kind_of(shape: Sequence[int]) -> str:
    return f"clips of {shape[0]} frames" if len(shape) > 3 else "pictures"


def drawn_shape(drawer: Trained) -> tuple[int, ...]:
    """Of one picture, or clip, that a run draws."""
    model = drawer.config.model
    shape: tuple[int, ...] = getattr(model, model.sense).takes.shape
    return shape


def clip_of(run: Trained) -> Clip:
    """Raises: UserError."""
    model = run.config.model
    if not isinstance(model, Clip):
        raise UserError(f"{run.path} is a {type(model).__name__}, no Clip that could rank")
    return model
