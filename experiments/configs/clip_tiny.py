"""CLIP of the size of two cores: pictures and captions as vectors that meet.

Beside each caption stands one that is wrong by a word, without which it learns nothing of who is on
which side, and what draws can not be chosen by it.

python experiments/train.py --config clip_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.layers import Pool, transformer
from mlm_jax.losses import Contrastive
from mlm_jax.models.clip import Clip

eyes = transformer("tiny", rotary=10.0, qk_norm=True)
words = transformer("tiny", rotary=100.0, qk_norm=True)
clip = Clip(
    image=ImageEncoder((48, 48), 8, "conv", class_token=True, body=replace(eyes, depth=2)),
    text=TextEncoder(128, 24, causal=True, body=replace(words, depth=2)),
    pool=Pool("mean"),
    width=128,
)
config = Config(
    model=clip,
    loss=Contrastive(),
    data=Data("world", batch=128, captions=1, questions=0, target_length=24, contrary=True),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=1_500,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=4), steps=2)
