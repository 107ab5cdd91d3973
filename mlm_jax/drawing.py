"""Pictures and clips from words: the codes that a text is gone on with, or what noise becomes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from mlm_jax import memory
from mlm_jax.config import UserError
from mlm_jax.data.loader import filled
from mlm_jax.data.records import BadRecord
from mlm_jax.data.transforms import decode_for
from mlm_jax.decoders import diffusion
from mlm_jax.fusion import Fused
from mlm_jax.generate import How, Params, Prompt, generate
from mlm_jax.models.cascade import Cascade
from mlm_jax.models.clip import unit
from mlm_jax.models.dalle import Dalle
from mlm_jax.models.painter import Painter
from mlm_jax.models.prior import Prior
from mlm_jax.models.unclip import Unclip, between
from mlm_jax.trained import Trained, look, record_of, unknown

Pixels = UInt8[np.ndarray, "N *T H W 3"]
Batch = dict[str, Array]

BATCH = 32  # drawn at a time, at most
TURNED = 0.5  # of the way to what texts differ by: as far as a picture is changed


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn: `codes` where a model writes codes, `paint` where it paints.

    Where it paints by CLIP's vector of a picture, `prior` is how that is guessed from the caption;
    with `told` "text" it is CLIP's vector of the caption instead (2204.06125, section 5.1).
    """

    codes: How = field(default_factory=lambda: How("sample", guidance=1.6))
    paint: diffusion.How = field(
        default_factory=lambda: diffusion.How("dpm++2m", steps=30, guidance=3.0)
    )
    prior: diffusion.How = field(default_factory=lambda: diffusion.How("dpm++2m", steps=20))
    told: Literal["prior", "text"] = "prior"


OPTIONS = {
    "guidance": ("codes", "paint"),
    **dict.fromkeys(("temperature", "top_k", "top_p"), ("codes",)),
    **dict.fromkeys(("sampler", "steps", "threshold", "eta"), ("paint",)),
    "told": ("told",),
}
"""Where in `Drawing` each option stands."""


def drawing_of(trained: Trained, given: Mapping[str, Any]) -> Drawing:
    """The usual way, but for the OPTIONS that are given. Raises: UserError for one not read."""
    how = Drawing()
    changes: dict[str, dict[str, Any]] = {}
    for option, value in given.items():
        parts = [part for part in OPTIONS[option] if part in parts_read(trained)]
        if not parts:
            name = type(trained.config.model).__name__
            raise UserError(f"--{option.replace('_', '-')}: a {name} does not read it")
        for part in parts:
            changes.setdefault(part, {})[option] = value
    for part, own in changes.items():
        changed = own[part] if part in own else replace(getattr(how, part), **own)
        how = replace(how, **{part: changed})
    return how


def settings_of(trained: Trained, how: Drawing) -> dict[str, Any]:
    """What goes with what was drawn: the step of the run, and all that was read of `how`."""
    read, own = parts_read(trained), PARTS[type(base_of(trained))]
    settings: dict[str, Any] = {k: v for k, v in asdict(how).items() if k in read}
    if "paint" in settings and "paint" not in own:  # by the upsampler alone
        settings["paint"]["guidance"] = 1.0
    return {"step": trained.step} | settings


def draw(
    trained: Trained,
    prompts: Sequence[str],
    *,
    how: Drawing | None = None,
    seed: int = 0,
    begun: Pixels | None = None,
) -> Pixels:
    """A picture, or clip, for each prompt.

    `begun`: for each a picture whose upper half, a clip whose first half, or of a clip that is to
    be the first frame, which is kept and the rest drawn anew; or, by DALL-E 2, a picture of which
    another like it is drawn, without a word: its prompts are empty. The same prompts and seed give
    the same pictures. Raises: UserError where the model draws nothing, or a prompt has words that
    the run has never seen or is too long.
    """
    base, drawer = base_of(trained), DRAWERS[type(trained.config.model)]
    if begun is not None:
        require_begun(trained, begun, prompts)
    varied = begun is not None and isinstance(base, Unclip)
    rows = {} if varied else read_prompts(trained, prompts)
    drawn = []
    for here in parts_of(len(prompts)):
        part = {name: array[here] for name, array in rows.items()}
        key = jax.random.fold_in(jax.random.key(seed), int(here[0]))
        half = None if begun is None else begun[here]
        given = (trained.config.model, trained.params, part, how or Drawing(), key, half)
        pixels = with_room(drawer, *given)
        drawn.append(np.asarray(pixels))
    return np.concatenate(drawn)[: len(prompts)]


