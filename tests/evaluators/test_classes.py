"""What is measured of classes, counted by hand; a run from the command line to its figures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from experiments import evaluate as command
from mlm_jax import evaluate as verb
from mlm_jax.ablation import pictures
from mlm_jax.checks import check
from mlm_jax.config import Config, Data, Fields, Init, Optim, UserError
from mlm_jax.data.records import Record
from mlm_jax.data.transforms import Decode, Shift, Take
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.evaluators import at_once, classes, probe
from mlm_jax.evaluators.probe import Pictures
from mlm_jax.export import export
from mlm_jax.layers import Block, Pool, Transformer
from mlm_jax.losses import Classes, Masked
from mlm_jax.metrics import bootstrap
from mlm_jax.models.bert import Bert
from mlm_jax.models.mae import Mae
from mlm_jax.models.vit import Vit
from mlm_jax.report import split_of
from mlm_jax.train import train


def test_macro_f1_is_the_mean_over_the_classes_that_occur() -> None:
    """Class 0: 2*2/(2+3); class 1: 2*1/(3+2); class 2 is said once and never is: 0; 3: neither."""
    right, said = [0, 0, 0, 1, 1], [0, 0, 1, 1, 2]
    best = [np.array([s, 9, 8, 7, 6]) for s in said]
    counts = [classes.judged(row, label, 0, 4) for row, label in zip(best, right, strict=True)]
    figures = bootstrap(counts, classes.statistics(set().union(*counts)))
    want = [2 * 2 / (2 + 3), 2 * 1 / (2 + 2), 0.0]
    assert figures["classes/macro_f1"].value == pytest.approx(np.mean(want))
    assert figures["classes/accuracy"].value == pytest.approx(3 / 5)
    assert figures["classes/majority"].value == pytest.approx(3 / 5)
    assert "classes/accuracy@5" not in figures


def test_the_right_class_among_five() -> None:
    counts = [classes.judged(np.arange(5), label, 0, 9) for label in (0, 4, 5)]
    figures = bootstrap(counts, classes.statistics(set().union(*counts)))
    assert figures["classes/accuracy"].value == pytest.approx(1 / 3)
    assert figures["classes/accuracy@5"].value == pytest.approx(2 / 3)


def test_counts_of_many_classes_are_kept_without_those_by_class() -> None:
    counts = [classes.judged(np.arange(5), 3, 0, 1000)] * 2
    whole = classes.kept([4, 9], counts, 10)
    assert whole == dict(zip([4, 9], counts, strict=True))
    few = classes.kept([4, 9], counts, 1000)
    assert {*few[9]} == {"pictures", "right", "among", "common"}
    assert {*classes.statistics({*few[9]})} == {
        "classes/accuracy", "classes/accuracy@5", "classes/majority",
    }  # fmt: skip
    assert classes.kept([4, 4], counts, 10) == {}, "a split such as test+test"


class Brightness:
    """Class 1 the likelier the brighter a picture is."""

    def apply(self, params: object, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        odds = batch["image"].mean((1, 2, 3))
        return {"logits": jnp.stack([jnp.zeros_like(odds), odds], -1)}


def test_views_are_averaged_by_probability() -> None:
    """One view that is nearly sure counts no more than two that are rather sure."""
    odds = np.array([[9.0, -2.0, -2.0], [1.0, 1.0, -1.0]], np.float32)
    image = np.broadcast_to(odds[:, :, None, None, None], (2, 3, 4, 4, 3))
    assert odds[0].mean() > 0
    best = classes.likeliest(Brightness(), {}, {"image": image}, 2)
    assert best[:, 0].tolist() == [0, 1]
    alone = classes.likeliest(Brightness(), {}, {"image": image[:, :1]}, 2)
    assert alone[:, 0].tolist() == [1, 1]


def test_views_are_the_same_each_time_and_the_first_is_plain() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    take = Take(image=Decode((16, 16)), shift=Shift(4))
    record = Record("a.jsonl:3", image=picture)
    seen = classes.Views(take, 5)(record)["image"]
    np.testing.assert_array_equal(seen, classes.Views(take, 5)(record)["image"])
    np.testing.assert_array_equal(seen[0], picture)
    assert len({view.tobytes() for view in seen}) > 3
    np.testing.assert_array_equal(classes.Views(take, 1)(record)["image"], picture[None])


def test_no_more_rows_at_a_time_than_training_held() -> None:
    config = Config(None, None, Data(batch=12), Optim(accumulate=2))
    assert at_once(config, 128) == 6
    assert at_once(config, 4) == 4
    assert at_once(replace(config, data=Data(batch=1), optim=Optim()), 128) == 1
    rows = [{"label": np.array(i)} for i in range(8)]
    read = [(batch["label"].tolist(), real) for batch, real in classes.batches(rows, 6)]
    assert read == [([0, 1, 2, 3, 4, 5], 6), ([6, 7, 7, 7, 7, 7], 2)]
    ((alone, real),) = classes.batches(rows[:3], 6)
    assert (alone["label"].tolist(), real) == ([0, 1, 2], 3), "nothing to fill up to"


class Sure:
    """Class 5 by far, then 4, 3, 2, 1 and 0."""

    def apply(self, params: object, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"logits": jnp.array([0.0, 1, 2, 3, 4, 500])[None].repeat(len(batch["image"]), 0)}


def test_a_sure_model_still_orders_the_others() -> None:
    best = classes.likeliest(Sure(), {}, {"image": np.zeros((2, 3, 4, 4, 3), np.float32)}, 6)
    assert best.tolist() == [[5, 4, 3, 2, 1]] * 2


def body() -> Transformer:
    return Transformer(16, 1, Block(heads=2))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain pictures of three colours, their captions as labels."""
    folder = toy.write_pictures(tmp_path_factory.mktemp("colours") / "set", 48)
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    for row in rows:
        row["label"] = row.pop("captions")[0].split()[-1]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings(folder: Path, **changes: object) -> Config:
    config = Config(
        Vit(ImageEncoder(toy.SIZE, 4, body=body()), Pool("mean"), labels=3),
        Classes(),
        Data(str(folder), batch=8, captions=0, questions=0, threads=1),
        Optim(lr=0.01, warmup=2),
        steps=20,
        eval_every=20,
    )
    return replace(config, **changes)


