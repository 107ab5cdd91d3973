"""SHAPES (Andreas et al. 2016): yes or no about a 3x3 grid; no question of val occurs in train.

One token a cell, and one self-attention over cells and words: what holds between two cells is
asked of them together.

    python experiments/train.py --config shapes
"""

from dataclasses import replace

from experiments.configs import REAL
from mlm_jax.config import Config, Data, Fields, Optim
from mlm_jax.fusion import Fusion
from mlm_jax.layers import transformer
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import multimodal

model = multimodal(
    "tiny", patch=16, pixels=48, vocab=64, qk_norm=True,
    image_depth=1, text_depth=1, decoder_depth=1,
)  # fmt: skip
config = Config(
    model=replace(
        model,
        fusion=Fusion(
            "joint", body=replace(transformer("tiny", dropout=0.1, qk_norm=True), depth=4)
        ),
    ),
    loss=Caption(),
    data=Data(
        name=f"{REAL}/shapes/{{split}}.jsonl",
        images=(f"{REAL}/shapes/{{split}}.npz",),
        fields=Fields(answers="answer"),
        train="train_small+train_large_regen",
        test="val",
        captions=0,
        batch=128,
        questions=1,
        text_length=16,
        target_length=4,
    ),
    optim=Optim("muon", lr=1.5e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=1_500,
)
tiny = replace(config, data=replace(config.data, batch=2), steps=2)
