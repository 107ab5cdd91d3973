"""A small ViT names the one object of a picture, by colour and shape: two minutes on one core.

python experiments/train.py --config vit_classifier_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import Pool, transformer
from mlm_jax.losses import Classes
from mlm_jax.models.vit import Vit
from mlm_jax.world.scene import CLASSES

body = replace(transformer("tiny", rotary=10.0, qk_norm=True), depth=2)
config = Config(
    model=Vit(ImageEncoder((48, 48), 8, "conv", body=body), Pool("mean"), len(CLASSES)),
    loss=Classes(),
    data=Data("world/one", batch=64, captions=0, questions=0),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=450,
)
tiny = replace(config, data=replace(config.data, name="world/one_tiny", batch=4), steps=2)