def test_a_classifier_of_texts_learns_is_measured_and_is_handed_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows without pictures; what is no label is nothing but a broken record, which is told."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for i in range(60):
        colour, thing = rng.choice(["red", "green", "blue"]), rng.choice(["disc", "star"])
        text, label = f"this {thing} is {colour}", colour if i not in (5, 7) else 0.5
        rows.append({"text": text, "label": label, "split": "test" if i % 4 == 3 else "train"})
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    post = replace(body(), block=Block(heads=2, order="post"))
    data = Data(str(file), batch=8, captions=1, questions=0, text_length=4, target_length=8,
                fields=Fields(captions="text"), threads=1)  # fmt: skip
    reader = TextEncoder(16, 8, types=2, body=post)
    model = Bert(reader, masked=False, pooler=True, labels=3)
    config = settings(tmp_path, model=model, data=data, steps=120, eval_every=120)
    assert train(config, tmp_path / "run") == 0
    assert f"1 record left out:\n  {file}:6: label: " in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == ["blue", "green", "red"]
    figures = verb.evaluate(tmp_path / "run")
    assert f"1 record left out:\n  {file}:8: label: " in capsys.readouterr().out
    assert figures["classes/accuracy"].value == 1
    assert figures["classes/accuracy"].n == 14
    assert len(pictures.load(tmp_path / "run", "test").pictures) == 14
    assert figures["classes/majority"].value < 0.7
    with pytest.raises(UserError, match="views 2: all would be alike"):
        verb.evaluate(tmp_path / "run", views=2)
    with pytest.raises(UserError, match="--rank is for captions"):
        verb.evaluate(tmp_path / "run", views=2, rank=True)
    kind, _ = export(tmp_path / "run", tmp_path / "out")
    assert kind == "BertForSequenceClassification"


