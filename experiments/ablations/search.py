"""Random draws: learning rate, weight decay and smoothing of a classifier.

python experiments/ablate.py search --seeds 3
"""

from mlm_jax.ablation.plan import Ablation, Draws, Range

ablation = Ablation(
    config="vit_classifier_tiny",
    variants=Draws(
        {
            "optim.lr": Range(5e-4, 2e-2, log=True),
            "optim.weight_decay": Range(0.0, 0.2),
            "loss.smoothing": (0.0, 0.1),
        },
        count=8,
    ),
    figures=("classes/accuracy",),
)
