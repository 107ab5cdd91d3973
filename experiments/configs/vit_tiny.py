"""A small ViT reads, a small BERT asks, a decoder captions and answers: minutes on two cores.

python experiments/train.py --config vit_tiny
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import multimodal

model = multimodal(
    "tiny", patch=8, pixels=48, vocab=128, stem="conv",
    image_depth=2, text_depth=1, fusion_depth=1, decoder_depth=2,
    image_rotary=10.0, decoder_rotary=100.0, qk_norm=True,
)  # fmt: skip
config = Config(
    model=model,
    loss=Caption(),
    data=Data("world", batch=32, captions=2, questions=8, text_length=16, target_length=24),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=1_050,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=4), steps=2)
