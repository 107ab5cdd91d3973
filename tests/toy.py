"""A model that compiles in a second, a folder of pictures to train it on, and its configuration."""

import json
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mlm_jax.config import Config, Data, Optim
from mlm_jax.encoders import ImageEncoder, TextEncoder, VideoEncoder
from mlm_jax.layers import Block, Pool, Transformer
from mlm_jax.losses import Caption
from mlm_jax.models.clip import Clip

SIZE = (8, 8)


class Eye(nn.Module):
    size: tuple[int, int] = SIZE
    width: int = 8

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = nn.Dense(self.width, name="patch")(jnp.zeros((len(image), 1)) + 1.0)
        pixels = image.reshape(len(image), -1).astype(x.dtype) / 255
        return x + nn.Dense(self.width, name="pixels")(pixels)


class Toy(nn.Module):
    """Next token from the picture and the token before."""

    image: Eye = field(default_factory=Eye)
    vocab: int = 16
    dropout: float = 0.0

    @nn.compact
    def __call__(self, batch: Any, *, train: bool = False) -> dict[str, jax.Array]:
        seen = self.image(batch["image"])
        words = nn.Embed(self.vocab, self.image.width, name="words")(batch["target"][:, :-1])
        seen = jnp.repeat(seen, len(words) // len(seen), axis=0)
        x = nn.LayerNorm(name="norm")(words + seen[:, None])
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return {"logits": nn.Dense(self.vocab, name="head")(x).astype(jnp.float32)}


def batch(pictures: int = 4, texts: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens; the rows differ in length."""
    rng = np.random.default_rng(seed)
    rows = pictures * texts
    mask = np.arange(7) < rng.integers(3, 8, (rows, 1))
    return {
        "image": rng.integers(0, 256, (pictures, *SIZE, 3), np.uint8),
        "text": np.zeros((rows, 3), np.int32),
        "text_mask": np.ones((rows, 3), bool),
        "target": rng.integers(4, 16, (rows, 7), np.int32) * mask,
        "target_mask": mask,
    }


def write_pictures(folder: Path, count: int = 24) -> Path:
    """A folder of plain pictures with captions that name the colour."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    folder.mkdir()
    rows = []
    for i in range(count):
        name, rgb = list(colours.items())[i % 3]
        Image.new("RGB", SIZE, rgb).save(folder / f"{i}.png")
        split = "test" if i % 4 == 3 else "train"
        rows.append({"image": f"{i}.png", "captions": [f"it is {name}"], "split": split})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config(folder: Path, **changes: Any) -> Config:
    data = Data(
        str(folder), batch=4, captions=1, questions=0, text_length=4, target_length=6, threads=1
    )
    keys: dict[str, Any] = {"steps": 12, "save_every": 4, "log_every": 3, "eval_every": 6}
    optim = Optim(lr=0.01, warmup=2, ema=0.9)
    whole = Config(Toy(dropout=0.1), Caption(), data, optim, **keys)
    return replace(whole, **changes)


# --- what is drawn by ---


def body() -> Transformer:
    return Transformer(16, 1, Block(heads=2, ratio=1.0))


def clip(frames: int = 0) -> Clip:
    """Of pictures, or of clips of so many frames."""
    return Clip(
        None if frames else ImageEncoder(SIZE, 4, body=body()),
        TextEncoder(20, 6, causal=True, body=body()),
        pool=Pool("mean"),
        width=8,
        video=VideoEncoder(frames, SIZE, 4, body=body(), time=body()) if frames else None,
    )


def stirred(model: nn.Module, batch: Any, by: float = 0.05) -> Any:
    """Parameters of nets that say something: their last layers begin at zero."""
    fresh = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + by * rng.normal(size=x.shape).astype(np.float32), fresh)


def inside(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """What a model and each of its parts give by parameters in bfloat16, as shapes."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes)

    def see(params: Any) -> Any:
        keep: dict[str, Any] = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return model.apply({"params": params}, batch, **keep)

    out, kept = jax.eval_shape(see, half)
    return out, kept["intermediates"]


def floats(tree: Any) -> set[Any]:
    """The floating dtypes in it."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(tree)}
    return {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}
