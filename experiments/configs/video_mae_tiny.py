"""A small video ViT paints the hidden tubes of a clip; its features are then probed.

python experiments/train.py --config video_mae_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Masked
from mlm_jax.models.video_mae import VideoMae

eyes = VideoEncoder(
    frames=16,
    size=(48, 48),
    patch=8,
    tube=2,
    kind="joint",
    positions="sines",
    body=replace(transformer("tiny", qk_norm=True), depth=3),
)
config = Config(
    model=VideoMae(
        eyes,
        decoder=replace(transformer("tiny", qk_norm=True), depth=1),
        hidden=0.75,
        target="plain",
    ),
    loss=Masked(),
    data=Data("clips/one", batch=32, captions=0, questions=0),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=800,
)
tiny = replace(config, data=replace(config.data, name="clips/one_tiny", batch=4), steps=2)
