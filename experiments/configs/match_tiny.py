"""Captions, and whether a text tells a picture: minutes on one core.

python experiments/train.py --config match_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.losses import CaptionMatch
from mlm_jax.models.matching import Matching
from mlm_jax.models.multimodal import Multimodal, multimodal


def narrow(model: Multimodal, width: int = 64, depth: int = 2) -> Multimodal:
    """Half as wide as `vit_tiny`, its picture read by `depth` blocks."""
    bodies = {name: getattr(model, name) for name in ("image", "text", "fusion", "decoder")}
    parts = {k: replace(part, body=replace(part.body, width=width)) for k, part in bodies.items()}
    image = replace(parts["image"], body=replace(parts["image"].body, depth=depth))
    return replace(model, **parts | {"image": image})


model = multimodal(
    "tiny", patch=8, pixels=48, vocab=128, stem="conv",
    text_depth=1, fusion_depth=1, decoder_depth=2,
    image_rotary=10.0, decoder_rotary=100.0, qk_norm=True,
)  # fmt: skip
config = Config(
    model=replace(narrow(model), matching=Matching("hard")),
    loss=CaptionMatch(),
    data=Data("world", batch=32, captions=1, questions=0, text_length=16, target_length=24),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=1_500,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=4), steps=2)
