"""A small video ViT says what happens in a clip, from when to when: minutes on two cores.

python experiments/train.py --config events_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Spans
from mlm_jax.models.video import Events
from mlm_jax.world.clip import KINDS

eyes = VideoEncoder(
    frames=16,
    size=(48, 48),
    patch=16,
    stem="conv",
    around=1,
    kind="joint",
    body=replace(transformer("tiny", qk_norm=True), depth=2),
)
config = Config(
    model=Events(eyes, labels=len(KINDS)),
    loss=Spans(),
    data=Data("clips", batch=32, captions=0, questions=0, events=3),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=700,
)
tiny = replace(config, data=replace(config.data, name="clips/tiny", batch=4), steps=2)
