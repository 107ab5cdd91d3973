"""An experiment file like a user's own: small, with all that draws random numbers."""

OWN = """
from mlm_jax.config import Config, Data, Optim
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.fusion import Fusion
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import Multimodal

def body():
    return Transformer(width=16, depth=1, block=Block(heads=2, dropout=0.1))

config = Config(
    Multimodal(
        ImageEncoder(size=(16, 16), body=body()), TextEncoder(body=body()),
        Fusion(kind="concat"), TextDecoder(body=body()),
    ),
    Caption(),
    Data({folder!r}, batch=8, captions=1, questions=1, shift=2),
    Optim(warmup=10, ema=0.9, accumulate=2),
    steps={steps}, log_every=7, save_every=20, eval_every=0,
)
"""
