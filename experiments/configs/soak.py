"""A model of seconds with all that draws random numbers: what experiments/soak.py kills.

python -m experiments.soak --kills 20
"""

from mlm_jax.config import Config, Data, Optim
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.fusion import Fusion
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import Multimodal


def body() -> Transformer:
    return Transformer(width=16, depth=1, block=Block(heads=2, dropout=0.1))


config = Config(
    model=Multimodal(
        image=ImageEncoder((16, 16), body=body()),
        text=TextEncoder(body=body()),
        fusion=Fusion("concat", body=body()),
        decoder=TextDecoder(body=body()),
    ),
    loss=Caption(),
    data=Data("world/tiny", batch=8, captions=1, questions=1, shift=2),
    optim=Optim(warmup=10, ema=0.9, accumulate=2),
    steps=400,
    log_every=1,
    save_every=5,
    eval_every=0,
)
tiny = config