def begin(trained: Trained, sense: str, file: Path) -> UInt8[np.ndarray, "*T H W 3"]:
    """An image, or a video, as `draw` goes on with it. Raises: UserError, BadRecord, OSError."""
    model = trained.config.model
    if sense == "image" and model.sense == "video":
        size = model.video.takes.shape[-3:-1]
        picture = record_of({sense: file}).image
        return decode_for(trained.config.data, size)(picture, str(file))
    return next(iter(look(trained, {sense: file}).values()))


def parts_of(count: int) -> Iterator[Int[np.ndarray, "rows"]]:
    """So many places at a time, the last one again where there are no more: 3 -> 0 1 2 2."""
    for part, _ in filled(range(count), rows_for(count)):
        yield np.array(part)


def rows_for(count: int) -> int:
    """How many are drawn at a time: BATCH, of fewer a power of two, so that few are compiled."""
    return min(BATCH, 1 << (count - 1).bit_length())


def with_room(drawer: jax.stages.Wrapped, *given: Any) -> Array:
    """What it draws. Raises: UserError, before it begins, where memory cannot hold it."""
    lowered = drawer.lower(*given)
    needed, room = memory.needed(lowered.compile()), memory.free()
    if needed > room:
        raise UserError(
            f"{lowered.out_info.shape[0]} pictures, drawn at a time, take {needed / 2**30:.2g} GiB,"
            f" and there are {room / 2**30:.2g}: a smaller model, or fewer in all (--n, --among; of"
            " evaluate.py --limit)"
        )
    pixels: Array = drawer(*given)
    return pixels


def base_of(trained: Trained) -> nn.Module:
    """The model that draws, and what it draws may be enlarged. Raises: UserError."""
    first = trained.config.model
    while isinstance(first, Cascade):
        first = first.base
    if type(first) not in DRAWERS:
        raise UserError(f"{trained.path}: a {type(first).__name__} draws nothing")
    if isinstance(first, Painter) and first.enlarges > 1:
        raise UserError(
            f"{trained.path} enlarges {first.enlarges} times: it draws as the upsampler of a"
            " Cascade"
        )
    return first


def parts_read(trained: Trained) -> set[str]:
    """Of `Drawing`. Raises: UserError."""
    base = base_of(trained)
    enlarged = base is not trained.config.model
    return {*PARTS[type(base)], *(("paint",) if enlarged else ())}


def require_begun(trained: Trained, begun: Pixels, prompts: Sequence[str]) -> None:
    """Raises: UserError where nothing is made of what is begun, or of the prompts."""
    base = base_of(trained)
    if isinstance(base, Painter) and (begun.ndim == 5 or base.sense == "image"):
        frame = ", or from the first frame of a clip" if base.sense == "video" else ""
        raise UserError(f"{trained.path} paints by a Painter: it draws from words alone{frame}")
    if isinstance(base, Unclip) and any(prompts):
        raise UserError(
            f"{trained.path} varies a picture without a word: no --prompt, or with a second one"
            " (--to) that says what is to change"
        )


def read_prompts(
    trained: Trained, prompts: Sequence[str], option: str = "--prompt"
) -> dict[str, np.ndarray]:
    """Ids of the prompts, filled up. Raises: UserError naming the words that are not known."""
    for prompt in prompts:
        if not prompt.strip():
            raise UserError(f"{option} is empty: it says what is to be seen")
        words = unknown(trained.tokenizer, prompt)
        if words:
            raise UserError(
                f"{option} {prompt!r}: {trained.path} has never seen: {', '.join(words)}"
            )
    try:
        rows = [trained.tokenise("", each, option) for each in prompts]
    except BadRecord as error:
        raise UserError(str(error)) from error
    return {key: np.stack([row[key] for row in rows]) for key in ("target", "target_mask")}


# --- codes ---


@partial(jax.jit, static_argnames=("model", "how"))
def by_codes(
    model: Dalle, params: Params, batch: Batch, how: Drawing, key: Array, begun: Any
) -> UInt8[Array, "N *T H W 3"]:
    codes = written(model, params, batch["target"], how.codes, key, begun)
    return levels(model.apply({"params": params}, codes, method="decode_codes"))


