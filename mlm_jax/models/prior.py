"""From a caption to CLIP's vector of a picture: the priors of DALL-E 2 (2204.06125, 2.2)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Bool, Float, Int

from mlm_jax import generate
from mlm_jax.decoders import TextDecoder
from mlm_jax.decoders.diffusion import How, Schedule, guided, sample
from mlm_jax.encoders import ImageEncoder
from mlm_jax.encoders.image import dtype_of
from mlm_jax.fusion import Fused
from mlm_jax.layers import Tokens, Transformer, concatenate
from mlm_jax.layers.embed import timesteps
from mlm_jax.layers.tokens import every, for_rows
from mlm_jax.models.clip import Clip, unit


class Prior(nn.Module):
    """A caption -> the vector that `clip`, which is held still, would have of its picture.

    What the kinds share. In training a share `dropped` of the captions is hidden
    (arXiv:2207.12598).
    """

    clip: Clip = field(default_factory=Clip)
    dropped: float = 0.1

    @property
    def image(self) -> ImageEncoder:
        if self.clip.image is None:
            raise ValueError("its CLIP sees clips: a prior is of pictures")
        return self.clip.image

    @property
    def words(self) -> int:
        """Most words of a tokenizer: as many as CLIP knows."""
        return self.clip.text.vocab

    def imagine(self, batch: Mapping[str, Any], how: How, key: Array) -> Float[Array, "R E"]:
        """Unit vectors of pictures that the captions might belong to."""
        raise NotImplementedError

    def see(self, image: Array) -> Float[Array, "B E"]:
        return jax.lax.stop_gradient(self.clip.see(image))

    def read(self, batch: Mapping[str, Any]) -> Float[Array, "R E"]:
        """CLIP's vector of each caption: what a painter is told where there is no prior."""
        return self.clip.read_captions(batch)

    def _seen(self, batch: Mapping[str, Any]) -> Float[Array, "R E"]:
        """Of the picture of each caption, with variance 1 an axis."""
        if self.is_initializing():
            self.clip(batch)
        return for_rows(len(batch["target"]), self.see(batch["image"])) * self._scale

    def _told(self, batch: Mapping[str, Any]) -> tuple[Tokens, Float[Array, "R E"]]:
        words = self.clip.text(batch["target"], batch["target_mask"])
        told = words, self.read(batch) * self._scale
        return jax.lax.stop_gradient(told)

    def _hidden(self, rows: int, key: Array, train: bool) -> Bool[Array, "R"]:
        if not train or not self.dropped:
            return jnp.zeros(rows, bool)
        return jax.random.uniform(key, (rows,)) < self.dropped

    @property
    def _scale(self) -> float:
        return float(self.clip.width) ** 0.5


class Caption(nn.Module):
    """Words and text vector as tokens of `width`; rows that are `hidden` are told nothing,
    not even how many words there are."""

    width: int

    @nn.compact
    def __call__(
        self, words: Tokens, text: Float[Array, "R E"], hidden: Bool[Array, "R"]
    ) -> Tokens:
        nothing = self.param("nothing_token", nn.initializers.normal(0.02), (self.width,))
        dtype = dtype_of(self)
        told = [nn.Dense(self.width, name="words")(words.x.astype(dtype))]
        told.append(nn.Dense(self.width, name="text")(text.astype(dtype))[:, None])
        x = jnp.concatenate(told, axis=1)
        x = jnp.where(hidden[:, None, None], nothing.astype(x.dtype), x)
        mask = jnp.pad(words.mask, [(0, 0), (0, 1)], constant_values=True)
        first = jnp.arange(x.shape[1]) == 0
        return Tokens(x, jnp.where(hidden[:, None], first, mask))


# --- diffusion ---


class PriorNet(nn.Module):
    """What a noisy vector was, by the caption: its tokens, time, noisy vector and a place for the
    answer are the tokens of one transformer, which all look at each other."""

    body: Transformer = field(default_factory=Transformer)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "R E"],
        t: Float[Array, "R"],
        words: Tokens,
        text: Float[Array, "R E"],
        hidden: Bool[Array, "R"],
        *,
        train: bool = False,
    ) -> Float[Array, "R E"]:
        """Rows that are `hidden` are told nothing. The answer is in float32."""
        width, x = self.body.width, x.astype(dtype_of(self))
        asked = self.param("asked_token", nn.initializers.normal(0.02), (width,))
        told = Caption(width, name="told")(words, text, hidden)
        time = nn.Dense(width, name="time")(timesteps(t, width).astype(x.dtype))
        noisy = nn.Dense(width, name="noisy")(x)
        rest = jnp.stack([time, noisy, jnp.broadcast_to(asked.astype(x.dtype), noisy.shape)], 1)
        read = self.body(concatenate(told, every(rest)), train=train)
        return nn.Dense(x.shape[-1], name="out")(read.x[:, -1]).astype(jnp.float32)


