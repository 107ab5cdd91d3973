"""How much less is learnt from less data, in as many steps.

python experiments/ablate.py data_fraction
"""

from mlm_jax.ablation.plan import Ablation, Variant

ablation = Ablation(
    config="vit_tiny",
    variants=(
        Variant("all"),
        *(Variant(f"{p} %", {"data.train": f"train[:{p}%]"}) for p in (50, 25, 10)),
    ),
    figures=("caption/facts_f1", "caption/wholly_right", "vqa/accuracy"),
)
