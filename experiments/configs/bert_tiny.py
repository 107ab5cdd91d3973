"""BERT of the size of two cores fills in hidden words of captions.

python experiments/train.py --config bert_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import TextEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Hidden
from mlm_jax.models.bert import Bert

body = transformer("tiny", order="post", eps=1e-12)
config = Config(
    model=Bert(TextEncoder(128, 24, types=2, body=replace(body, depth=2))),
    loss=Hidden(),
    data=Data("world", batch=128, captions=2, questions=0, target_length=24),
    optim=Optim(lr=1e-3, schedule="linear", warmup=100, b2=0.98, ema=0.98),
    steps=1_000,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=4), steps=2)
