"""ViT-S/16 at 96 pixels and a text encoder of its width: a GPU in an hour, a CPU overnight.

python experiments/train.py --config vit_small
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import multimodal

config = Config(
    model=multimodal(
        "small", patch=16, pixels=96, vocab=4096, stem="conv",
        text_length=64, target_length=64, fusion_depth=4, decoder_depth=6,
    ),
    loss=Caption(),
    data=Data("world/96px", batch=128, text_length=32, target_length=32, vocab=4096),
    optim=Optim(lr=1e-3, warmup=500, b2=0.98, ema=0.999),
    steps=10_000,
    save_every=1_000,
)  # fmt: skip
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=2), steps=2)
