"""What each word looked at: the recorded weights of attention, by layer and head, and rolled out.

A *flow* (B, N, c) says how much of each of N tokens comes from each of the c cells of what is seen:
patches of a picture, tubelets of a clip, patches or steps of a spectrogram, one sense after the
other. It starts as the identity where a token is its cell, and as zeros at words and learned
tokens, which show nothing. Each attention moves it on by one of the rules below.

What a map means is another thing in each kind of fusion:

cross_attention  the decoder looks at the patches themselves, and at words that have read them
joint            at patches that have read the text, and the reverse: places are kept
gated            at the patches themselves; how far a gate is open is not counted
prefix           at the patches before its own words, by self-attention
resampler        at learned queries: what is shown is where the queries it looks at have looked
bottleneck       at the few shared tokens: where these have looked
concat           at one vector: the mean of all patches, so that the map is the same for each word
                 up to its strength; only gradients and occlusion tell words apart
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from mlm_jax.encoders import AudioEncoder, ImageEncoder, VideoEncoder
from mlm_jax.explaining.asked import Asked, scores, senses_of
from mlm_jax.fusion import Fusion
from mlm_jax.generate import Params
from mlm_jax.models.multimodal import Multimodal

Weights = Mapping[str, Any]
"""A tree of modules; at each attention {"weights": (B, H, N, M)}, or (B, N, M) without heads."""
Flow = Float[np.ndarray, "B N c"]
Rule = Callable[[Flow, Float[np.ndarray, "B N M"], Flow], Flow]
"""The flow of tokens that have read others: of (their own, by which weights, that of the others)"""

PLACED = ("joint", "cross_attention", "gated", "prefix")
"""Kinds of fusion where the decoder looks at tokens that each stand for a place."""


def rolled(own: Flow, weights: Float[np.ndarray, "B N M"], others: Flow) -> Flow:
    """Half stays, by the residual (attention rollout, arXiv:2005.00928, section 3)."""
    return (own + weights @ others) / 2


def added(own: Flow, weights: Float[np.ndarray, "B N M"], others: Flow) -> Flow:
    """All stays, and what is relevant comes on top (arXiv:2103.15679, equations 6 to 10)."""
    return own + weights @ others


def kept(own: Flow, weights: Float[np.ndarray, "B N M"], others: Flow) -> Flow:
    """Each token stands for its own place alone."""
    del weights, others
    return own


# --- from what is seen to the words ---


class Read(NamedTuple):
    """The flows of what the decoder reads (see `Fused`), None where there is none."""

    memory: Flow | None = None
    gated: Flow | None = None
    prefix: Flow | None = None


def recorded(model: Multimodal, params: Params, asked: Asked) -> Weights:
    """The weights of all attentions; scanned blocks one by one."""
    return on_host(apart(_recorded(model, params, asked)))


@partial(jax.jit, static_argnames="model")
def _recorded(model: Multimodal, params: Params, asked: Asked) -> Weights:
    weights: Weights = scores(model, params, asked, {})[1]
    return weights


def on_host(weights: Weights) -> dict[str, Any]:
    """As float32 of numpy: the products below are small, and none of them waits for a compiler."""
    return jax.tree.map(lambda x: np.asarray(x, np.float32), dict(weights))


def looks(
    model: Multimodal, weights: Weights, spans: Float[Array, "B W S"]
) -> Float[np.ndarray, "B W L H c"]:
    """What each word looked at in each layer of the decoder by each head: (B, W, L, H, c).

    Rows of a word's tokens that were about to be written, in their mean. Where the decoder looks at
    tokens that stand for places these are taken as the places; else their flows (see above).
    """
    mean = by_heads(weights)
    rule = kept if model.fusion.kind in PLACED else rolled
    read = fused(model.fusion, mean.get("fusion", {}), seen(model, mean, kept), rows(mean), rule)
    return each(spans, _looks(weights["decoder"]["body"], read))


def _looks(blocks: Weights, read: Read) -> Float[np.ndarray, "B S L H c"]:
    layers = []
    for block in ordered(blocks):
        if read.memory is not None:
            one = np.einsum("bhsm,bmc->bshc", block["cross"]["weights"], read.memory)
        elif read.gated is not None:
            one = np.einsum("bhsm,bmc->bshc", block["gated"]["weights"], read.gated)
            one = one[:, read.prefix.shape[1] :] if read.prefix is not None else one
        else:
            assert read.prefix is not None
            count = read.prefix.shape[1]
            before = block["attention"]["weights"][:, :, count:, :count]
            one = np.einsum("bhsm,bmc->bshc", before, read.prefix)
        layers.append(one)
    return np.stack(layers, axis=2)


def rollout(
    model: Multimodal, weights: Weights, spans: Float[Array, "B W S"]
) -> Float[np.ndarray, "B W c"]:
    """Attention rollout from the words through decoder, fusion and encoders: (B, W, c)."""
    return each(spans, flow(model, by_heads(weights), rolled))


def flow(model: Multimodal, weights: Weights, rule: Rule) -> Float[np.ndarray, "B S c"]:
    """Of each token that the decoder wrote, from each cell; `weights` without heads."""
    text = rows(weights)
    read = fused(model.fusion, weights.get("fusion", {}), seen(model, weights, rule), text, rule)
    blocks = weights["decoder"]["body"]
    first = ordered(blocks)[0]["attention"]["weights"].shape[1]
    some = next(part for part in read if part is not None)
    begin = np.zeros((len(some), first, some.shape[2]), np.float32)
    count = 0
    if read.prefix is not None:
        count = read.prefix.shape[1]
        begin[:, :count] = read.prefix
    return through(blocks, begin, rule, memory=read.memory, gated=read.gated)[:, count:]


def through(
    blocks: Weights,
    own: Flow,
    rule: Rule,
    *,
    memory: Flow | None = None,
    gated: Flow | None = None,
) -> Flow:
    """The flow behind a Transformer, block by block as `Block` reads."""
    for block in ordered(blocks):
        if gated is not None:
            own = rule(own, block["gated"]["weights"], gated)
        own = rule(own, block["attention"]["weights"], own)
        if memory is not None:
            own = rule(own, block["cross"]["weights"], memory)
    return own


# --- fusion ---


def fused(fusion: Fusion, weights: Weights, image: Flow, words: int, rule: Rule) -> Read:
    """What `Fusion` makes of the flow of what is seen, and of so many words."""
    text = np.zeros((len(image), words, image.shape[2]), np.float32)
    kind = fusion.kind
    if kind == "concat":
        return Read(memory=image.mean(1, keepdims=True) / 2)  # the other half is the text
    if kind == "joint":
        both = np.concatenate([image, text], axis=1)
        return Read(memory=through(weights["body"], both, rule))
    if kind == "cross_attention":
        reader = through(weights["body"], text, rule, memory=image)
        if fusion.both_ways:
            image = through(weights["image_body"], image, rule, memory=text)
        return Read(memory=np.concatenate([image, reader], axis=1))
    if kind == "gated":
        return Read(gated=image, prefix=text)
    if kind == "prefix":
        return Read(prefix=np.concatenate([image, text], axis=1))
    few = np.zeros((len(image), fusion.latents, image.shape[2]), np.float32)
    if kind == "resampler":
        few = through(weights["body"], few, rule, memory=image)
    else:
        few = bottleneck(weights, fusion.body.depth, few, image, text, rule)
    return Read(memory=np.concatenate([few, text], axis=1))


def bottleneck(
    weights: Weights, depth: int, few: Flow, image: Flow, text: Flow, rule: Rule
) -> Flow:
    count = few.shape[1]
    for i in range(depth):
        sides = []
        for name, side in (("image", image), ("text", text)):
            own = np.concatenate([few, side], axis=1)
            sides.append(rule(own, weights[f"{name}_{i}"]["attention"]["weights"], own))
        image, text = (side[:, count:] for side in sides)
        few = (sides[0][:, :count] + sides[1][:, :count]) / 2
    return few


# --- encoders ---


class Cells(NamedTuple):
    """Where the cells of a sense lie: times, rows and columns; `extra` tokens stand before them.

    The middle of a cell is at pixel `first`, of the first cell, then every `step`: down, across.
    Of a spectrogram rows are bands of the mel scale, from below, and columns its frames.
    """

    sense: str
    extra: int
    grid: tuple[int, int, int]
    step: tuple[int, int]
    first: float

    @property
    def number(self) -> int:
        times, down, across = self.grid
        return times * down * across


def cells_of(model: Multimodal) -> list[Cells]:
    """One for each sense, in the order of their tokens."""
    return [
        Cells(key, len(encoder.extra), grid_of(encoder), *middles(encoder))
        for key, encoder in senses_of(model)
    ]


def middles(
    encoder: ImageEncoder | VideoEncoder | AudioEncoder,
) -> tuple[tuple[int, int], float]:
    """How far apart the middles of cells are, and where the first is, in pixels (or frames).

    A convolution of 3 and stride 2 that is padded by 1 looks at pixels 2i - 1 to 2i + 1: behind a
    convolutional stem cell i looks around pixel `patch` x i, its upper left corner.
    """
    patch = encoder.patch
    if not isinstance(encoder, AudioEncoder):
        return (patch, patch), 0.0 if encoder.stem == "conv" else (patch - 1) / 2
    if encoder.stem == "patch":
        return encoder.stride, (patch - 1) / 2
    return (encoder.mel.mels, encoder.step), 0.0


def grid_of(encoder: ImageEncoder | VideoEncoder | AudioEncoder) -> tuple[int, int, int]:
    if isinstance(encoder, VideoEncoder):
        return encoder.grid
    if isinstance(encoder, AudioEncoder) and encoder.stem != "patch":
        return 1, 1, -(-encoder.frames // encoder.step)
    return (1, *encoder.grid)


def seen(model: Multimodal, weights: Weights, rule: Rule) -> Flow:
    """The flow of the tokens of all senses, as `Multimodal.look` lines them up."""
    parts = [
        _seen(encoder, cells, weights[key], rule)
        for (key, encoder), cells in zip(senses_of(model), cells_of(model), strict=True)
    ]
    whole = sum(part.shape[2] for part in parts)
    before, lined = 0, []
    for part in parts:
        after = whole - before - part.shape[2]
        lined.append(np.pad(part, ((0, 0), (0, 0), (before, after))))
        before += part.shape[2]
    return np.concatenate(lined, axis=1)


def _seen(
    encoder: ImageEncoder | VideoEncoder | AudioEncoder, cells: Cells, weights: Weights, rule: Rule
) -> Flow:
    if isinstance(encoder, VideoEncoder) and encoder.kind in ("pooled", "factorised"):
        return frames(encoder, cells, weights, rule)
    if isinstance(encoder, VideoEncoder) and encoder.kind == "divided":
        return divided(cells, weights, rule)
    own = identity(rows_of(weights["body"]), cells.extra + cells.number)
    return through(weights["body"], own, rule)[:, :, cells.extra :]


def frames(encoder: VideoEncoder, cells: Cells, weights: Weights, rule: Rule) -> Flow:
    """A token a time: the mean of its patches, or its class token; then over time."""
    times, down, across = cells.grid
    places, first = down * across, int(encoder.class_token)
    own = through(weights["body"], identity(rows_of(weights["body"]), first + places), rule)
    one = (own[:, 0] if encoder.class_token else own.mean(1))[:, first:]
    one = one.reshape(-1, times, 1, places) * np.eye(times, dtype=np.float32)[:, :, None]
    one = one.reshape(len(one), times, times * places)
    return through(weights["time"], one, rule) if encoder.kind == "factorised" else one


def divided(cells: Cells, weights: Weights, rule: Rule) -> Flow:
    """In each block over time, without the class token, then over space (see `Divided`)."""
    times, down, across = cells.grid
    places = down * across
    names = {name: block for name, block in weights.items() if name.startswith("block_")}
    count = len(ordered(names)[0]["time"]["weights"]) // places
    own = identity(count, 1 + times * places)
    for block in ordered(names):
        along = block["time"]["weights"].reshape(count, places, times, times)
        same = np.einsum("bptu,pq->btpuq", along, np.eye(places, dtype=np.float32)).reshape(
            count, times * places, times * places
        )
        over_time = np.pad(same, ((0, 0), (1, 0), (1, 0)))
        over_time[:, 0, 0] = 1
        own = rule(own, over_time, own)
        inside = block["attention"]["weights"].reshape(count, times, places + 1, places + 1)
        own = rule(own, _over_space(inside), own)
    return own[:, :, 1:]


def _over_space(inside: Float[np.ndarray, "B t n n"]) -> Float[np.ndarray, "B N N"]:
    """Each frame looks at itself and the class token, which is the mean of its copies."""
    count, times, more, _ = inside.shape
    places = more - 1
    patches = np.einsum(
        "btpq,tu->btpuq", inside[:, :, 1:, 1:], np.eye(times, dtype=np.float32)
    ).reshape(count, times * places, times * places)
    at_class = inside[:, :, 1:, 0].reshape(count, times * places, 1)
    of_class = inside[:, :, 0, 1:].reshape(count, 1, times * places) / times
    itself = inside[:, :, 0, 0].mean(1)[:, None, None]
    below = np.concatenate([at_class, patches], axis=2)
    return np.concatenate([np.concatenate([itself, of_class], axis=2), below], axis=1)


# --- trees of weights ---


def apart(tree: Weights) -> dict[str, Any]:
    """Scanned blocks, which lie in one array by depth, as block_0, block_1, ..."""
    found: dict[str, Any] = {}
    for name, part in tree.items():
        if name == "blocks":
            depth = len(jax.tree.leaves(part)[0])
            for i in range(depth):
                found[f"block_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], part)
        else:
            found[name] = apart(part) if isinstance(part, Mapping) else part
    return found


def by_heads(tree: Weights) -> dict[str, Any]:
    """The mean over the heads."""
    return jax.tree.map(lambda leaf: leaf.mean(1), dict(tree))


def ordered(blocks: Weights) -> list[Weights]:
    return [blocks[f"block_{i}"] for i in range(len(blocks))]


def rows(weights: Weights) -> int:
    """Words of the text that is asked."""
    return ordered(weights["text"]["body"])[0]["attention"]["weights"].shape[-1]


def rows_of(blocks: Weights) -> int:
    return len(ordered(blocks)[0]["attention"]["weights"])


def identity(count: int, tokens: int) -> Flow:
    return np.broadcast_to(np.eye(tokens, dtype=np.float32), (count, tokens, tokens))


def each(
    spans: Float[Array, "B W S"], tokens: Float[np.ndarray, "B S *c"]
) -> Float[np.ndarray, "B W *c"]:
    """The mean over the tokens of each word."""
    share = shares(spans)
    return np.einsum("bws,bs...->bw...", share, tokens)


def shares(spans: Float[Array, "B W S"]) -> Float[np.ndarray, "B W S"]:
    """Of each token in its word."""
    own = np.asarray(spans)
    return own / np.maximum(own.sum(-1, keepdims=True), 1)
