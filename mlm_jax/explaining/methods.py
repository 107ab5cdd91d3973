"""Every way to explain a word, by name, as maps of the size of what is seen.

A map of a picture is (height, width), of a clip (frames, height, width), of a sound (frames, bands
of the mel scale). What is over 0 speaks for the word; attention is never under 0.
"""

from collections.abc import Mapping
from functools import lru_cache, partial

import jax
import numpy as np
from jaxtyping import Array, Float

from mlm_jax.explaining.asked import Asked, Seen, blank, logits
from mlm_jax.explaining.attention import Cells, cells_of, looks, recorded, rollout
from mlm_jax.explaining.gradients import STEPS, gradient_input, integrated, relevance
from mlm_jax.explaining.occlusion import occlusion
from mlm_jax.generate import Params
from mlm_jax.models.multimodal import Multimodal

Maps = dict[str, Float[np.ndarray, "B W *size"]]

METHODS = {
    "attention": "where the decoder looked as it was about to write the word: the mean of all"
    " layers and heads",
    "rollout": "attention followed back through decoder, fusion and encoders to the patches",
    "relevance": "gradient x attention: only what speaks for the word, followed back likewise",
    "gradient": "gradient x input: what each pixel adds, were the model a straight line",
    "integrated": "integrated gradients: what each pixel adds on the way from a blank picture",
    "occlusion": "how much less likely the word is where a window is blanked",
}
"""By name, what a map shows."""


def explain(
    model: Multimodal, params: Params, asked: Asked, method: str, *, steps: int = STEPS
) -> Maps:
    """The maps of each word by one of METHODS, by sense."""
    if method in ("attention", "rollout", "relevance"):
        return enlarged(model, asked.seen, in_cells(model, params, asked, method))
    if method == "occlusion":
        return as_numpy(occlusion(model, params, asked, blank(asked.seen)))
    if method == "gradient":
        found = gradient_input(model, params, asked)
    else:
        found = integrated(model, params, asked, blank(asked.seen), steps=steps)
    return as_numpy({key: x if key == "audio" else x.sum(-1) for key, x in found.items()})


def in_cells(
    model: Multimodal, params: Params, asked: Asked, method: str
) -> Float[np.ndarray, "B W c"]:
    """Maps of attention before they are enlarged."""
    if method == "relevance":
        return relevance(model, params, asked)
    weights = recorded(model, params, asked)
    if method == "rollout":
        return rollout(model, weights, asked.spans)
    return looks(model, weights, asked.spans).mean((2, 3))


def by_layer(model: Multimodal, params: Params, asked: Asked) -> Maps:
    """What each layer and head of the decoder looked at: by sense (B, W, L, H, ...)."""
    weights = recorded(model, params, asked)
    return enlarged(model, asked.seen, looks(model, weights, asked.spans))


def as_numpy(found: Mapping[str, Array]) -> Maps:
    return {key: np.asarray(x, np.float32) for key, x in found.items()}


# --- from cells to the size of what is seen ---


def enlarged(model: Multimodal, seen: Seen, flow: Float[np.ndarray, "*B c"]) -> Maps:
    """By sense (*B, ...), each cell at its middle and between middles in proportion."""
    cells = cells_of(model)
    ends = np.cumsum([each.number for each in cells])[:-1]
    parts = np.split(flow, ends, axis=-1)
    return {
        each.sense: enlarge(part, each, seen[each.sense].shape[1:])
        for each, part in zip(cells, parts, strict=True)
    }


def enlarge(
    flow: Float[np.ndarray, "*B c"], cells: Cells, shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """`shape` is that of what is seen, with its channels where it has any."""
    grid = flow.reshape(*flow.shape[:-1], *cells.grid)
    times, rows, columns = cells.grid
    height, width = shape[::-1] if cells.sense == "audio" else shape[-3:-1]
    down = stretch(rows, height, cells.step[0], cells.first)
    across = stretch(columns, width, cells.step[1], cells.first)
    wide = np.einsum("...da,hd,wa->...hw", grid, down, across, optimize=True)
    if cells.sense == "video":
        return np.repeat(wide, shape[0] // times, axis=-3)
    one = wide[..., 0, :, :]
    return one.swapaxes(-1, -2) if cells.sense == "audio" else one


@lru_cache(maxsize=16)
def stretch(cells: int, size: int, step: int, first: float) -> Float[np.ndarray, "size cells"]:
    """Weights of cells at each of `size` pixels, in proportion between their middles (see `Cells`),
    those at the ends held."""
    at = np.clip((np.arange(size, dtype=np.float32) - first) / step, 0, cells - 1)
    apart = abs(at[:, None] - np.arange(cells, dtype=np.float32))
    return np.maximum(1 - apart, 0)


def fresh(model: Multimodal, asked: Asked, seed: int) -> Params:
    """Those parameters that are explained, as training begins with them, for the same shapes."""
    start = jax.jit(partial(model.init, method=logits))
    variables = start(jax.random.key(seed), asked.batch)
    return variables["params"]