class DiffusionPrior(Prior):
    """The vector is diffused, and what was clean is predicted."""

    net: PriorNet = field(default_factory=PriorNet)
    schedule: Schedule = field(default_factory=Schedule)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """ "predicted" and "wanted" (R, E), and of each row (R,) the "weight" and "logsnr"."""
        clean = self._seen(batch)
        rows = len(clean)
        key = self.make_rng("mask") if train else jax.random.key(0)
        keys = jax.random.split(key, 3)
        t = self.schedule.draw(keys[0], rows)
        alpha, sigma = self.schedule.at(t, clean)
        noisy = alpha * clean + sigma * jax.random.normal(keys[1], clean.shape)
        hidden = self._hidden(rows, keys[2], train)
        return {
            "predicted": self.net(noisy, t, *self._told(batch), hidden, train=train),
            "wanted": clean,
            "weight": jnp.ones(rows),
            "logsnr": self.schedule.logsnr(t),
        }

    def imagine(self, batch: Mapping[str, Any], how: How, key: Array) -> Float[Array, "R E"]:
        words, text = self._told(batch)
        rows = len(text)
        module, variables = self.net.unbind()

        def ask(x: Array, t: Array, _: Array) -> Array:
            both = len(x) // rows
            told = jax.tree.map(lambda y: jnp.concatenate([y] * both), (words, text))
            hidden = jnp.arange(len(x)) >= rows
            said: Any = module.apply(variables, x, t, *told, hidden)
            return said

        net = ask if how.guidance == 1 else guided(ask, how.guidance)
        first, later = jax.random.split(key)
        noise = jax.random.normal(first, text.shape)
        return unit(sample(net, self.schedule, noise, how, predicts="clean", key=later))


# --- one axis after the other ---


class PriorWriter(nn.Module):
    """What the next code is, by the caption and the codes before; 0 is the bos."""

    decoder: TextDecoder = field(default_factory=lambda: TextDecoder(65, 128))

    def __call__(
        self, ids: Int[Array, "R N"], told: Tokens, *, train: bool = False
    ) -> Float[Array, "R N V"]:
        logits: Any = self.decoder(ids, Fused(prefix=told), train=train)
        return jnp.asarray(logits)


class AutoregressivePrior(Prior):
    """The axes of the vector as codes, written one after the other behind the caption.

    Each axis is cut where a normal distribution has equal shares, into as many codes as the decoder
    has words but one, the bos. The paper first turns the axes so that a third of them do; CLIP's
    vectors here are short enough to be written whole.
    """

    net: PriorWriter = field(default_factory=PriorWriter)

    @property
    def codes(self) -> int:
        return self.net.decoder.vocab - 1

    def setup(self) -> None:
        decoder = self.net.decoder
        if decoder.length < self.clip.width:
            raise ValueError(
                f"CLIP's vectors have {self.clip.width} axes, net.decoder.length is"
                f" {decoder.length}"
            )
        if decoder.pieces:
            raise ValueError(
                f"net.decoder.pieces {decoder.pieces}: of losses.Caption alone, must be 0"
            )
        self.told = Caption(decoder.body.width)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """ "codes" (R, E, K): logits, float32; and the codes that are "wanted" (R, E)."""
        codes = self.encode_codes(self._seen(batch))
        key = self.make_rng("mask") if train else jax.random.key(0)
        told = self.told(*self._told(batch), self._hidden(len(codes), key, train))
        ids = jnp.pad(codes[:, :-1] + 1, [(0, 0), (1, 0)])
        logits = self.net(ids, told, train=train)
        return {"codes": logits[..., 1:], "wanted": codes}

    def imagine(self, batch: Mapping[str, Any], how: How, key: Array) -> Float[Array, "R E"]:
        """Drawn by probability; of `how` the guidance counts."""
        words, text = self._told(batch)
        rows = len(text)
        told, free = (
            Fused(prefix=self.told(words, text, jnp.full(rows, hidden))) for hidden in (False, True)
        )
        module, variables = self.net.unbind()
        written = generate.generate(
            module,
            variables["params"],
            told,
            bos=0,
            eos=-1,
            pad=-1,
            length=self.clip.width,
            how=generate.How("sample", guidance=how.guidance),
            key=key,
            unconditional=None if how.guidance == 1 else free,
            least=1,
        )
        return unit(self.decode_codes(written.ids - 1))

    def encode_codes(self, vectors: Float[Array, "R E"]) -> Int[Array, "R E"]:
        """Of vectors with variance 1 an axis."""
        codes = jnp.floor(ndtr(vectors) * self.codes).astype(jnp.int32)
        return jnp.minimum(codes, self.codes - 1)

    def decode_codes(self, codes: Int[Array, "R E"]) -> Float[Array, "R E"]:
        return ndtri((codes + 0.5) / self.codes)
