"""What a model that was read computes for the inputs of `reference_video_audio.inputs`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ours import apply

from mlm_jax.generate import encode, generate
from mlm_jax.models.video import Video
from mlm_jax.models.whisper import Whisper
from mlm_jax.pretrained.script import Script, script

Arrays = dict[str, np.ndarray]


def run(model: Any, params: Any, x: Arrays) -> Arrays:
    if isinstance(model, Video):
        batch = {"video": jnp.asarray(x["video"])}
    else:  # spectrograms come to the reference's models after the mean and the std
        model = replace(model, audio=replace(model.audio, mean=0.0, std=1.0))
        batch = {"audio": jnp.asarray(x["audio"])}
    if isinstance(model, Whisper):  # which leaves out the last word of a target
        batch["target"] = jnp.pad(jnp.asarray(x["ids"]), [(0, 0), (0, 1)])
    logits = np.asarray(apply(model, params, batch)["logits"], np.float32)
    return {"logits": logits[x["mask"]] if "mask" in x else logits}


def write(model: Whisper, params: Any, x: Arrays, folder: Path, **said: str) -> np.ndarray:
    """The greedy words; the end is not among them, as in the reference."""
    given: Script = script(folder, **said)
    fused = encode(model, params, {"audio": jnp.asarray(x["audio"])})
    ends = {"bos": given.start[0], "eos": given.eos, "pad": given.pad}
    prompt = given.prompt(len(x["audio"]))
    ids = np.asarray(generate(model, params, fused, **ends, length=12, prompt=prompt).ids)
    return np.where(ids == given.eos, given.pad, ids)
