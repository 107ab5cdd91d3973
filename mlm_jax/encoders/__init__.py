"""Encoders: each reads one modality and returns Tokens."""

from mlm_jax.encoders.image import ImageEncoder
from mlm_jax.encoders.text import TextEncoder

__all__ = ["ImageEncoder", "TextEncoder"]
