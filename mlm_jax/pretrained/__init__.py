"""Published weights, read and written: safetensors and config.json, without torch.

    model, params = ...load(Path("bert-base-uncased")).model, ....params

One file a family holds its name map, which serves both directions.
"""

from mlm_jax.pretrained.store import FAMILIES, Pretrained, load, save

__all__ = ["FAMILIES", "Pretrained", "load", "save"]
