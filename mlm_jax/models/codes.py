"""An autoencoder of pictures, or clips, through codes: the first stage of DALL-E (2102.12092)."""

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlm_jax.decoders.codes import CodeDecoder, CodeEncoder, Quantised, Quantiser
from mlm_jax.layers.convolutions import over_frames
from mlm_jax.models.sense import sense_of


class Codes(nn.Module):
    """Pixels -> encoder -> quantiser -> decoder -> pixels.

    Of clips the encoder stands in `video`, of pictures in `image`; one of the two is None. Codes of
    pictures code a clip frame by frame (arXiv:2304.08818, section 3).
    """

    image: CodeEncoder | None = field(default_factory=CodeEncoder)
    video: CodeEncoder | None = None
    quantiser: Quantiser = field(default_factory=Quantiser)

    @property
    def sense(self) -> str:
        """The key of a batch that is coded. Raises: ValueError."""
        return sense_of(self)

    @property
    def eyes(self) -> CodeEncoder:
        eyes: CodeEncoder = getattr(self, self.sense)
        return eyes

    def setup(self) -> None:
        self.decoder = CodeDecoder(self.eyes.clone(parent=None, name=None))

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Any]:
        """ "pixels" and what was "wanted", from 0 to 1; "codes" (B, *grid), "uses" (K,): the share
        of each code; the "penalty" of the quantiser, and what is "renewed" by it."""
        shown = batch[self.sense]
        quantised = self.quantise(shown, train=train)
        uses = jnp.zeros(self.quantiser.size).at[quantised.codes.reshape(-1)].add(1.0)
        return {
            "pixels": self.decoder(quantised.vectors),
            "wanted": jnp.asarray(shown, jnp.float32) / 255,
            "codes": quantised.codes,
            "uses": uses / quantised.codes.size,
            "penalty": quantised.penalty,
            "renewed": {"quantiser": quantised.renewed} if quantised.renewed else {},
        }

    def quantise(self, shown: Array, *, train: bool = False) -> Quantised:
        return self.quantiser(self.eyes(shown), train=train)

    def encode_codes(self, shown: Array) -> Int[Array, "B N"]:
        """The codes of each picture, or clip, in row-major order, times first."""
        codes = self._each(lambda x: self.quantise(x).codes, shown)
        return codes.reshape(len(codes), -1)

    def encode_vectors(self, shown: Array) -> Float[Array, "B *grid C"]:
        """The vectors of the codes."""
        return self._each(lambda x: self.quantise(x).vectors, shown)

    def decode_codes(self, codes: Int[Array, "B N"]) -> Float[Array, "B *T H W 3"]:
        """Pixels from 0 to 1."""
        return self.decode_vectors(self.quantiser.look_up(codes.reshape(-1, *self.eyes.grid)))

    def decode_vectors(self, vectors: Float[Array, "B *grid C"]) -> Float[Array, "B *T H W 3"]:
        """Pixels from 0 to 1, of vectors of codes."""
        return jnp.clip(self._each(self.decoder, vectors), 0, 1)

    def _each(self, way: Callable[[Array], Array], x: Array) -> Array:
        return over_frames(x, way) if self.sense == "image" else way(x)
