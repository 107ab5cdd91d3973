"""SHAPES with more questions about each picture of train, none of them asked in val.

python experiments/shapes_questions.py ../shared/data/shapes --out data/shapes
python experiments/train.py --config shapes_more
"""

from dataclasses import replace

from experiments.configs.shapes import config as shapes
from mlm_jax.config import Config
from mlm_jax.models.multimodal import multimodal

model = multimodal(
    "tiny", patch=16, pixels=48, vocab=64,
    image_depth=3, text_depth=1, fusion_depth=3, decoder_depth=1,
    image_rotary=10.0, decoder_rotary=100.0, qk_norm=True,
)  # fmt: skip
config: Config = replace(
    shapes,
    model=model,
    data=replace(shapes.data, name="data/shapes/{split}.jsonl", batch=16, questions=17),
    optim=replace(shapes.optim, lr=3e-3),
    steps=1_500,
)
tiny = replace(config, data=replace(config.data, batch=2), steps=2)
