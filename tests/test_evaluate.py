"""A whole evaluation of a small run: figures against counting by hand, and the scripts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from mlm_jax.ablation import pictures
from mlm_jax.checkpoint import Checkpoints
from mlm_jax.config import Config, Data, UserError
from mlm_jax.data import loader, sources, tokenizers
from mlm_jax.data.loader import Pair
from mlm_jax.data.transforms import Take, decode_for
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.evaluate import as_options, evaluate
from mlm_jax.evaluators import texts
from mlm_jax.fusion import Fusion
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption
from mlm_jax.metrics import bootstrap
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.run import open_run
from mlm_jax.scorers import captions
from mlm_jax.trained import open_trained
from mlm_jax.world import language, scene

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def write_set(folder: Path) -> Path:
    """Plain pictures; a caption for all, for picture i also i % 3 questions of two kinds."""
    folder.mkdir()
    rows = []
    for i in range(20):
        name = list(COLOURS)[i % 3]
        Image.new("RGB", (10, 10), COLOURS[name]).save(folder / f"{i}.png")
        about = {"image": f"{i}.png", "split": "test" if i % 2 else "train"}
        rows.append({**about, "captions": [f"it is {name}", f"all {name}"]})
        if i % 3 > 0:
            asked = {"question": "which colour?", "answers": [name], "kind": "colour"}
            rows.append({**about, **asked})
        if i % 3 > 1:
            rows.append({**about, "question": "is it big?", "answers": ["yes"], "kind": "size"})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_run(folder: Path, data: Data, vocab: int = 32) -> Path:
    """A run directory with parameters that were drawn, not trained."""

    def body(depth: int = 1) -> Transformer:
        return Transformer(width=16, depth=depth, block=Block(heads=2))

    model = Multimodal(
        image=ImageEncoder(size=(8, 8), patch=4, body=body()),
        text=TextEncoder(vocab=vocab, length=data.text_length, body=body()),
        fusion=Fusion(body=body()),
        decoder=TextDecoder(vocab=vocab, length=data.target_length, body=body()),
    )
    config = Config(model=model, loss=Caption(), data=data)
    with open_run(folder, config) as run:
        tokenizers.build(data, sources.open_source(data, data.train)).save(run.tokenizer)
        batch = {
            "image": np.zeros((1, 8, 8, 3), np.uint8),
            "text": np.zeros((1, data.text_length), np.int32),
            "text_mask": np.ones((1, data.text_length), bool),
            "target": np.zeros((1, data.target_length), np.int32),
        }
        params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
        checkpoints = Checkpoints(run.checkpoints, 1)
        checkpoints.save(1, {"params": params}, {})
        checkpoints.wait()
        checkpoints.close()
        run.log(1, {"loss": 2.5, "accuracy": 0.25, "lr": 1e-3, "pictures_per_second": 10.0})
        run.log(2, {"loss": 2.0, "accuracy": 0.5, "lr": 5e-4, "pictures_per_second": 12.0})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    data = Data(str(write_set(folder / "set")), text_length=6, target_length=8)
    return make_run(folder / "run", data)


@pytest.fixture(scope="module")
def figures(run):
    return evaluate(run, "test", rank=True)


def one_by_one(run: Path):
    """(pair, text, nats, tokens) of each pair, one row at a time, without cache or groups."""
    trained = open_trained(run)
    model, data, t = trained.config.model, trained.config.data, trained.tokenizer
    apply = jax.jit(lambda batch: model.apply({"params": trained.params}, batch)["logits"])
    source = sources.open_source(data, "test")
    pairs = loader.eval_pairs(data, source, t, Take(decode_for(data, (8, 8))))
    for pair, arrays in pairs:
        batch = {key: value[None] for key, value in arrays.items()}
        logprobs = np.asarray(jax.nn.log_softmax(apply(batch)))[0]
        ids = arrays["target"][1:][arrays["target_mask"][1:]]
        nats = -sum(logprobs[i, word] for i, word in enumerate(ids))
        written = np.full((1, data.target_length), t.bos, np.int32)
        for i in range(data.target_length - 1):
            written[:, i + 1] = np.asarray(apply({**batch, "target": written}))[:, i].argmax(-1)
            if written[0, i + 1] == t.eos:
                break
        else:
            i += 1
        yield pair, t.decode(written[0, 1 : i + 2]), nats, len(ids)


def test_figures_are_what_counting_gives(run, figures):
    rows = list(one_by_one(run))
    assert len(rows) == 10 + 7 + 3
    nats, tokens = sum(r[2] for r in rows), sum(r[3] for r in rows)
    assert figures["loss"].value == pytest.approx(nats / tokens, abs=1e-4)
    assert figures["perplexity"].value == pytest.approx(np.exp(nats / tokens), rel=1e-3)
    assert figures["loss"].n == 20
    for name, chosen in {
        "caption/exact": [r for r in rows if r[0].kind == "caption"],
        "vqa/accuracy": [r for r in rows if r[0].kind != "caption"],
        "vqa/accuracy/colour": [r for r in rows if r[0].kind == "colour"],
        "vqa/accuracy/size": [r for r in rows if r[0].kind == "size"],
    }.items():
        right = [text in pair.references for pair, text, *_ in chosen]
        assert figures[name].value == pytest.approx(np.mean(right)), name
        assert figures[name].n == len(chosen), name
    assert all(f.low <= f.value <= f.high for f in figures.values())


def test_texts_are_those_written_one_by_one(run):
    trained = open_trained(run)
    source = sources.open_source(trained.config.data, "test")
    (chunk,) = texts.chunks(trained, source, None)
    results = {(r.pair.index, r.pair.question): r.text for r in texts.score(trained, chunk)}
    for pair, text, *_ in one_by_one(run):
        assert results[pair.index, pair.question] == text


def test_baselines(figures):
    """Questions of the training split: "yes" is right for all of size; colours are balanced."""
    assert figures["vqa/majority/size"].value == 1
    assert figures["vqa/question_only/size"].value == 1
    assert 0 < figures["vqa/majority/colour"].value < 1
    assert figures["vqa/majority"].n == figures["vqa/accuracy"].n == 10


def test_recall_at_k(run, figures):
    """Six captions in all, two right for each picture."""
    assert figures["caption/recall@1"].value <= figures["caption/recall@5"].value
    assert figures["caption/recall@10"].value == 1
    assert figures["caption/recall@1"].n == 10


def test_captions_of_the_world_are_graded():
    """A true caption is wholly right; that of another scene is not, and says what is wrong."""
    rng = np.random.default_rng(0)
    one, other = scene.sample(rng), scene.sample(rng)
    (true,), (false,) = (language.captions(each, rng, 1) for each in (one, other))
    truth = scene.to_json(one)
    pair = Pair(0, "", loader.CAPTION_PROMPT, (true,), "caption", truth)
    right, wrong = (texts.result(pair, texts.Said(text, 2.0, 4)) for text in (true, false))
    assert (right.score, right.missed, right.invented) == (1, (), ())
    assert right.counts["right"] == right.counts["told"] > 0
    assert right.counts["recalled"] == right.counts["expected"] > 0
    assert wrong.score == 0
    assert wrong.missed or wrong.invented
    assert wrong.counts["right"] < wrong.counts["told"]
    names = texts.statistics(set(right.counts))
    assert {"caption/facts_precision", "caption/facts_recall", "caption/facts_f1"} <= set(names)
    found = bootstrap([right.counts, wrong.counts], names)
    assert found["caption/wholly_right"].value == 0.5
    assert found["caption/invented"].value == wrong.counts["invented_objects"] / 2


def test_groups_hold_every_text_once():
    def arrays(i):
        return {"image": np.full(2, i), "text": np.array([i]), "target": np.zeros(32, int),
                "target_mask": np.arange(32) < 5, "scored": np.arange(32) < 5,
                "text_mask": np.array([True])}  # fmt: skip

    sizes = [3, 1, 0, 9, 4]
    examples = [
        (Pair(index, "", f"{index}.{n}", ("a",), "k"), arrays(100 * index + n))
        for index, size in enumerate(sizes)
        for n in range(size)
    ]
    for shared in texts.GROUPS:
        seen = []
        for real, batch in texts.batches(examples, shared, 16):
            assert len(real) == len(batch["text"]) == 16
            assert batch["target"].shape[1] == 8, "cut to what is needed"
            assert len(batch["image"]) * shared == 16
            pictures = np.repeat(batch["image"][:, 0], shared)
            np.testing.assert_array_equal(pictures // 100, batch["text"][:, 0] // 100)
            seen += batch["text"][real, 0].tolist()
        assert seen == [e[1]["text"][0] for e in examples]
    assert texts.cheapest(examples, 16) in (2, 4)
    assert texts.cheapest(examples, 1) == 1
    assert texts.cheapest(examples[3:4], 16) == 1
    few = [len(real) for real, _ in texts.batches(examples[:3], 1, 16)]
    assert few == [4], "three rows are not filled up to sixteen"


def test_what_is_written_is_read_back(run, figures):
    written = json.loads((run / "evaluation.json").read_text())
    assert written.keys() == figures.keys()
    assert all(set(each) == {"value", "low", "high", "n"} for each in written.values())
    page = (run / "report.html").read_text()
    assert page.count("<img") == 10
    assert "http" not in page.replace("http-equiv", "")


def test_options_are_recorded_as_they_are_typed():
    given = {"limit": 3, "rank": True, "guidance": 2.0, "clip": Path("my runs/clip")}
    assert as_options(given) == "--limit 3 --rank --guidance 2.0 --clip 'my runs/clip'"
    assert as_options({}) == ""


def test_what_was_counted_of_each_picture_is_kept(run, figures):
    kept = pictures.load(run, "test")
    assert len(kept.pictures) == 10
    columns = {name: np.array([column.sum()]) for name, column in kept.columns.items()}
    for name, statistic in texts.statistics(set(columns)).items():
        np.testing.assert_allclose(statistic(columns), figures[name].value, err_msg=name)


def test_captions_that_no_program_grades_have_the_scores_of_captions(run, figures):
    rows = {str(i): row for i, row in enumerate(one_by_one(run)) if row[0].kind == "caption"}
    told = {name: row[1] for name, row in rows.items()}
    wanted = captions.score(told, {name: row[0].references for name, row in rows.items()})
    found = {name: figures[f"caption/{name}"] for name in wanted.figures}
    assert found == wanted.figures
    assert {"Bleu_4", "ROUGE_L", "CIDEr-D"} < {*found}


def test_limit_and_splits(run):
    few = evaluate(run, "train[:50%]", limit=3)
    assert few["caption/exact"].n == 3
    assert (run / "evaluation_train%5B%3A50%25%5D.json").exists()
    with pytest.raises(UserError, match="no split 'novel'"):
        evaluate(run, "novel")


def test_ranking_passes_over_captions_that_are_too_long(tmp_path):
    folder = write_set(tmp_path / "set")
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    for row in rows:
        if "captions" in row:
            row["captions"].append("all is " * 5)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = make_run(tmp_path / "run", Data(str(folder), text_length=6, target_length=8))
    assert evaluate(run, rank=True)["caption/recall@10"].n == 10
    asked = [row for row in rows if "question" in row]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    with pytest.raises(UserError, match=r"--rank: these pictures have no captions"):
        evaluate(run, rank=True)


def script(name, *words):
    command = [sys.executable, ROOT / "experiments" / name, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_evaluate_script(run, tmp_path):
    done = script("evaluate.py", "--run", run, "--limit", 4, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    assert "vqa/question_only" in done.stdout
    assert sum(line.startswith("  caption: ") for line in done.stdout.splitlines()) > 0
    assert "loss" in json.loads((tmp_path / "figures.json").read_text())


def test_generate_script(run):
    picture = run.parent / "set" / "0.png"
    done = script("generate.py", "--run", run, "--image", picture, "--method", "beam", "--n", 2)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    asked = ("--question", "which Zebra, which yak?", "--answers", "red", "green", "blue")
    done = script("generate.py", "--run", run, "--image", picture, *asked)
    assert done.returncode == 0, done.stderr
    assert "never seen: Zebra, yak" in done.stderr
    shares = [float(line.split("(")[1].rstrip("%)")) for line in done.stdout.splitlines()]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--image": "missing.png"}, "missing.png"),
        ({"--image": "data.jsonl"}, "not a readable picture"),
        ({"--run": "nothing"}, "no run directory"),
        ({"--question": "it " * 7}, "has 7 tokens"),
        ({"--top-p": "2"}, "top_p is 2.0"),
    ],
)
def test_mistakes_are_messages(run, change, words, monkeypatch, capsys):
    """What the script does, in this process: exit code 2, a message, no traceback."""
    from experiments import generate as command_line
    from mlm_jax import command

    folder = run.parent / "set"
    given = {"--run": str(run), "--image": "0.png"} | change
    given["--image"] = str(folder / given["--image"])
    monkeypatch.setenv("MLM_JAX_CACHE", "")
    monkeypatch.setattr(sys, "argv", ["generate.py", *(w for pair in given.items() for w in pair)])
    assert command.main(command_line.main) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said


def test_no_checkpoint_is_a_message(run, tmp_path):
    config = open_trained(run).config
    with open_run(tmp_path / "fresh", replace(config, steps=5)):
        pass
    with pytest.raises(UserError, match="holds no checkpoint"):
        open_trained(tmp_path / "fresh")
