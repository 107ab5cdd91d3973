"""CLIP ViT-B/32 at 224: 49,408 words, 77 places, vectors of 512.

python experiments/train.py --config clip_base [--data.tokenizer FOLDER --data.name mine.jsonl]
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.layers import Block, Transformer, transformer
from mlm_jax.losses import Contrastive
from mlm_jax.models.clip import Clip

eyes = transformer("base", activation="quick_gelu", eps=1e-5)
words = Transformer(512, 12, Block(heads=8, activation="quick_gelu", eps=1e-5))
config = Config(
    model=Clip(
        image=ImageEncoder(
            (224, 224), 32, patch_bias=False, class_token=True, pre_norm=True, body=eyes
        ),
        text=TextEncoder(49_408, 77, causal=True, body=words),
        width=512,
    ),
    loss=Contrastive(),
    data=Data("world/224px", batch=1_024, captions=1, questions=0, target_length=77, vocab=49_408),
    optim=Optim(lr=5e-4, warmup=2_000, weight_decay=0.2, b2=0.98),
    steps=100_000,
    save_every=1_000,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=2), steps=2)
