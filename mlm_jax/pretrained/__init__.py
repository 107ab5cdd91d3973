"""Published weights, read and written: safetensors and config.json, without torch.

    read = load(Path("bert-base-uncased"))
    read.model.apply({"params": read.params}, ids, mask, method="read")

One file a family holds its name map, which serves both directions.
"""

from mlm_jax.pretrained.store import FAMILIES, Pretrained, load, save

__all__ = ["FAMILIES", "Pretrained", "load", "save"]
