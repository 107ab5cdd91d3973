"""A grid: learning rate and the average of the parameters.

python experiments/ablate.py rate --seeds 3
"""

from mlm_jax.ablation.plan import Ablation, Grid

ablation = Ablation(
    config="vit_classifier_tiny",
    variants=Grid({"optim.lr": (1.4e-3, 4.2e-3, 1.26e-2), "optim.ema": (0.0, 0.98)}),
    baseline="optim.lr=0.0042 optim.ema=0.98",
    figures=("classes/accuracy",),
)
