"""A small DALL-E 2: a painter that is told CLIP's vector of the picture, and a prior's guess of it.

It reads captions as CLIP does at first, which knows by then what goes with what.

python experiments/train.py --config codes_tiny
python experiments/train.py --config clip_tiny
python experiments/train.py --config prior_tiny
python experiments/train.py --config unclip_tiny
python experiments/generate.py --run runs/unclip_tiny --prompt "a red circle" --n 8 --out pictures
"""

from copy import deepcopy
from dataclasses import replace

from experiments.configs import painter_tiny, prior_tiny
from mlm_jax.config import Init, Stage
from mlm_jax.models.unclip import Unclip

prior = prior_tiny.prior
painter = painter_tiny.painter.clone(
    text=deepcopy(prior.clip.text), embedding=prior.clip.width, silent=0.25
)
config = replace(
    painter_tiny.config,
    model=Unclip(prior, painter),
    prior=Stage("runs/prior_tiny"),
    init=Init("runs/clip_tiny", take=("painter/text=text",)),
    steps=2_200,
)
tiny = replace(painter_tiny.tiny, model=config.model)
