"""Pixels to tokens: a few small convolutions (arXiv:2106.14881), or plain patches.

python experiments/ablate.py stem
"""

from mlm_jax.ablation.plan import Ablation, Variant

ablation = Ablation(
    config="vit_tiny",
    variants=(
        Variant("convolutions", {"model.image.stem": "conv"}),
        Variant("patches of 8", {"model.image.stem": "patch"}),
        Variant("patches of 6", {"model.image.stem": "patch", "model.image.patch": 6}),
    ),
    figures=("caption/facts_f1", "caption/wholly_right", "vqa/accuracy"),
)
