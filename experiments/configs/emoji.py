"""Emoji: tell the name of a picture; `evaluate.py --rank` says how far up the right one is.

python experiments/train.py --config emoji
"""

from dataclasses import replace

from experiments.configs import REAL
from mlm_jax.config import Config, Data, Fields, Optim
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import multimodal

config = Config(
    model=multimodal(
        "tiny", patch=8, pixels=64, vocab=1024, stem="conv",
        text_depth=1, fusion_depth=1, decoder_depth=2,
    ),
    loss=Caption(),
    data=Data(
        name=f"{REAL}/emoji/emoji.jsonl",
        images=(f"{REAL}/emoji/images_72.zip",),
        fields=Fields(captions="name"),
        train="train",
        test="val",
        captions=1,
        questions=0,
        batch=64,
        shift=4,
        text_length=8,
        target_length=32,
        tokenizer="bpe",
        vocab=1024,
    ),
    optim=Optim("muon", lr=1.5e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=300,
)  # fmt: skip
tiny = replace(config, data=replace(config.data, batch=2), steps=2)
