"""NLVR with more told and asked of each picture of train.

python -m experiments.nlvr_questions ../shared/data/nlvr --out data/nlvr
python experiments/train.py --config nlvr_more
"""

from dataclasses import replace

from experiments.configs.nlvr import config as nlvr
from experiments.configs.nlvr import model
from mlm_jax.config import Config

config: Config = replace(
    nlvr,
    model=replace(model, decoder=replace(model.decoder, length=64)),
    data=replace(
        nlvr.data,
        name="data/nlvr/{split}.jsonl",
        train="train",
        captions=1,
        questions=12,
        batch=16,
        target_length=64,
    ),
    steps=1_500,
)
tiny = replace(config, data=replace(config.data, batch=2), steps=2)
