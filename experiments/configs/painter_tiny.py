"""Diffusion draws scenes of the embedded world as a caption tells it (DiT), from noise to codes.

python experiments/train.py --config codes_tiny
python experiments/train.py --config painter_tiny
python experiments/generate.py --run runs/painter_tiny --prompt "a red circle" --n 8 --out pictures
"""

from dataclasses import replace

from experiments.configs.codes_tiny import codes
from mlm_jax.config import Config, Data, Optim, Stage
from mlm_jax.decoders.denoiser import DiffusionTransformer
from mlm_jax.encoders import TextEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Denoise
from mlm_jax.models.painter import Canvas, Painter

LENGTH = 24
painter = Painter(
    Canvas((48, 48)),
    codes=codes,
    text=TextEncoder(128, LENGTH, body=replace(transformer("tiny", qk_norm=True), depth=1)),
    net=DiffusionTransformer(
        2, transformer("tiny", rotary=10.0, qk_norm=True), out=codes.quantiser.axes
    ),
    vivid=9.0,
    self_conditioned=True,
)
config = Config(
    model=painter,
    loss=Denoise(),
    data=Data("world", batch=32, captions=4, questions=0, target_length=LENGTH),
    optim=Optim("muon", lr=1e-2, schedule="linear", warmup=100, b2=0.98, ema=0.99),
    codes=Stage("runs/codes_tiny"),
    steps=2_400,
)
tiny = replace(
    config, data=replace(config.data, name="world/tiny", batch=4), codes=Stage(), steps=2
)
