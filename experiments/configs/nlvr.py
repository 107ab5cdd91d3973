"""NLVR (Suhr et al. 2017): is a human sentence true of three boxes of shapes? Evaluated on dev.

python experiments/train.py --config nlvr
"""

from dataclasses import replace

from experiments.configs import REAL
from mlm_jax.config import Config, Data, Fields, Optim
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import multimodal

model = multimodal(
    "tiny", patch=16, pixels=(64, 256), vocab=512, stem="conv", text_length=48,
    image_depth=2, text_depth=1, fusion_depth=2, decoder_depth=1,
    image_rotary=10.0, decoder_rotary=100.0, qk_norm=True, dropout=0.1,
)  # fmt: skip
config = Config(
    model=model,
    loss=Caption(),
    data=Data(
        name=f"{REAL}/nlvr/{{split}}.jsonl",
        images=(f"{REAL}/nlvr/images_train.zip", f"{REAL}/nlvr/images_dev.zip"),
        fields=Fields(question="sentence", answers="label"),
        train="train_presented+train_lf_pairs",
        test="dev",
        captions=0,
        batch=32,
        questions=2,
        text_length=48,
        target_length=4,
    ),
    optim=Optim("muon", lr=3e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=800,
)
tiny = replace(config, data=replace(config.data, batch=2), steps=2)
