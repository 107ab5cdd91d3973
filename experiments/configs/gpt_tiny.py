"""GPT of the size of two cores writes captions that could have been.

python experiments/train.py --config gpt_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.decoders import TextDecoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Caption
from mlm_jax.models.gpt import Gpt

body = transformer("tiny", activation="gelu_tanh", eps=1e-5)
config = Config(
    model=Gpt(TextDecoder(128, 24, body=replace(body, depth=2))),
    loss=Caption(),
    data=Data("world", batch=128, captions=2, questions=0, target_length=24),
    optim=Optim(lr=1e-3, schedule="linear", warmup=100, b2=0.98, ema=0.98),
    steps=1_000,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=4), steps=2)
