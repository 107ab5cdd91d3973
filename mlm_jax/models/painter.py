"""A painter: from noise to the picture, or clip, that a text tells (DALL-E 2, 2204.06125; Imagen).

Each of its parts stands alone: text encoder, net, schedule, what is predicted, sampler, guidance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from mlm_jax.decoders.denoiser import UNet
from mlm_jax.decoders.diffusion import (
    How,
    Net,
    Predicts,
    Schedule,
    alone,
    guided,
    invert,
    keeping,
    min_snr,
    over,
    sample,
    split,
    wanted,
)
from mlm_jax.encoders import TextEncoder
from mlm_jax.encoders.image import dtype_of
from mlm_jax.layers import Tokens
from mlm_jax.layers.convolutions import over_frames
from mlm_jax.layers.embed import timesteps
from mlm_jax.layers.tokens import every, for_rows
from mlm_jax.models.codes import Codes
from mlm_jax.models.sense import sense_of

NOISED = 0.5  # the latest time that a small picture is noised to in training
GIVEN = 0.1  # and that to which it is when one is painted


@dataclass(frozen=True)
class Canvas:
    """What is painted: pictures of `size` (height, width), or clips of so many `frames`."""

    size: tuple[int, int] = (48, 48)
    frames: int = 0

    @property
    def takes(self) -> jax.ShapeDtypeStruct:
        """One picture, or one clip."""
        time = (self.frames,) if self.frames else ()
        return jax.ShapeDtypeStruct((*time, *self.size, 3), jnp.uint8)


class Told(NamedTuple):
    """What is to be painted; None where the painter does not ask for it.

    `small` (B, H, W, 3) is a picture made larger, noised, from -1 to 1.
    """

    text: Tokens | None = None
    vector: Float[Array, "B E"] | None = None
    small: Float[Array, "B *T H W 3"] | None = None


class Painter(nn.Module):
    """Text encoder -> net, which predicts of a noisy picture what was clean or noise.

    Of clips the canvas stands in `video`, of pictures in `image`; one of the two is None. The text
    is a caption; None paints without. With `embedding` it is told a vector of that width as well,
    such as a picture's by CLIP (unCLIP, arXiv:2204.06125, section 2.1). With `enlarges` f over 1 it
    sees the picture f times smaller, noised a little, behind the channels of the noisy one: an
    upsampler (arXiv:2106.15282, sections 3 and 4.2).

    With `codes`, an earlier run held still, it is not pixels that are noised but the vectors of
    their codes, and what is painted is the picture of the codes that are nearest in the end (latent
    diffusion, arXiv:2112.10752; told a vector of CLIP, arXiv:2310.03502).

    In training a share `dropped` of the rows is told nothing, for guidance without a classifier
    (arXiv:2207.12598, algorithm 1): one learned token for their text, one learned vector for their
    embedding. A share `silent` besides is told the embedding alone, as is what is painted without
    "target": so pictures are varied. `weigh` is the weight of rows: "even", or "min_snr"
    (arXiv:2303.09556). A place of full chroma counts 1 + `vivid` times as much as a gray one: what
    a caption tells has colours, and is a small part of a picture whose ground is gray.

    One that is `self_conditioned` is told what it took to be clean at the step before, behind the
    channels of the noisy picture, and goes on with it rather than begin anew; in training every
    second row is told what the net says without (arXiv:2208.04202, algorithms 1 and 2).
    """

    image: Canvas | None = field(default_factory=Canvas)
    video: Canvas | None = None
    codes: Codes | None = None
    text: TextEncoder | None = field(default_factory=TextEncoder)
    net: nn.Module = field(default_factory=UNet)
    schedule: Schedule = field(default_factory=Schedule)
    predicts: Predicts = "v"
    dropped: float = 0.1
    silent: float = 0.0
    weigh: Literal["even", "min_snr"] = "even"
    vivid: float = 0.0
    self_conditioned: bool = False
    embedding: int = 0
    enlarges: int = 1

    @property
    def sense(self) -> str:
        """The key of a batch that is painted. Raises: ValueError."""
        return sense_of(self)

    @property
    def canvas(self) -> Canvas:
        canvas: Canvas = getattr(self, self.sense)
        if any(side % self.enlarges for side in canvas.size):
            raise ValueError(f"{canvas.size} pixels are not {self.enlarges} times as many")
        return canvas

    @property
    def noise(self) -> tuple[int, ...]:
        """The shape of the noise that one picture, or clip, is made of."""
        painted = self.canvas.takes.shape
        if self.codes is None:
            return painted
        time = painted[: len(painted) - len(self.codes.eyes.takes.shape)]
        return (*time, *self.codes.eyes.grid, self.codes.quantiser.axes)

    def setup(self) -> None:
        self._check()
        near = nn.initializers.normal(0.02)
        if self.text is not None:
            self.no_text = self.param("no_text_token", near, (self.text.body.width,))
        if self.embedding:
            self.no_embedding = self.param("no_embedding_token", near, (self.embedding,))

    def _check(self) -> None:
        """Raises: ValueError."""
        codes, out, axes = self.codes, self.net.out, self.noise[-1]
        if out != axes:
            raise ValueError(f"net.out is {out}, what it denoises has {axes} axes")
        if codes is None:
            return
        coded, painted = codes.eyes.takes.shape, self.canvas.takes.shape
        if coded not in (painted, painted[1:]):
            raise ValueError(f"codes of {codes.sense} {coded}, it paints {self.sense} {painted}")
        if self.enlarges > 1:
            raise ValueError(f"enlarges {self.enlarges}: of pixels, not of codes")

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """ "predicted" and "wanted" (R, *noise), the "weight" of each place (R, *T h w), and of
        each row (R,) the "logsnr". Each caption has noise of its own; that of evaluation is always
        the same."""
        key = self.make_rng("mask") if train else jax.random.key(0)
        keys = jax.random.split(key, 6)
        shown = self._shown(batch[self.sense])
        clean = for_rows(len(batch["target"]) if self.text is not None else len(shown), shown)
        rows = len(clean)
        level = NOISED * jax.random.uniform(keys[0], (rows,))
        told = self._told(batch, smaller(clean, self.enlarges), level, keys[1], train)
        if train and (self.dropped or self.silent):
            drop = jax.random.uniform(keys[2], (rows,)) < self.dropped
            told = self._without(
                told, drop, drop | (jax.random.uniform(keys[5], (rows,)) < self.silent)
            )
        t = self.schedule.draw(keys[3], rows)
        noise = jax.random.normal(keys[4], clean.shape)
        alpha, sigma = self.schedule.at(t, clean)
        noisy = alpha * clean + sigma * noise
        said = self._ask(self.net, told, noisy, t, self._guess(told, noisy, t, train), train)
        weight = jnp.ones(rows)
        if self.weigh == "min_snr":
            weight = min_snr(self.predicts, self.schedule.alpha(t), self.schedule.sigma(t))
        colours = for_rows(rows, self._chroma(batch[self.sense]))
        return {
            "predicted": said,
            "wanted": wanted(self.predicts, clean, noise, alpha, sigma),
            "weight": over(weight, colours) * (1 + self.vivid * colours),
            "logsnr": self.schedule.logsnr(t),
        }

    def _guess(self, told: Told, noisy: Array, t: Array, train: bool) -> Float[Array, "B *noise"]:
        """Of every second row what the net takes to be clean, zeros of the others."""
        nothing = jnp.zeros_like(noisy)
        if not self.self_conditioned:
            return nothing
        told, x, t, guess = jax.tree.map(lambda rows: rows[::2], (told, noisy, t, nothing))
        said = self._ask(self.net, told, x, t, guess, train)
        clean, _ = split(self.predicts, said, x, *self.schedule.at(t, x))
        return nothing.at[::2].set(jax.lax.stop_gradient(clean))

    def _shown(self, pixels: Num[Array, "B *T H W 3"]) -> Float[Array, "B *noise"]:
        """What is noised: pixels from -1 to 1, or the vectors of codes, normalised."""
        if pixels.shape[1:] != self.canvas.takes.shape:
            raise ValueError(f"pixels {pixels.shape[1:]}, it paints {self.canvas.takes.shape}")
        codes = self.codes
        if codes is None:
            return from_pixels(pixels)
        vectors = codes.encode_vectors(pixels)
        if self.is_initializing():  # their decoder has parameters too
            codes.decode_vectors(vectors)
        return jax.lax.stop_gradient(codes.quantiser.normalised(vectors))

    def _chroma(self, pixels: Num[Array, "B *T H W 3"]) -> Float[Array, "B *T h w"]:
        """The largest channel less the smallest, 0 to 1: means over each place that is noised."""
        shown = from_pixels(pixels)
        chroma = (shown.max(-1, keepdims=True) - shown.min(-1, keepdims=True)) / 2
        return smaller(chroma, self.canvas.size[0] // self.noise[-3])[..., 0]

    # --- what is told ---

    def tell(self, batch: Mapping[str, Any], key: Array | None = None) -> Told:
        """What `paint` paints by: "target" and "target_mask", "embedding", "small", as it asks.

        "small" are pixels, uint8 or from 0 to 1; `key` is that of their noise.
        """
        small = level = None
        if self.enlarges > 1:
            small = from_pixels(batch["small"])
            level = jnp.full(len(small), GIVEN)
        return self._told(batch, small, level, jax.random.key(0) if key is None else key, False)

    def _told(
        self,
        batch: Mapping[str, Any],
        small: Array | None,
        level: Array | None,
        key: Array,
        train: bool,
    ) -> Told:
        """Of a picture that is enlarged the vector says how much it is noised as well."""
        text, large, parts = None, None, []
        if self.text is not None and "target" not in batch:
            rows = len(batch["embedding"])
            text = every(jnp.broadcast_to(self.no_text, (rows, 1, *self.no_text.shape)))
        elif self.text is not None:
            text = self.text(batch["target"], batch["target_mask"], train=train)
        if self.embedding:
            rows = len(batch["embedding"] if text is None else text.x)
            parts.append(for_rows(rows, jnp.asarray(batch["embedding"], jnp.float32)))
        if self.enlarges > 1 and small is not None and level is not None:
            large = enlarged(small, self.enlarges)
            alpha, sigma = self.schedule.at(level, large)
            large = alpha * large + sigma * jax.random.normal(key, large.shape)
            parts.append(timesteps(level, 32))
        return Told(text, jnp.concatenate(parts, axis=-1) if parts else None, large)

    def _without(self, told: Told, drop: Bool[Array, "B"], silent: Bool[Array, "B"]) -> Told:
        """Rows to `drop` are told no embedding, `silent` ones no text."""
        text, vector = told.text, told.vector
        if text is not None:
            first = jnp.arange(text.x.shape[1]) == 0
            x = jnp.where(over(silent, text.x), self.no_text.astype(text.x.dtype), text.x)
            text = Tokens(x, jnp.where(silent[:, None], first, text.mask))
        if vector is not None and self.embedding:
            own, rest = jnp.split(vector, [self.embedding], axis=1)
            nothing = self.no_embedding.astype(own.dtype)
            own = jnp.where(drop[:, None], nothing, own)
            vector = jnp.concatenate([own, rest], axis=1)
        return Told(text, vector, told.small)

    def _ask(
        self, net: Any, told: Told, x: Array, t: Array, guess: Array, train: bool = False
    ) -> Float[Array, "B *noise"]:
        """What the net says, in float32; it computes in the dtype of its parameters."""
        if self.self_conditioned:
            x = jnp.concatenate([x, guess], axis=-1)
        if told.small is not None:
            x = jnp.concatenate([x, told.small], axis=-1)
        said = net(x.astype(dtype_of(self.net)), t, told.vector, told.text, train=train)
        return said.astype(jnp.float32)

    # --- what is painted ---

    def paint(
        self,
        noise: Float[Array, "B *noise"],
        batch: Mapping[str, Any],
        how: How,
        key: Array | None = None,
        first: Num[Array, "B H W 3"] | None = None,
        found: bool = False,
    ) -> Float[Array, "B *T H W 3"]:
        """Pixels from 0 to 1 (see `tell`), from `noise` as it is where `key` is None.

        Of clips the `first` frame, uint8, may be given. From noise that was `found` by `unpaint`
        the way there leads back: told nothing of the step before.
        """
        if self.codes is not None and how.threshold:
            raise ValueError(f"threshold {how.threshold}: of pixels, not of codes")
        net = self._told_net(self.tell(batch, key), how.guidance)
        if found:
            net = alone(net)
        if first is not None:
            still = jnp.repeat(first[:, None], self.canvas.frames, axis=1)
            known = self._shown(still)[:, :1]
            net = keeping(net, self.schedule, self.predicts, known)
        made = sample(net, self.schedule, noise, how, predicts=self.predicts, key=key)
        codes = self.codes
        if codes is None:
            return jnp.clip((made + 1) / 2, 0, 1)
        return codes.decode_vectors(codes.quantiser.look_up(codes.quantiser.nearest(made)))

    def unpaint(
        self, pixels: Num[Array, "B *T H W 3"], batch: Mapping[str, Any], how: How
    ) -> Float[Array, "B *noise"]:
        """The noise that `paint` makes `pixels` of, by the same `how`, where it is `found`."""
        net = self._told_net(self.tell(batch), how.guidance)
        return invert(net, self.schedule, self._shown(pixels), how, predicts=self.predicts)

    def _told_net(self, told: Told, guidance: float) -> Net:
        """The net as the samplers ask it, guided."""
        module, variables = self.net.unbind()
        net = partial(module.apply, variables)
        if guidance == 1:
            return partial(self._ask, net, told)
        leaves = jax.tree.leaves(told)
        if not leaves:
            raise ValueError(
                f"guidance {guidance}: nothing is told that could guide (--guidance 1)"
            )
        all_rows = jnp.ones(len(leaves[0]), bool)
        free = self._without(told, all_rows, all_rows)
        if guidance == 0:
            return partial(self._ask, net, free)
        both: Told = jax.tree.map(lambda one, other: jnp.concatenate([one, other]), told, free)
        return guided(partial(self._ask, net, both), guidance)


def from_pixels(pixels: Any) -> Float[Array, "*B 3"]:
    """uint8, or floats from 0 to 1, to -1 to 1."""
    pixels = jnp.asarray(pixels)
    white = 255 if pixels.dtype == jnp.uint8 else 1
    return pixels.astype(jnp.float32) / white * 2 - 1


def smaller(pixels: Float[Array, "B *T H W C"], factor: int) -> Float[Array, "B *T h w C"]:
    """The mean of each square of `factor` pixels on a side."""
    *before, height, width, channels = pixels.shape
    parts = pixels.reshape(*before, height // factor, factor, width // factor, factor, channels)
    return parts.mean((-4, -2))


def enlarged(pixels: Float[Array, "B *T h w C"], factor: int) -> Float[Array, "B *T H W C"]:
    """Straight between pixels."""

    def frame(x: Array) -> Array:
        rows, height, width, channels = x.shape
        shape = (rows, factor * height, factor * width, channels)
        return jax.image.resize(x, shape, "linear")

    return over_frames(pixels, frame)
