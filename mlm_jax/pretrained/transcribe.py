"""What a published Whisper writes of a sound file.

heard = transcribe(Path("whisper-tiny"), Path("speech.wav"), language="en")
heard.text
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlm_jax.config import UserError
from mlm_jax.data.sounds import read_sound
from mlm_jax.encoders import AudioEncoder
from mlm_jax.generate import encode, generate
from mlm_jax.models.whisper import Whisper
from mlm_jax.pretrained.script import script
from mlm_jax.pretrained.store import load
from mlm_jax.pretrained.vocabulary import load_tokenizer


class Transcript(NamedTuple):
    """`ids` without those that the text begins with and without its end."""

    text: str
    ids: tuple[int, ...]


def transcribe(folder: Path, file: Path, *, language: str = "", task: str = "") -> Transcript:
    """The likeliest words, one after the other, without times.

    `language` is a code or a name, "de" or "German", and is needed where the checkpoint knows
    several and its files settle on none; `task` is "transcribe" or "translate", "" what the folder
    says or else transcribe. Raises: UserError where the folder is no Whisper, does not know one of
    the two, or the sound cannot be read or is longer than the model hears at once.
    """
    read = load(folder)
    if not isinstance(read.model, Whisper):
        raise UserError(f"{folder} holds a {type(read.model).__name__}; transcribe takes a Whisper")
    given, tokenizer = script(folder, language=language, task=task), load_tokenizer(folder)
    fused = encode(read.model, read.params, {"audio": whole(file, read.model.audio)[None]})
    ids = (
        generate(
            read.model,
            read.params,
            fused,
            bos=given.start[0],
            eos=given.eos,
            pad=given.pad,
            length=read.model.decoder.length - len(given.start),
            prompt=given.prompt(1),
        )
        .ids[0]
        .tolist()
    )
    words = ids[: ids.index(given.eos)] if given.eos in ids else ids
    return Transcript(tokenizer.decode(words).strip(), tuple(words))


def whole(file: Path, ears: AudioEncoder) -> np.ndarray:
    """int16 (samples,), silence after the sound. Raises: UserError."""
    wave = read_sound(file, ears.samples + 1, ears.mel.rate, str(file))
    if len(wave) > ears.samples:
        most = f"{ears.samples / ears.mel.rate:g} seconds"
        raise UserError(f"{file} is longer than the {most} of this model: cut it into such parts")
    return np.pad(wave, (0, ears.samples - len(wave)))
