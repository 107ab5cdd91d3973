"""From a caption to CLIP's vector of a picture: the prior of `unclip_tiny`.

python experiments/train.py --config clip_tiny
python experiments/train.py --config prior_tiny
"""

from dataclasses import replace

from experiments.configs.clip_tiny import clip
from mlm_jax.config import Config, Data, Optim, Stage
from mlm_jax.layers import transformer
from mlm_jax.losses import Denoise
from mlm_jax.models.prior import DiffusionPrior, PriorNet

prior = DiffusionPrior(clip, net=PriorNet(transformer("tiny", qk_norm=True)))
config = Config(
    model=prior,
    loss=Denoise(),
    data=Data("world", batch=128, captions=1, questions=0, target_length=24),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=50, b2=0.98, ema=0.99),
    clip=Stage("runs/clip_tiny"),
    steps=1_000,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=4), clip=Stage(), steps=2)
