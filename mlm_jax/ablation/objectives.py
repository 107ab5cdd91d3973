"""Losses between those of `losses.py`, for ablations of what a model is told to learn."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from mlm_jax.losses import Batch, CaptionMatch, Metrics, Outputs


@dataclass(frozen=True)
class CaptionContrastive(CaptionMatch):
    """`CaptionMatch` without its third term: write and find; pairs are not told apart.

    `match` is not read. The head that would be is drawn and stays as it is.
    """

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        loss, metrics = self.caption(outputs, batch)
        nats, further = self.contrastive(outputs, batch)
        named = {f"contrastive_{name}": value for name, value in further.items()}
        return loss + nats, metrics | {"contrastive_loss": nats} | named
