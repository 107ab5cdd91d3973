"""Decoders: each reads Tokens and writes one modality."""

from mlm_jax.decoders.text import TextDecoder

__all__ = ["TextDecoder"]
