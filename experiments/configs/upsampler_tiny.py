"""The last stage of a small DALL-E 2: what it paints, twice as large.

python experiments/train.py --config codes_tiny
python experiments/train.py --config clip_tiny
python experiments/train.py --config prior_tiny
python experiments/train.py --config unclip_tiny
python experiments/train.py --config upsampler_tiny
python experiments/generate.py --run runs/upsampler_tiny --prompt "a red circle" --out drawn
"""

from dataclasses import replace

from experiments.configs import unclip_tiny
from mlm_jax.config import Config, Data, Optim, Stage
from mlm_jax.decoders.denoiser import UNet
from mlm_jax.losses import Denoise
from mlm_jax.models.cascade import Cascade
from mlm_jax.models.painter import Canvas, Painter

config = Config(
    model=Cascade(
        unclip_tiny.config.model,
        Painter(
            Canvas((96, 96)),
            text=None,
            net=UNet((16, 32, 64), blocks=1, attends=()),
            dropped=0.0,
            enlarges=2,
        ),
    ),
    loss=Denoise(),
    data=Data("world/96px", batch=16, captions=1, questions=0, target_length=24),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=100, b2=0.98, ema=0.99),
    base=Stage("runs/unclip_tiny"),
    steps=1_000,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=4), base=Stage(), steps=2)
