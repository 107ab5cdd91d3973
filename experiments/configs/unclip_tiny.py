"""A small DALL-E 2: a painter that is told CLIP's vector of the picture, and a prior's guess of it.

python experiments/train.py --config codes_tiny
python experiments/train.py --config clip_tiny
python experiments/train.py --config prior_tiny
python experiments/train.py --config unclip_tiny
python experiments/generate.py --run runs/unclip_tiny --prompt "a red circle" --n 8 --out pictures
"""

from dataclasses import replace

from experiments.configs import painter_tiny, prior_tiny
from mlm_jax.config import Stage
from mlm_jax.models.unclip import Unclip

prior = prior_tiny.prior
config = replace(
    painter_tiny.config,
    model=Unclip(prior, painter_tiny.painter.clone(embedding=prior.clip.width, silent=0.25)),
    prior=Stage("runs/prior_tiny"),
)
tiny = replace(painter_tiny.tiny, model=config.model)
