"""Layers that know no modality.

One alphabet for shapes: B batch, N and M tokens, D width, H heads, G key/value heads, K head
width, T frames, C channels, V vocabulary.
"""

from mlm_jax.layers.attention import Attention
from mlm_jax.layers.embed import ConvStem, PatchStem, Positions, TubeletStem
from mlm_jax.layers.pool import Pool
from mlm_jax.layers.tokens import Causal, Tokens, concatenate
from mlm_jax.layers.transformer import MLP, SIZES, Block, Norm, Transformer, transformer
from mlm_jax.layers.words import WordHead, Words

__all__ = [
    "MLP",
    "SIZES",
    "Attention",
    "Block",
    "Causal",
    "ConvStem",
    "Norm",
    "PatchStem",
    "Pool",
    "Positions",
    "Tokens",
    "Transformer",
    "TubeletStem",
    "WordHead",
    "Words",
    "concatenate",
    "transformer",
]
