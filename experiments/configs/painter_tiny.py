"""Diffusion draws scenes of the embedded world from noise, as a caption tells it (DiT).

python experiments/train.py --config painter_tiny
python experiments/generate.py --run runs/painter_tiny --prompt "a red circle" --n 8 --out pictures
"""

from dataclasses import replace

from mlm_jax.config import Config, Data, Optim
from mlm_jax.decoders.denoiser import DiffusionTransformer
from mlm_jax.encoders import TextEncoder
from mlm_jax.layers import transformer
from mlm_jax.losses import Denoise
from mlm_jax.models.painter import Canvas, Painter

LENGTH = 24
painter = Painter(
    Canvas((48, 48)),
    text=TextEncoder(128, LENGTH, body=transformer("tiny", qk_norm=True)),
    net=DiffusionTransformer(4, transformer("tiny", qk_norm=True)),
)
config = Config(
    model=painter,
    loss=Denoise(),
    data=Data("world", batch=32, captions=1, questions=0, target_length=LENGTH),
    optim=Optim("muon", lr=4.2e-3, schedule="linear", warmup=100, b2=0.98, ema=0.99),
    steps=4_000,
)
tiny = replace(config, data=replace(config.data, name="world/tiny", batch=4), steps=2)
