"""Does finding and telling apart help writing? Captions alone, with the contrast, with both.

python experiments/ablate.py objective
"""

from dataclasses import replace

from experiments.configs import match_tiny
from mlm_jax.ablation.objectives import CaptionContrastive
from mlm_jax.ablation.plan import Ablation, Variant
from mlm_jax.config import Config
from mlm_jax.losses import Caption
from mlm_jax.models.matching import Matching
from mlm_jax.models.multimodal import Multimodal


def written(config: Config) -> Config:
    """Without the heads that meet."""
    assert isinstance(config.model, Multimodal)
    return replace(config, model=replace(config.model, matching=Matching("off")), loss=Caption())


def found(config: Config) -> Config:
    return replace(config, loss=CaptionContrastive())


caption, caption_tiny = written(match_tiny.config), written(match_tiny.tiny)
contrast, contrast_tiny = found(match_tiny.config), found(match_tiny.tiny)

ablation = Ablation(
    config="match_tiny",
    variants=(
        Variant("captions alone", config=f"{__file__}:caption"),
        Variant("and the contrast", config=f"{__file__}:contrast"),
        Variant("and matching"),
    ),
    figures=("caption/facts_f1", "caption/wholly_right"),
)
