"""With what a published Whisper begins and ends its texts: generation_config.json, config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from mlm_jax.config import UserError, suggest
from mlm_jax.generate import Prompt
from mlm_jax.pretrained.files import CONFIG, GENERATION, listed, read_json
from mlm_jax.pretrained.languages import code_of
from mlm_jax.pretrained.settings import Settings


class Script(NamedTuple):
    """The ids with which a text begins, by which it ends, and that fill up."""

    start: tuple[int, ...]
    eos: int
    pad: int

    def prompt(self, rows: int) -> Prompt:
        """For `generate`."""
        whole = jnp.tile(jnp.array(self.start, jnp.int32), (rows, 1))
        return Prompt(whole, jnp.ones_like(whole, bool))


def script(folder: Path, *, language: str = "", task: str = "") -> Script:
    """As the folder says that texts without times are written.

    `language` is a code or a name, "de" or "German"; `task` is "transcribe" or "translate". Raises:
    UserError where the folder leaves one of them open, as the language that a multilingual Whisper
    hears first.
    """
    path = folder / (GENERATION if (folder / GENERATION).is_file() else CONFIG)
    said = Settings(read_json(path), "")
    language = code_of(language or str(said.get("language", "")))
    task = task or str(said.get("task", ""))
    languages, tasks = _table(said, "lang_to_id"), _table(said, "task_to_id")
    start = [_id(said, "decoder_start_token_id")]
    forced = [] if language or task else _forced(said, Settings(read_json(folder / CONFIG), ""))
    start += [index for index in forced if index is not None]
    if language:
        start.append(_named(languages, f"<|{language.strip('<|>')}|>", "language"))
    elif languages and (not forced or forced[0] is None):
        known = ", ".join(name.strip("<|>") for name in languages)
        said.wrong.append(f"the language is to be given, one of {known}")
    if task:
        start.append(_named(tasks, task, "task"))
    elif language and tasks and not {*tasks.values()} & {*start}:
        start.append(_named(tasks, "transcribe", "task"))
    if said.get("no_timestamps_token_id") is not None:
        last = _id(said, "no_timestamps_token_id")
        start += [last] if start[-1] != last else []
    found = Script(tuple(start), _id(said, "eos_token_id"), _id(said, "pad_token_id"))
    if said.wrong:
        raise UserError(f"{path}:\n{listed(said.wrong)}")
    return found


def _id(said: Settings, key: str) -> int:
    value = said.get(key, -1)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if type(value) is not int or value < 0:
        said.refuse(key, "must be one id")
        return 0
    return value


def _table(said: Settings, key: str) -> Mapping[str, int]:
    value = said.get(key, {})
    if not isinstance(value, dict) or not all(type(v) is int for v in value.values()):
        said.refuse(key, "must be an object, names to ids")
        return {}
    return value


def _forced(said: Settings, model: Settings) -> list[int | None]:
    """Of [[1, id], [2, id], ...]; null is the language, which is heard."""
    value = said.get("forced_decoder_ids", model.get("forced_decoder_ids", []))
    try:
        places, found = [pair[0] for pair in value], [pair[1] for pair in value]
    except (TypeError, LookupError):
        places, found = [], [""]
    kinds = {type(index) for index in found}
    if places != [*range(1, len(found) + 1)] or not kinds <= {int, type(None)}:
        said.refuse("forced_decoder_ids", "must be [1, id], [2, id], ...")
        return []
    return found


def _named(table: Mapping[str, int], name: str, what: str) -> int:
    if name not in table:
        raise UserError(f"{what} {name} is none of this checkpoint{suggest(name, list(table))}")
    return table[name]
