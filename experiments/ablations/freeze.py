"""Which parts must learn: the encoders stay as they began, drawn at random or as they were read.

python experiments/ablate.py freeze [--init.path runs/other --init.take image text]
"""

from mlm_jax.ablation.plan import Ablation, Variant

PARTS = (("image",), ("text",), ("image", "text"), ("fusion",), ("decoder",))

ablation = Ablation(
    config="vit_tiny",
    variants=(
        Variant("all learn"),
        *(Variant(f"{' and '.join(parts)} still", {"optim.freeze": parts}) for parts in PARTS),
    ),
    figures=("caption/facts_f1", "caption/wholly_right", "vqa/accuracy"),
)
