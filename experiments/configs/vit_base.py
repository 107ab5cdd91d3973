"""ViT-B/16 at 224 reads, BERT-base asks, a decoder of 12 layers answers.

python experiments/train.py --config vit_base
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import multimodal

config = Config(
    model=multimodal(
        "base", patch=16, pixels=224, vocab=30_522,
        text_length=512, text_types=2, target_length=512, fusion_depth=6,
    ),
    loss=Caption(),
    data=Data(
        "world/224px", batch=256, captions=1, text_length=32, target_length=32, vocab=30_522
    ),
    optim=Optim(lr=3e-4, warmup=1_000, weight_decay=0.05, b2=0.98, ema=0.9995),
    steps=50_000,
    save_every=1_000,
)  # fmt: skip
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=1), steps=2)
