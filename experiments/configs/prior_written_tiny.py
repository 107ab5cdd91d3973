"""The same by the other prior of DALL-E 2, which writes CLIP's vector one axis after the other.

python experiments/train.py --config clip_tiny
python experiments/train.py --config prior_written_tiny
python experiments/train.py --config codes_tiny
python experiments/train.py --config unclip_tiny --prior.run runs/prior_written_tiny --run runs/own
"""

from dataclasses import replace

from experiments.configs import prior_tiny
from experiments.configs.clip_tiny import clip
from mlm_jax.decoders import TextDecoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Coded
from mlm_jax.models.prior import AutoregressivePrior, PriorWriter

prior = AutoregressivePrior(
    clip, net=PriorWriter(TextDecoder(65, clip.width, body=transformer("tiny", qk_norm=True)))
)
config = replace(
    prior_tiny.config,
    model=prior,
    loss=Coded(),
    data=replace(prior_tiny.config.data, batch=32),
)
tiny = replace(prior_tiny.tiny, model=prior, loss=Coded())
