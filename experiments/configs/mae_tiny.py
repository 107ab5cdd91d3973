"""A small ViT paints the hidden three quarters of a picture; its features are then probed.

python experiments/train.py --config mae_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Masked
from mlm_jax.models.mae import Mae

config = Config(
    model=Mae(
        ImageEncoder((48, 48), 8, class_token=True, body=transformer("tiny", qk_norm=True)),
        decoder=replace(transformer("tiny", qk_norm=True), depth=1),
        target="plain",
    ),
    loss=Masked(),
    data=Data("world/one", batch=128, captions=0, questions=0),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=1_200,
)
tiny = replace(config, data=replace(config.data, name="world/one_tiny", batch=4), steps=2)
