"""Conversations: how they lie in a batch, what of them is learned, and that they are learned."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy

from mlm_jax import evaluate, train
from mlm_jax.config import Data, Fields, UserError
from mlm_jax.data.records import BadRecord
from mlm_jax.data.rows import parse_chat
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import words
from mlm_jax.data.transforms import Tokenise
from mlm_jax.data.validate import validate
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.fusion import Fusion
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption
from mlm_jax.models.gpt import Gpt
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.trained import chat, look, open_trained

BODY = Transformer(32, 1, Block(heads=2))
CHAT = [
    {"role": "user", "content": "is it red"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "is it big"},
    {"role": "assistant", "content": "no"},
]


def parse(messages: Any) -> Any:
    return parse_chat({"messages": messages}, "rows:1", Fields())


def test_a_conversation_is_its_first_question_and_what_follows() -> None:
    (asked,) = parse(CHAT)
    assert (asked.text, asked.answers, asked.then) == (
        "is it red",
        ("yes",),
        (("is it big", "no"),),
    )
    (asked,) = parse([{"role": "system", "content": "be short"}, *CHAT[:2]])
    assert asked.text == "be short is it red"
    assert parse(None) == ()


@pytest.mark.parametrize(
    "messages",
    ["hello", [1], CHAT[:3], CHAT[1:], [*CHAT[:1], {"role": "assistant"}], CHAT[::-1]],
)
def test_what_is_no_conversation_is_named(messages: Any) -> None:
    with pytest.raises(BadRecord, match="rows:1: messages"):
        parse(messages)


@pytest.mark.parametrize("inline", [False, True])
def test_answers_alone_are_scored(inline: bool) -> None:
    tokenizer = words(["is it red big yes no"])
    row = Tokenise(tokenizer, 4, 16, inline)("is it red", "yes", "x", (("is it big", "no"),))
    text = [tokenizer.inner.id_to_token(i).strip("▁") for i in row["target"][row["target_mask"]]]
    first = "[BOS] is it red " if inline else ""
    assert " ".join(text) == f"{first}[BOS] yes [EOS] [BOS] is it big [BOS] no [EOS]"
    scored = [tokenizer.inner.id_to_token(i).strip("▁") for i in row["target"][row["scored"]]]
    assert scored == ["yes", "[EOS]", "no", "[EOS]"]
    assert row["text_mask"].sum() == (0 if inline else 3)
    with pytest.raises(BadRecord, match=r"has 5 tokens; --data.target-length 7 accepts [23]"):
        Tokenise(tokenizer, 4, 7, inline=False)("is it", "yes", "x", (("is it big", "no"),))


def conversations(folder: Path, pictures: bool) -> Path:
    """The colour of what is talked about, and whether that was said before."""
    toy.write_pictures(folder)
    rows = []
    for i, row in enumerate(map(json.loads, (folder / "data.jsonl").read_text().splitlines())):
        colour = row["captions"][0].split()[-1]
        said = "what is it" if pictures else f"it is {colour}"
        turns = [(said, "i see"), ("which colour", colour), (f"is it {colour}", "yes")]
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        image = {"image": row["image"]} if pictures else {}
        image = image or ({"image": None} if i % 2 else {})
        rows.append({"messages": messages, "split": row["split"], **image})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config(data: Path, model: Any) -> Any:
    whole = toy.config(data, model=model, loss=Caption(), steps=150, save_every=150, eval_every=0)
    lengths = {"captions": 0, "questions": 1, "text_length": 6, "target_length": 24}
    return replace(whole, data=replace(whole.data, batch=8, **lengths))


def test_gpt_learns_a_conversation_without_pictures(tmp_path: Path) -> None:
    data = conversations(tmp_path / "data", pictures=False)
    assert len(open_source(Data(str(data)), "train", ())) == 18
    with pytest.raises(UserError, match="image"):
        open_source(Data(str(data)), "train")
    model = Gpt(TextDecoder(32, 24, body=replace(BODY)))
    assert train.train(config(data, model), tmp_path / "run") == 0
    assert evaluate.evaluate(tmp_path / "run")["answers/exact"].value == 1
    trained = open_trained(tmp_path / "run")
    asked = [
        {"role": "user", "content": "it is green"},
        {"role": "assistant", "content": "i see"},
        {"role": "user", "content": "which colour"},
    ]
    assert chat(trained, asked)[0].text == "green"
    with pytest.raises(BadRecord, match="roles"):
        chat(trained, asked[:2])
    with pytest.raises(BadRecord, match="no list"):
        chat(trained, None)  # type: ignore[arg-type]
    run = config(data, model)
    assert validate(run.data, "train", run) == 0
    assert validate(run.data, "train") == 1  # by itself it wants pictures


@pytest.mark.slow
def test_the_multimodal_model_learns_a_conversation_about_a_picture(tmp_path: Path) -> None:
    data = conversations(tmp_path / "data", pictures=True)
    model = Multimodal(
        ImageEncoder(toy.SIZE, 4, body=replace(BODY)),
        TextEncoder(32, 6, body=replace(BODY)),
        Fusion(body=replace(BODY)),
        TextDecoder(32, 24, body=replace(BODY)),
    )
    assert train.train(config(data, model), tmp_path / "run") == 0
    trained = open_trained(tmp_path / "run")
    for number, colour in enumerate(("red", "green", "blue")):
        image = look(trained, {"image": data / f"{number}.png"})
        asked = [{"role": "user", "content": "what is it"},
                 {"role": "assistant", "content": "i see"},
                 {"role": "user", "content": "which colour"}]  # fmt: skip
        assert chat(trained, asked, image)[0].text == colour
