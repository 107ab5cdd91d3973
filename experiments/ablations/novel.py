"""What helps with combinations that training never showed: the split `novel` beside `test`.

python experiments/ablate.py novel
"""

from mlm_jax.ablation.plan import Ablation, Variant

ablation = Ablation(
    config="vit_tiny",
    variants=(
        Variant("as it is"),
        Variant("captions alone", {"data.questions": 0}),
        Variant("no places again", {"model.image.place_again": False}),
        Variant("pictures shifted", {"data.shift": 4}),
        Variant("joint fusion", {"model.fusion.kind": "joint"}),
    ),
    figures=("caption/facts_f1", "caption/wholly_right"),
    splits=("test", "novel"),
)