def test_a_classifier_learns_and_is_measured(colours: Path, tmp_path: Path) -> None:
    config = settings(colours)
    config = replace(config, data=replace(config.data, shift=1))
    check(config)
    assert train(config, tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == ["blue", "green", "red"]
    with pytest.raises(UserError, match="views 0: at least 1"):
        verb.evaluate(tmp_path / "run", views=0)
    for views in (1, 3):
        figures = verb.evaluate(tmp_path / "run", views=views)
        assert figures["classes/accuracy"].value == 1
        assert figures["classes/accuracy"].n == 12
    assert figures["classes/views"].value == 3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "whose probabilities were averaged" in page
    assert "<small>--views 3</small>" in page
    assert figures["classes/majority"].value == pytest.approx(1 / 3)
    counted = pictures.load(tmp_path / "run", "test")
    assert counted.source == (str(colours), "test")
    assert counted.pictures == tuple(range(12))
    sums = {name: np.array([column.sum()]) for name, column in counted.columns.items()}
    again = {name: make(sums)[0] for name, make in classes.statistics({*sums}).items()}
    assert again == {name: figures[name].value for name in again}
    (tmp_path / "run" / "classes.json").write_text('["red", "green", "blue"]')
    figures = verb.evaluate(tmp_path / "run")
    assert figures["classes/accuracy"].value == pytest.approx(1 / 3), "read back, not made anew"
    again = replace(config, init=Init(str(tmp_path / "run")), optim=Optim(lr=1e-9), steps=1)
    assert train(again, tmp_path / "again") == 0
    figures = verb.evaluate(tmp_path / "again")
    assert figures["classes/accuracy"].value == pytest.approx(1 / 3), "rows by those names"


def test_outputs_of_no_class_are_no_answers() -> None:
    class Sure(nn.Module):
        def __call__(self, batch: Any) -> Any:
            return {"logits": jnp.tile(jnp.arange(10.0), (len(batch["image"]), 1))}

    batch = {"image": jnp.zeros((2, 1, 4, 4, 3))}
    assert np.asarray(classes.likeliest(Sure(), {}, batch, 3)).tolist() == [[2, 1, 0]] * 2
    assert np.asarray(classes.likeliest(Sure(), {}, batch, 10)).tolist() == [[9, 8, 7, 6, 5]] * 2


def test_a_run_is_measured_on_other_data(colours: Path, tmp_path: Path) -> None:
    """Rows without splits, of fewer classes, files elsewhere; the baseline is the run's own."""
    assert train(settings(colours, eval_every=0), tmp_path / "run") == 0
    rows = [{"image": f"{i}.png", "label": ["red", "green", "blue"][i % 3]} for i in range(24)]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows if row["label"] != "red"))
    run = tmp_path / "run"
    given = ["--run", str(run), "--data", str(other), "--images", str(colours)]
    assert command.main([*given, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["classes/accuracy"]["n"] == 16
    assert figures["classes/accuracy"]["value"] == 1
    assert figures["classes/majority"]["value"] == 0, "red, the first of three alike"
    assert not (run / "evaluation.json").exists()
    (file,) = run.glob("evaluation*.json")
    assert split_of(file, "evaluation") == f"data {other}"
    assert json.loads((run / "classes.json").read_text()) == ["blue", "green", "red"]
    command.main([*given, "--split", "train[:25%]"])
    assert pictures.load(run, f"train[:25%] of {other}").pictures == (0, 1, 2, 3)
    with pytest.raises(UserError, match="--images needs --data"):
        command.main([*given[:2], "--images", "x"])


def test_too_many_classes_are_refused(colours: Path, tmp_path: Path) -> None:
    config = settings(colours)
    config = replace(config, model=replace(config.model, labels=2))
    with pytest.raises(UserError, match=r"has 3 classes, but model\.labels is 2"):
        train(config, tmp_path / "run")


def test_texts_beside_classes_are_refused(colours: Path) -> None:
    config = settings(colours, data=Data(str(colours)))
    with pytest.raises(UserError, match="the loss reads no texts"):
        check(config)


@pytest.mark.slow
def test_a_masked_autoencoder_trains_and_is_probed(colours: Path, tmp_path: Path) -> None:
    eyes = ImageEncoder(toy.SIZE, 2, class_token=True, body=body())
    config = settings(colours, model=Mae(eyes, body()), loss=Masked(), steps=2)
    assert train(config, tmp_path / "run") == 0
    assert not (tmp_path / "run" / "classes.json").exists()
    figures = verb.evaluate(tmp_path / "run")
    assert figures["probe/pixels"].value == 1, "a colour is read off the pixels"
    assert set(figures) == {f"probe/{n}" for n in ("accuracy", "untrained", "pixels", "majority")}


def test_the_probe_is_where_the_gradient_is_0() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)
    linear = probe.fit(jnp.asarray(x), jnp.asarray(y), 0.1, 3)
    logits = np.asarray(probe.apply(linear, jnp.asarray(x)), np.float64)
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (chance - np.eye(3)[y]) / len(x)
    np.testing.assert_allclose(error.sum(0), 0, atol=1e-4)
    np.testing.assert_allclose(x.T @ error + 0.1 * np.asarray(linear["kernel"]), 0, atol=1e-4)


def test_a_probe_reads_what_is_linear_and_no_more() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 5))
    linear, folded = (values[:, 0] > 0).astype(int), (values[:, 0] * values[:, 1] > 0).astype(int)
    for label, low, high in ((linear, 0.97, 1.0), (folded, 0.3, 0.7)):
        known, asked = Pictures(values[:200], label[:200]), Pictures(values[200:], label[200:])
        found = probe.probe(lambda x: jnp.asarray(x, jnp.float32), known, asked, 2)
        assert low <= (found == asked.label).mean() <= high
