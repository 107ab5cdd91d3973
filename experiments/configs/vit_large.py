"""The multimodal model of vit_base at the width and depth of ViT-L/16.

python experiments/train.py --config vit_large --precision bfloat16
"""

from dataclasses import replace

from experiments.configs.vit_base import config as base
from mlm_jax.models.multimodal import multimodal

large = multimodal(
    "large", patch=16, pixels=224, vocab=30_522,
    text_length=512, text_types=2, target_length=512, fusion_depth=6,
)  # fmt: skip
config = replace(
    base,
    model=large,
    data=replace(base.data, batch=128),
    optim=replace(base.optim, lr=2e-4, accumulate=2),
)
tiny = replace(
    config,
    data=replace(config.data, name="world/tiny", batch=1),
    optim=replace(config.optim, accumulate=1),
    steps=2,
)
