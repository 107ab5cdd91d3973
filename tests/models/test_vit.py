"""ViT: the loss of its classes, and DeiT's two heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Classes
from mlm_jax.models.vit import Vit

KEY = jax.random.key(0)
LOGITS = jax.random.normal(KEY, (4, 5))
LABEL = jnp.array([0, 4, 2, 2], jnp.int32)


def nats(logits: jax.Array, label: jax.Array) -> np.ndarray:
    chance = np.exp(np.asarray(logits, np.float64))
    chance /= chance.sum(-1, keepdims=True)
    return -np.log(chance[np.arange(len(chance)), label])


@pytest.mark.usefixtures("strict")
def test_loss_equals_a_sum_by_hand() -> None:
    loss, metrics = Classes()({"logits": LOGITS}, {"label": LABEL})
    assert float(loss) == pytest.approx(nats(LOGITS, LABEL).mean(), rel=1e-5)
    assert float(metrics["accuracy"]) == np.mean(np.asarray(LOGITS).argmax(-1) == LABEL)
    even = np.mean([nats(LOGITS, np.full(4, c)).mean() for c in range(5)])
    smooth, _ = Classes(0.1)({"logits": LOGITS}, {"label": LABEL})
    assert float(smooth) == pytest.approx(0.9 * float(loss) + 0.1 * even, rel=1e-5)


def test_the_second_head_learns_from_the_teacher() -> None:
    """Half the label's loss by the first head, half the teacher's by the second, unsmoothed."""
    model = Vit(
        ImageEncoder(
            (8, 8), 4, class_token=True, distillation_token=True,
            body=Transformer(16, 1, Block(heads=2)),
        ),
        labels=5, taught=True,
    )  # fmt: skip
    image = jax.random.randint(KEY, (4, 8, 8, 3), 0, 256).astype(jnp.uint8)
    taught = jnp.array([1, 4, 0, 3], jnp.int32)
    batch = {"image": image, "label": LABEL, "taught": taught}
    params = jax.jit(model.init)(KEY, batch)["params"]
    out = model.apply({"params": params}, batch)
    loss, metrics = Classes(0.1)(out, batch)
    first, _ = Classes(0.1)({"logits": out["own"]}, batch)
    second = nats(out["taught"], taught).mean()
    assert float(loss) == pytest.approx((float(first) + second) / 2, rel=1e-5)
    mean = (out["own"] + out["taught"]) / 2
    assert float(metrics["accuracy"]) == float((mean.argmax(-1) == LABEL).mean())
