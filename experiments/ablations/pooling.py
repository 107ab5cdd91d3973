"""Many tokens to one vector, in a classifier: minutes a run, where `vit_tiny` pools nothing.

python experiments/ablate.py pooling
"""

from mlm_jax.ablation.plan import Ablation, Variant

ablation = Ablation(
    config="vit_classifier_tiny",
    variants=(
        Variant("mean", {"model.pool.kind": "mean"}),
        Variant("class token", {"model.pool.kind": "first", "model.image.class_token": True}),
        Variant("attention", {"model.pool.kind": "attention"}),
        Variant("attention and MLP", {"model.pool.kind": "map"}),
    ),
    figures=("classes/accuracy", "classes/macro_f1"),
)
