"""Video: what is done in a clip, and when (a video encoder and a head)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import Norm, Pool
from mlm_jax.layers.transformer import ACTIVATIONS


class Video(nn.Module):
    """Video encoder -> pool -> logits of `labels` classes, float32 (B, labels).

    `norm_eps` is that of a norm between the two (VideoMAE); 0: none.
    """

    video: VideoEncoder = field(default_factory=VideoEncoder)
    pool: Pool = field(default_factory=lambda: Pool("mean"))
    norm_eps: float = 0.0
    labels: int = 10

    @nn.compact
    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        pooled = self.pool(self.video(batch["video"], train=train))
        if self.norm_eps:
            pooled = Norm(eps=self.norm_eps, name="norm")(pooled)
        return {"logits": nn.Dense(self.labels, name="head")(pooled).astype(jnp.float32)}


class Events(nn.Module):
    """Video encoder -> at each time, of each class: is it going on, since and until when?

    A one-stage detector without anchors (FCOS, arXiv:1904.01355, in time: ActionFormer,
    arXiv:2202.07925, section 3.2), with spans of each class of its own, so that events of different
    classes may overlap. `losses.Spans` trains it and `detect.spans` reads it.
    """

    video: VideoEncoder = field(default_factory=VideoEncoder)
    labels: int = 10

    @nn.compact
    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """ "present": logits (B, t, labels); "reach": how far the span goes back and on from the
        middle of each time, as shares of the clip, (B, t, labels, 2); float32.
        """
        tokens = self.video(batch["video"], train=train)
        width, times = tokens.x.shape[-1], self.video.grid[0]
        x = tokens.x[:, len(self.video.extra) :]
        x = x.reshape(len(x), times, -1, width).mean(2)
        act = ACTIVATIONS["gelu_tanh"]
        rare = nn.initializers.constant(-4.6)  # 1 %: most times are none of most (arXiv:1708.02002)

        def hidden(name: str) -> Array:
            return act(nn.Conv(width, (3,), name=name)(x))

        present = nn.Dense(self.labels, bias_init=rare, name="present")(hidden("present_in"))
        reach = nn.DenseGeneral((self.labels, 2), name="reach")(hidden("reach_in"))
        return {
            "present": present.astype(jnp.float32),
            "reach": nn.softplus(reach.astype(jnp.float32)) / times,
        }
