"""What a model that was read computes for the inputs of `reference.inputs`, in the same form."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.fusion import Fused
from mlm_jax.generate import Prompt, encode, generate
from mlm_jax.models.bert import Bert
from mlm_jax.models.blip import BlipAnswerer, BlipMatcher
from mlm_jax.models.clip import Clip
from mlm_jax.models.gpt import Gpt
from mlm_jax.models.vit import Vit

Arrays = dict[str, np.ndarray]
START, END, PAD = 1, 2, 0


@partial(jax.jit, static_argnames=("model", "method"))
def apply(model: Any, params: Any, *args: Any, method: str | None = None) -> Any:
    return model.apply({"params": params}, *args, method=method)


def run(model: Any, params: Any, x: Arrays) -> Arrays:
    ids, mask = jnp.asarray(x["ids"]), jnp.asarray(x["mask"])
    one_more = jnp.pad(ids, [(0, 0), (0, 1)])  # a model leaves out the last word of a target
    texts = {"text": ids, "text_mask": mask, "target": one_more, "target_mask": mask}
    batch = {"image": jnp.asarray(x["pixels"]), **texts}
    if isinstance(model, Bert):
        out = apply(model, params, ids, mask, jnp.asarray(x["types"]), method="read")
        found = {k: v[x["mask"]] if v.ndim == 3 else v for k, v in out.items()}
        if model.masked or model.labels:  # the reference gives the states of BertModel alone
            found = {k: v for k, v in found.items() if k in ("logits", "classes")}
    elif isinstance(model, Vit):
        name = "logits" if model.labels else "pooled"
        found = {name: apply(model, params, {"image": batch["image"]})[name]}
    elif isinstance(model, Clip):
        image = apply(model, params, batch["image"], method="see")
        text = apply(model, params, ids, pair_mask(model, mask), method="read")
        logits = apply(model, params, method="logits")
        found = {"logits": logits["scale"] * image @ text.T + logits["bias"]}
    elif isinstance(model, BlipMatcher):
        out = apply(model, params, {**batch, "target": ids})
        found = {"match": out["match"], "cosine": out["image"] @ out["text"].T}
    elif isinstance(model, Gpt):
        found = {"logits": apply(model, params, batch)["logits"][x["mask"]]}
    else:
        found = {"logits": apply(model, params, batch)["logits"][x["mask"]]}
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def pair_mask(model: Clip, mask: jax.Array) -> jax.Array:
    """SigLIP is told nothing about padding."""
    return jnp.ones_like(mask) if model.kind == "siglip" else mask


def write(model: Any, params: Any, x: Arrays) -> np.ndarray:
    """The greedy words, as `Case.generate` of the reference."""
    if isinstance(model, Gpt):
        fused = Fused()
        prompt = Prompt(jnp.asarray(x["ids"][:, ::-1]), jnp.asarray(x["mask"][:, ::-1]))
    else:
        texts = {"text": jnp.asarray(x["ids"]), "text_mask": jnp.asarray(x["mask"])}
        fused = encode(model, params, {"image": jnp.asarray(x["pixels"]), **texts})
        count = 1 if isinstance(model, BlipAnswerer) or model.decoder.head == "tied" else 3
        ids = np.c_[np.full(len(x["ids"]), START, np.int32), x["ids"][:, 1:count]]
        prompt = Prompt(jnp.asarray(ids), jnp.ones_like(ids, bool))
    written = generate(model, params, fused, bos=START, eos=END, pad=PAD, length=12, prompt=prompt)
    return np.asarray(written.ids)
