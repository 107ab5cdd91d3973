"""Pictures and clips from words: the codes that a text is gone on with, or what noise becomes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from mlm_jax.config import UserError
from mlm_jax.fusion import Fused
from mlm_jax.generate import How, Params, Prompt, generate
from mlm_jax.models.dalle import Dalle
from mlm_jax.trained import Trained, unknown

Pixels = UInt8[np.ndarray, "N *T H W 3"]


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn. `codes` is for models that write codes."""

    codes: How = field(default_factory=lambda: How("sample", top_p=0.95, guidance=2.0))


def draw(
    trained: Trained,
    prompts: Sequence[str],
    *,
    how: Drawing | None = None,
    seed: int = 0,
    begun: Pixels | None = None,
) -> Pixels:
    """A picture, or clip, for each prompt.

    `begun`: for each a picture whose upper half is kept, and the rest drawn anew. The same prompts
    and seed give the same pictures. Raises: UserError where the model draws nothing, or a prompt
    has words that the run has never seen or is too long.
    """
    drawers: dict[type, Callable[..., Array]] = {Dalle: by_codes}
    model = trained.config.model
    if type(model) not in drawers:
        raise UserError(f"{trained.path} is a {type(model).__name__}, which draws nothing")
    ids = read_prompts(trained, prompts)
    drawer = partial(drawers[type(model)], model, trained.params, ids)
    return np.asarray(drawer(how or Drawing(), jax.random.key(seed), begun))


def read_prompts(trained: Trained, prompts: Sequence[str]) -> Int[np.ndarray, "N M"]:
    """Ids of the prompts, filled up. Raises: UserError naming the words that are not known."""
    for prompt in prompts:
        if not prompt.strip():
            raise UserError("--prompt is empty: it says what is to be seen")
        words = unknown(trained.tokenizer, prompt)
        if words:
            raise UserError(
                f"--prompt {prompt!r}: {trained.path} has never seen: {', '.join(words)}"
            )
    return np.stack([trained.tokenise("", each, "--prompt")["target"] for each in prompts])


# --- codes ---


@partial(jax.jit, static_argnames=("model", "how"))
def by_codes(
    model: Dalle, params: Params, ids: Int[Array, "N M"], how: Drawing, key: Array, begun: Any
) -> UInt8[Array, "N *T H W 3"]:
    codes = written(model, params, ids, how.codes, key, begun)
    pixels: Any = model.apply({"params": params}, codes, method=pixels_of)
    return (pixels * 255).round().astype(jnp.uint8)


def written(
    model: Dalle, params: Params, ids: Int[Array, "N M"], how: How, key: Array, begun: Any = None
) -> Int[Array, "N codes"]:
    """The codes that follow each caption; of `begun` pictures the first half is given."""
    count = int(np.prod(model.codes.eyes.grid))
    text = model.filled(jnp.asarray(ids))
    given = jnp.zeros((len(text), 0), jnp.int32)
    if begun is not None:
        codes: Any = model.apply({"params": params}, begun, method=codes_of)
        given = codes[:, : count // 2]

    def prompt(text: Array) -> Prompt:
        whole = jnp.concatenate([text, model.words + given], axis=1)
        return Prompt(whole, jnp.ones_like(whole, bool))

    guided = how.guidance != 1
    texts = generate(
        model,
        params,
        Fused(),
        bos=-1,
        eos=-1,
        pad=-1,
        length=count - given.shape[1],
        how=how,
        key=key,
        unconditional=Fused() if guided else None,
        prompt=prompt(text),
        empty=prompt(model.hidden(text)) if guided else None,
        least=model.words,
    )
    return jnp.concatenate([given, texts.ids - model.words], axis=1)


def pixels_of(model: Dalle, codes: Array) -> Array:
    return model.codes.decode_codes(codes)


def codes_of(model: Dalle, shown: Array) -> Array:
    return model.codes.encode_codes(shown)
