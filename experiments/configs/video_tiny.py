"""A small ViViT names what the one object of a clip does: minutes on two cores.

python experiments/train.py --config video_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import Pool, transformer
from mlm_jax.losses import Classes
from mlm_jax.models.video import Video
from mlm_jax.world.clip import KINDS

eyes = VideoEncoder(
    frames=16,
    size=(48, 48),
    patch=16,
    stem="conv",
    kind="factorised",
    body=replace(transformer("tiny", qk_norm=True), depth=1),
    time=replace(transformer("tiny", qk_norm=True), depth=2),
)
config = Config(
    model=Video(eyes, Pool("mean"), labels=len(KINDS)),
    loss=Classes(),
    data=Data("clips/one", batch=32, captions=0, questions=0),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=1_000,
)
tiny = replace(config, data=replace(config.data, name="clips/one_tiny", batch=4), steps=2)
