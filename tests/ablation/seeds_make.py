"""Writes seeds.npz: what 40 seeds of one small classifier say about the same 600 test pictures.

    python tests/ablation/seeds_make.py DATA

DATA is where the embedded world lies or is built (--data.root). The seeds are trained at once, by
the project's own gradients and optimiser: other first parameters, another order of the data.
`right` (40, 600) is packed to bits along the pictures.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax

from mlm_jax import train
from mlm_jax.config import Config, Data, Optim, senses
from mlm_jax.data import loader, sources
from mlm_jax.data.labels import Labels
from mlm_jax.data.transforms import take_for
from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import Pool, Transformer
from mlm_jax.losses import Classes
from mlm_jax.models.vit import Vit
from mlm_jax.world.scene import CLASSES

SEEDS, STEPS, TRAIN, TEST = 40, 300, 1500, 600


def pictures(config: Config, split: str) -> dict[str, np.ndarray]:
    source = sources.open_source(config.data, split, ("image",))
    take = take_for(config.data, senses(config))
    rows = list(loader.eval_labelled(config.data, source, take, Labels(CLASSES), None))
    return {key: np.stack([row[key] for row in rows]) for key in ("image", "label")}


def main(root: str) -> None:
    body = Transformer(width=32, depth=1)
    config = Config(
        model=Vit(ImageEncoder((48, 48), 16, body=body), Pool("mean"), len(CLASSES)),
        loss=Classes(),
        data=Data("world/one", root, batch=16, captions=0, questions=0, threads=1),
        optim=Optim(lr=6e-3, warmup=10),
        steps=STEPS,
    )
    known, asked = pictures(config, f"train[:{TRAIN}]"), pictures(config, f"test[:{TEST}]")
    _, tx, _ = train.prepare(config, {k: v[: config.data.batch] for k, v in known.items()})

    def start(key):
        return config.model.init(key, {k: v[:1] for k, v in known.items()})["params"]

    def step(params, opt, key, known):
        choose, drop = jax.random.split(key)
        rows = jax.random.randint(choose, (config.data.batch,), 0, TRAIN)
        batch = {k: jax.numpy.asarray(v)[rows] for k, v in known.items()}
        grads, metrics, _ = train.gradients(config, params, batch, drop)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, metrics["accuracy"]

    def right(params, asked):
        logits = config.model.apply({"params": params}, asked)["logits"]
        return logits.argmax(-1) == asked["label"]

    keys = jax.vmap(jax.random.key)(np.arange(SEEDS))
    params = jax.jit(jax.vmap(start))(keys)
    opt = jax.vmap(tx.init)(params)
    move = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None)), donate_argnums=(0, 1))
    for number in range(STEPS):
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        params, opt, accuracy = move(params, opt, now, known)
        if number % 10 == 0:
            print(number, float(accuracy.mean()), flush=True)
    found = np.asarray(jax.jit(jax.vmap(right, in_axes=(0, None)))(params, asked))
    print("accuracy", found.mean(), "from seed to seed", found.mean(1).std(ddof=1))
    bits = np.packbits(found, axis=1)
    np.savez_compressed(Path(__file__).with_name("seeds.npz"), right=bits, count=found.shape[1])


if __name__ == "__main__":
    main(sys.argv[1])
