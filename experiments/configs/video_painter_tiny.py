"""Diffusion draws clips of the embedded world as a caption tells them, from noise to codes.

python experiments/train.py --config codes_tiny
python experiments/train.py --config video_painter_tiny
python experiments/generate.py --run runs/video_painter_tiny --prompt "a red cross turns" --out new
"""

from dataclasses import replace

from experiments.configs.codes_tiny import codes
from mlm_jax.config import Config, Data, Optim, Stage
from mlm_jax.decoders.denoiser import DiffusionTransformer
from mlm_jax.decoders.diffusion import Schedule
from mlm_jax.encoders import TextEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Denoise
from mlm_jax.models.painter import Canvas, Painter

LENGTH = 12
painter = Painter(
    None,
    Canvas((48, 48), frames=8),
    codes=codes,
    text=TextEncoder(64, LENGTH, body=replace(transformer("tiny", qk_norm=True), depth=1)),
    net=DiffusionTransformer(
        3, transformer("tiny", rotary=10.0, qk_norm=True), out=codes.quantiser.axes
    ),
    schedule=Schedule(shift=2.0),
)
config = Config(
    model=painter,
    loss=Denoise(),
    data=Data("clips/one_short", batch=8, captions=4, questions=0, target_length=LENGTH),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=100, b2=0.98, ema=0.99),
    codes=Stage("runs/codes_tiny"),
    steps=6_000,
)
tiny = replace(
    config, data=replace(config.data, name="clips/one_tiny", batch=4), codes=Stage(), steps=2
)
