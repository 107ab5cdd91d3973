"""What a run keeps, and losses that read what is not there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import toy

from mlm_jax import evaluate, sharding, train
from mlm_jax.checks import check
from mlm_jax.config import UserError
from mlm_jax.encoders import ImageEncoder, TextEncoder, VideoEncoder
from mlm_jax.export import export
from mlm_jax.feed import open_feed
from mlm_jax.layers import Block, Tokens, Transformer
from mlm_jax.losses import Caption, Classes, Contrastive, Hidden, Match
from mlm_jax.models.bert import Bert
from mlm_jax.models.blip import BlipMatcher
from mlm_jax.models.video import Video
from mlm_jax.models.vit import Vit
from mlm_jax.pretrained.pixels import load_pixels
from mlm_jax.run import open_run

BODY = Transformer(16, 1, Block(heads=2))


def test_a_run_keeps_its_image_processor(tmp_path: Path) -> None:
    data = toy.write_pictures(tmp_path / "data")
    rows = [json.loads(line) for line in (data / "data.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**r, "label": r.pop("captions")[0]}) + "\n" for r in rows)
    (data / "data.jsonl").write_text(text)
    folder = tmp_path / "published"
    folder.mkdir()
    own = {"image_processor_type": "ViTImageProcessor", "size": 8, "resample": 0}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    eyes = ImageEncoder(toy.SIZE, 4, class_token=True, body=replace(BODY))
    config = toy.config(data, model=Vit(eyes, labels=3), loss=Classes(), steps=4, save_every=2)
    pictures = replace(config.data, captions=0, questions=0, preprocessor=str(folder))
    config = replace(config, data=pictures)
    run = tmp_path / "run"
    assert train.train(replace(config), run) == 0
    shutil.rmtree(folder)
    (run / "checkpoints" / "4").rename(tmp_path / "4")
    assert train.train(config, run) == 0
    evaluate.evaluate(run)
    export(run, tmp_path / "out")
    assert int(load_pixels(tmp_path / "out").resample) == 0


def test_a_run_of_clips_keeps_it_as_well(tmp_path: Path) -> None:
    folder, size = toy.write_pictures(tmp_path / "data"), {"height": 8, "width": 8}
    names = [f"{i}.png" for i in range(4)]
    (folder / "data.jsonl").write_text(json.dumps({"video": names, "label": "a"}) + "\n")
    own = {"image_processor_type": "ViTImageProcessor", "size": size, "resample": 0}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    eyes = VideoEncoder(frames=2, size=toy.SIZE, patch=4, body=replace(BODY))
    config = toy.config(folder, model=Video(eyes, labels=1), loss=Classes())
    clips = replace(config.data, captions=0, questions=0, preprocessor=str(folder))
    with open_run(tmp_path / "run", replace(config, data=clips)) as run:
        feed = open_feed(replace(config, data=clips), run, sharding.make_mesh(config.mesh))
    assert feed.config.data.preprocessor == str(tmp_path / "run")
    assert int(load_pixels(tmp_path / "run").resample) == 0
    assert feed.take.video.decode.published == load_pixels(tmp_path / "run")


def retrieval() -> BlipMatcher:
    eyes = ImageEncoder(toy.SIZE, 4, class_token=True, body=replace(BODY))
    return BlipMatcher(eyes, TextEncoder(16, 8, body=replace(BODY)), 12)


def reader(**fields: object) -> Bert:
    return Bert(TextEncoder(16, 8, types=2, body=replace(BODY)), **fields)


@pytest.mark.parametrize(
    ("model", "loss", "said"),
    [
        (retrieval(), Contrastive(), "Contrastive reads 'scale', .* BlipMatcher gives .match, "),
        (retrieval(), Match(), "Match reads 'match_real'"),
        (retrieval(), Caption(), "Caption reads 'logits'"),
        (reader(masked=False), Hidden(), "Hidden reads 'logits', .* Bert gives .tokens"),
    ],
)
def test_a_loss_that_reads_what_is_not_there(
    model: object, loss: object, said: str, tmp_path: Path
) -> None:
    data = toy.write_pictures(tmp_path / "data")
    with pytest.raises(UserError, match=said):
        train.train(toy.config(data, model=model, loss=loss), tmp_path / "run")


def test_one_text_has_one_class(tmp_path: Path) -> None:
    config = toy.config(tmp_path, model=reader(masked=False, pooler=True, labels=3), loss=Classes())
    check(config)
    with pytest.raises(UserError, match=r"data.captions is 2: one text has one class"):
        check(replace(config, data=replace(config.data, captions=2)))


def test_scalars_are_not_rounded() -> None:
    cast = train.cast({"scale": jnp.array(4.6052), "kernel": jnp.ones((2, 2))}, "bfloat16")
    assert cast["scale"] == jnp.float32(4.6052)
    assert cast["kernel"].dtype == jnp.bfloat16


def test_gates_keep_the_dtype() -> None:
    tokens = Tokens(jnp.ones((1, 3, 16), jnp.bfloat16), jnp.ones((1, 3), bool))
    block = Block(heads=2)
    params = block.init(
        jax.random.key(0),
        Tokens(jnp.ones((1, 3, 16)), tokens.mask),
        gated=(Tokens(jnp.ones((1, 3, 16)), tokens.mask),),
    )["params"]
    out = jax.eval_shape(
        lambda p: block.apply({"params": train.cast(p, "bfloat16")}, tokens, gated=(tokens,)),
        params,
    )
    assert out.x.dtype == jnp.bfloat16
