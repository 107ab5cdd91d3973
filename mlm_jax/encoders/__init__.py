"""Encoders: each reads one modality and returns Tokens."""

from mlm_jax.encoders.audio import AudioEncoder
from mlm_jax.encoders.image import ImageEncoder
from mlm_jax.encoders.text import TextEncoder
from mlm_jax.encoders.video import VideoEncoder

__all__ = ["AudioEncoder", "ImageEncoder", "TextEncoder", "VideoEncoder"]
