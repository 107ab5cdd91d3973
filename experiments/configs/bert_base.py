"""BERT-base fills in hidden words: 30,522 words, 512 places.

python experiments/train.py --config bert_base [--data.tokenizer FOLDER --data.name mine.jsonl]
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import TextEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Hidden
from mlm_jax.models.bert import Bert

body = transformer("base", order="post", eps=1e-12)
config = Config(
    model=Bert(TextEncoder(30_522, 512, types=2, body=body)),
    loss=Hidden(),
    data=Data("world", batch=256, captions=1, questions=0, target_length=128, vocab=30_522),
    optim=Optim(lr=1e-4, schedule="linear", warmup=10_000, weight_decay=0.01),
    steps=1_000_000,
    save_every=5_000,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=2), steps=2)
