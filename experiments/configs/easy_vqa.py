"""easy-VQA: one coloured shape, 13 answers; a tenth of the pictures is held out.

python experiments/train.py --config easy_vqa
"""

from dataclasses import replace

from experiments.configs import REAL
from mlm_jax.config import Config, Data, Fields, Optim
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import multimodal

model = multimodal(
    "tiny", patch=8, pixels=64, vocab=64, stem="conv",
    image_depth=2, text_depth=1, fusion_depth=1, decoder_depth=2,
)  # fmt: skip
config = Config(
    model=model,
    loss=Caption(),
    data=Data(
        name=f"{REAL}/easy_vqa/{{split}}.jsonl",
        images=(f"{REAL}/easy_vqa/images_{{split}}.zip",),
        fields=Fields(answers="answer"),
        train="train[:90%]",
        test="train[90%:]",
        captions=0,
        batch=32,
        questions=6,
        text_length=16,
        target_length=4,
    ),
    optim=Optim("muon", lr=4e-3, schedule="linear", warmup=50, b2=0.98, ema=0.98),
    steps=450,
)
tiny = replace(config, data=replace(config.data, batch=2), steps=2)
