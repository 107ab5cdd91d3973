"""GPT-2 small writes on: 50,257 words, 1,024 places.

python experiments/train.py --config gpt_small [--data.tokenizer FOLDER --data.name mine.jsonl]
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.decoders import TextDecoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Caption
from mlm_jax.models.gpt import Gpt

body = transformer("base", activation="gelu_tanh", eps=1e-5)
config = Config(
    model=Gpt(TextDecoder(50_257, 1_024, body=body)),
    loss=Caption(),
    data=Data("world", batch=256, captions=1, questions=0, target_length=128, vocab=50_257),
    optim=Optim(lr=6e-4, warmup=2_000, weight_decay=0.1, b2=0.95),
    steps=600_000,
    save_every=5_000,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=2), steps=2)