def written(
    model: Dalle, params: Params, ids: Int[Array, "N M"], how: How, key: Array, begun: Any = None
) -> Int[Array, "N codes"]:
    """The codes that follow each caption, those that are `begun` as they are."""
    text = model.filled(jnp.asarray(ids))
    given = jnp.zeros((len(text), 0), jnp.int32)
    if begun is not None:
        given = given_codes(model, params, begun)

    def prompt(text: Array) -> Prompt:
        whole = jnp.concatenate([text, model.words + given], axis=1)
        return Prompt(whole, jnp.ones_like(whole, bool))

    guided = how.guidance != 1
    texts = generate(
        model,
        params,
        Fused(),
        bos=-1,
        eos=-1,
        pad=-1,
        length=math.prod(model.grid) - given.shape[1],
        how=how,
        key=key,
        unconditional=Fused() if guided else None,
        prompt=prompt(text),
        empty=prompt(model.hidden(text)) if guided else None,
        least=model.words,
    )
    return jnp.concatenate([given, texts.ids - model.words], axis=1)


def given_codes(
    model: Dalle, params: Params, begun: UInt8[Array, "N *T H W 3"]
) -> Int[Array, "N given"]:
    """Of the first half of pictures or clips, or of pictures as the first frame of clips."""
    parts = 2
    if model.sense == "video" and begun.ndim == 4:
        canvas: Any = model.video
        begun = jnp.repeat(begun[:, None], canvas.takes.shape[0], axis=1)
        parts = model.grid[0]
    coder = {"params": params["codes"]}
    codes: Any = model.codes.apply(coder, begun, method="encode_codes")
    return codes[:, : codes.shape[1] // parts]


# --- noise ---


@partial(jax.jit, static_argnames=("model", "how"))
def by_painting(
    model: Painter, params: Params, batch: Batch, how: Drawing, key: Array, begun: Any
) -> UInt8[Array, "N *T H W 3"]:
    """Of clips `begun` is the first frame, where there is one."""
    first, later = jax.random.split(key)
    rows = len(next(iter(batch.values())))
    noise = jax.random.normal(first, (rows, *model.noise))
    return painted(model, params, noise, batch, how, later, begun)


def painted(
    model: Painter,
    params: Params,
    noise: Array,
    batch: Batch,
    how: Drawing,
    key: Array | None = None,
    begun: Any = None,
    found: bool = False,
) -> UInt8[Array, "N *T H W 3"]:
    bound: Any = partial(model.apply, {"params": params})
    return levels(bound(noise, batch, how.paint, key, begun, found, method="paint"))


@partial(jax.jit, static_argnames=("model", "how"))
def by_vector(
    model: Unclip, params: Params, batch: Batch, how: Drawing, key: Array, begun: Any
) -> UInt8[Array, "N H W 3"]:
    """Variations of `begun`, where there is one."""
    guess, key = jax.random.split(key)
    shown = batch if begun is None else begun
    told = batch if begun is None else {}
    vector = vector_of(model.prior, params["prior"], shown, how, guess)
    told = {**told, "embedding": vector}
    pixels: Array = by_painting(model.painter, params["painter"], told, how, key, None)
    return pixels


def vector_of(
    model: Prior, params: Params, told: Any, how: Drawing, key: Array
) -> Float[Array, "N E"]:
    """CLIP's, of a batch of captions or of pictures."""
    bound: Any = partial(model.apply, {"params": params})
    if not isinstance(told, dict):
        vector: Array = bound(told, method="see")
    elif how.told == "text":
        vector = bound(told, method="read")
    else:
        vector = bound(told, how.prior, key, method="imagine")
    return vector


def morph(
    trained: Trained,
    one: str | UInt8[np.ndarray, "H W 3"],
    other: str | UInt8[np.ndarray, "H W 3"],
    count: int,
    *,
    how: Drawing | None = None,
    seed: int = 0,
) -> Pixels:
    """`count` pictures on the way from one vector to the other, all from the same noise.

    Each end is a prompt, or a picture as `look` gives it (2204.06125, sections 3.2 and 3.3).
    Raises: UserError where the model does not paint by vectors, or its sampler brings in noise.
    """
    how = how or Drawing()
    to = "--to" if isinstance(other, str) else "--to-image"
    model = painting_by_vectors(trained, how, to)
    guess, first = jax.random.split(jax.random.key(seed))
    find = jax.jit(vector_of, static_argnames=("model", "how"))
    told = [
        read_prompts(trained, [end], option) if isinstance(end, str) else end[None]
        for end, option in ((one, "--prompt"), (other, to))
    ]
    start, end = (find(model.prior, trained.params["prior"], each, how, guess) for each in told)
    vectors = between(start, end, jnp.linspace(0, 1, count))
    noise = jax.random.normal(first, model.painter.noise)
    return from_one_noise(trained, noise, vectors, how)


def changed(
    trained: Trained,
    before: str,
    after: str,
    count: int,
    *,
    picture: UInt8[np.ndarray, "H W 3"],
    how: Drawing | None = None,
) -> Pixels:
    """`count` pictures from `picture`, which `before` tells, towards what `after` tells.

    Its vector is turned towards the difference of the texts' by up to `TURNED` of the way, and each
    is painted from the noise that the picture itself is made of (2204.06125, section 3.3). Raises:
    UserError where the model does not paint by vectors, or its sampler has no way back.
    """
    how = how or Drawing()
    model = painting_by_vectors(trained, how, "--to")
    if how.paint.threshold:
        raise UserError(f"threshold {how.paint.threshold}: no way leads back from it to noise")

    @jax.jit
    def find(params: Params, shown: Array, texts: Batch) -> tuple[Array, Array]:
        prior: Any = partial(model.prior.apply, {"params": params["prior"]})
        shown_as, words = prior(shown, method="see"), prior(texts, method="read")
        vectors = between(shown_as, unit(words[1:] - words[:1]), jnp.linspace(0, TURNED, count))
        painter, told = {"params": params["painter"]}, {"embedding": shown_as}
        return vectors, model.painter.apply(painter, shown, told, how.paint, method="unpaint")[0]

    texts = [read_prompts(trained, [before]), read_prompts(trained, [after], "--to")]
    if np.array_equal(texts[0]["target"], texts[1]["target"]):
        raise UserError(f"--to {after!r} says no more than --prompt: nothing would change")
    both = {key: np.concatenate([each[key] for each in texts]) for key in texts[0]}
    vectors, noise = find(trained.params, picture[None], both)
    return from_one_noise(trained, noise, vectors, how, found=True)


def painting_by_vectors(trained: Trained, how: Drawing, to: str) -> Unclip:
    """The model, where all that it paints can be from one noise, as option `to` has it. Raises:
    UserError."""
    model = trained.config.model
    if not isinstance(model, Unclip):
        raise UserError(f"{trained.path} is a {type(model).__name__}: no vectors to go between")
    if how.paint.fresh:
        given, right = f"--eta {how.paint.eta}", "--eta 0"
        if how.paint.sampler == "ddpm":
            given, right = "--sampler ddpm", "another sampler"
        raise UserError(f"{given} brings in noise on the way: {right} with {to}")
    return model


def from_one_noise(
    trained: Trained,
    noise: Array,
    vectors: Float[Array, "N E"],
    how: Drawing,
    *,
    found: bool = False,
) -> Pixels:
    paint = jax.jit(partial(painted, found=found), static_argnames=("model", "how"))
    noise = jnp.broadcast_to(noise, (len(vectors), *noise.shape))
    told, params = {"embedding": vectors}, trained.params["painter"]
    return np.asarray(with_room(paint, trained.config.model.painter, params, noise, told, how))


# --- small, then large ---


@partial(jax.jit, static_argnames=("model", "how"))
def by_enlarging(
    model: Cascade, params: Params, batch: Batch, how: Drawing, key: Array, begun: Any
) -> UInt8[Array, "N *T H W 3"]:
    """The upsampler goes by the small picture alone: nothing there could guide."""
    below, first, later = jax.random.split(key, 3)
    drawer = DRAWERS[type(model.base)]
    shown = None if begun is None else model.reduced(begun)
    small = drawer(model.base, params["base"], batch, for_base(model.base, how), below, shown)
    noise = jax.random.normal(first, (len(small), *model.upsampler.noise))
    paint = replace(how.paint, guidance=1.0)
    bound = {"params": params}
    return levels(model.apply(bound, small, noise, paint, later, method="enlarge"))


def for_base(base: nn.Module, how: Drawing) -> Drawing:
    """Thresholding is of pixels: where the base paints codes, the upsampler alone has it."""
    if getattr(getattr(base, "painter", base), "codes", None) is None:
        return how
    return replace(how, paint=replace(how.paint, threshold=0.0))


def levels(pixels: Any) -> UInt8[Array, "*B 3"]:
    """From 0 to 1 -> from 0 to 255."""
    return jnp.asarray(pixels * 255).round().astype(jnp.uint8)


DRAWERS: dict[type, jax.stages.Wrapped] = {
    Dalle: by_codes,
    Painter: by_painting,
    Unclip: by_vector,
    Cascade: by_enlarging,
}
"""By the model: what draws with it."""

PARTS = {Dalle: ("codes",), Painter: ("paint",), Unclip: ("paint", "prior", "told")}
"""By the model that draws: the parts of `Drawing` that it reads."""
