"""The seven ways in which picture and text come together, over the same encoders and decoder.

python experiments/ablate.py fusion
"""

from mlm_jax.ablation.plan import Ablation, Variant

KINDS = ("cross_attention", "concat", "joint", "gated", "resampler", "bottleneck", "prefix")

ablation = Ablation(
    config="vit_tiny",
    variants=tuple(Variant(kind, {"model.fusion.kind": kind}) for kind in KINDS),
    figures=("caption/facts_f1", "caption/wholly_right", "vqa/accuracy"),
)
