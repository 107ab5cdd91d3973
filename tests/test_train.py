"""The step and the loop: what they compute, and that nothing is lost when they are interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mlm_jax import config as configs
from mlm_jax import memory, sharding
from mlm_jax import run as runs
from mlm_jax import train as training
from mlm_jax.checkpoint import restore_params, steps
from mlm_jax.config import Config, Optim, UserError
from mlm_jax.data import loader, sources, tokenizers
from mlm_jax.data.transforms import Take, decode_for
from mlm_jax.decoders import TextDecoder
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption, Drawn
from mlm_jax.models.gpt import Gpt
from mlm_jax.paths import named
from mlm_jax.train import State, train

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="module")
def _optax_promotes() -> Iterator[None]:
    """optax raises floats to integer powers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True)
def _toy_may_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "PACKAGES", (*configs.PACKAGES, "toy"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_pictures(tmp_path_factory.mktemp("toy") / "pictures")


def settings(**changes: Any) -> Config:
    optim = Optim(lr=0.01, warmup=0, schedule="constant", **changes.pop("optim", {}))
    return Config(toy.Toy(), Caption(), optim=optim, **changes)


def steps_of(config: Config, batches: list[Any]) -> tuple[State, list[dict[str, Any]]]:
    _, tx, begin = training.prepare(config, batches[0])
    step, state, seen = training.make_step(config, tx), begin(), []
    for batch in batches:
        state, metrics = step(state, batch)
        seen.append(jax.device_get(metrics))
    return state, seen


def bits(tree: Any) -> dict[str, bytes]:
    return {path: np.asarray(leaf).tobytes() for path, leaf in named(tree).items()}


# --- the step ---


def test_it_learns() -> None:
    _, seen = steps_of(settings(), [toy.batch()] * 60)
    assert seen[-1]["loss"] < 0.5 * seen[0]["loss"]


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    batches = [toy.batch(seed=i) for i in range(3)]
    with_dropout = replace(settings(), model=toy.Toy(dropout=0.5))
    one, again = (steps_of(with_dropout, batches)[0] for _ in range(2))
    other = steps_of(replace(with_dropout, seed=1), batches)[0]
    assert bits(one) == bits(again)
    assert bits(one) != bits(other)


def test_accumulated_parts_equal_the_whole_batch() -> None:
    """Parts differ in their number of tokens, so that a plain mean over parts would not do."""
    whole, seen = steps_of(settings(), [toy.batch(8)])
    parts, seen_in_parts = steps_of(settings(optim={"accumulate": 4}), [toy.batch(8)])
    for name in ("loss", "accuracy", "grad_norm"):
        np.testing.assert_allclose(seen[0][name], seen_in_parts[0][name], rtol=1e-5)
    grads = [
        training.gradients(config, whole.params, toy.batch(8), jax.random.key(0))[0]
        for config in (settings(), settings(optim={"accumulate": 4}))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), *grads)
    assert int(parts.step) == 1


def test_a_run_may_go_on_with_more_broken_records() -> None:
    """As the error says where there are too many of them."""
    before = settings()
    after = replace(before, data=replace(before.data, max_broken=0.5))
    assert runs.differences(configs.to_json(before), configs.to_json(after)) == []


def test_texts_and_others_of_text_alone_are_shared_out_in_parts() -> None:
    """Two captions and three answers of each of four records."""
    first, more = toy.batch(4, texts=2), toy.batch(4, texts=3, seed=1)
    texts = [{key: each[key] for key in ("target", "target_mask")} for each in (first, more)]
    batch = jax.tree.map(jnp.asarray, texts[0] | {"also": texts[1]})
    body = Transformer(16, 1, Block(heads=2))
    config = replace(settings(), model=Gpt(TextDecoder(16, 7, body=body)))
    params = jax.jit(config.model.init)(jax.random.key(0), batch)["params"]
    parted = replace(config, optim=replace(config.optim, accumulate=2))
    found = [
        training.gradients(each, params, batch, jax.random.key(0))[:2] for each in (config, parted)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)


def test_captions_of_any_length_count_alike_in_parts() -> None:
    """Words are averaged by caption, so that parts with fewer words weigh as much as others."""
    rng = np.random.default_rng(0)
    batch = toy.batch(8, texts=1)
    words, codes = rng.normal(size=(8, 6, 16)), rng.normal(size=(8, 4, 5))
    said = {"words": words, "codes": codes, "wanted": rng.integers(0, 5, (8, 4))}
    said["weight"] = np.ones((8, 4))
    whole = Drawn()(said, batch)[0]
    halves = [
        Drawn()(*({key: array[part] for key, array in tree.items()} for tree in (said, batch)))[0]
        for part in (slice(2), slice(2, 4), slice(4, 6), slice(6, 8))
    ]
    assert float(whole) == pytest.approx(float(np.mean(halves)), rel=1e-5)


def test_parts_draw_their_own_dropout() -> None:
    config = replace(settings(optim={"accumulate": 2}), model=toy.Toy(dropout=0.5))
    half = toy.batch(2)
    twice = {k: np.concatenate([v, v]) for k, v in half.items()}
    one = steps_of(replace(config, optim=replace(config.optim, accumulate=1)), [half])[1]
    assert steps_of(config, [twice])[1][0]["loss"] != pytest.approx(one[0]["loss"])


def test_bfloat16_keeps_masters_and_loss_in_float32() -> None:
    batches = [toy.batch()] * 40
    state, seen = steps_of(settings(precision="bfloat16"), batches)
    full = steps_of(settings(), batches)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert seen[0]["loss"].dtype == np.float32
    assert seen[0]["loss"] != full[0]["loss"]
    np.testing.assert_allclose(seen[0]["loss"], full[0]["loss"], rtol=0.02)
    np.testing.assert_allclose(seen[-1]["loss"], full[-1]["loss"], rtol=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_dtype_of_the_forward_pass(precision: Any) -> None:
    params = training.cast({"kernel": jnp.ones(2), "count": jnp.ones(2, jnp.int32)}, precision)
    assert params["kernel"].dtype == jnp.dtype(precision)
    assert params["count"].dtype == jnp.int32


def test_average_follows_the_parameters() -> None:
    batches = [toy.batch(seed=i) for i in range(4)]
    config = settings(optim={"ema": 0.15})
    _, tx, begin = training.prepare(config, batches[0])
    step, state = training.make_step(config, tx), begin()
    want = jax.device_get(state.params)
    for i, batch in enumerate(batches):
        state, _ = step(state, batch)
        decay = min(0.15, (1 + i) / (10 + i))
        want = jax.tree.map(
            lambda w, p, d=decay: d * w + (1 - d) * np.asarray(p), want, state.params
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.ema, want)
    assert steps_of(settings(), batches)[0].ema == ()


def test_frozen_parameters_keep_their_bits() -> None:
    config = settings(optim={"freeze": ("image",), "weight_decay": 0.1})
    before = training.prepare(config, toy.batch())[2]()
    image, words = (bits(before.params[k]) for k in ("image", "words"))
    after, _ = steps_of(config, [toy.batch()] * 3)
    assert bits(after.params["image"]) == image
    assert bits(after.params["words"]) != words


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A loss that is not finite for pictures whose first pixel is 255."""

    whole = Caption.__call__

    def call(self: Any, outputs: Any, batch: Any) -> Any:
        loss, metrics = whole(self, outputs, batch)
        bad = batch["image"][0, 0, 0, 0] == 255
        return loss * jnp.where(bad, jnp.nan, 1.0), metrics

    monkeypatch.setattr(Caption, "__call__", call)


def poison(batch: Any, bad: bool = True) -> Any:
    image = batch["image"].copy()
    image[0, 0, 0, 0] = 255 if bad else 0
    return {**batch, "image": image}


@pytest.mark.usefixtures("poisoned")
def test_a_step_that_is_not_finite_changes_counters_only() -> None:
    config = settings(optim={"ema": 0.9})
    good = poison(toy.batch(), bad=False)
    before, _ = steps_of(config, [good])
    after, seen = steps_of(config, [good, poison(good), poison(good)])
    for name in ("params", "opt", "ema"):
        assert bits(getattr(before, name)) == bits(getattr(after, name)), name
    assert (int(after.step), int(after.skipped), int(after.streak)) == (3, 2, 2)
    assert seen[0]["finite"].all()
    assert not seen[1]["finite"].all()
    after, seen = steps_of(config, [good, poison(good), good])
    assert (int(after.skipped), int(after.streak)) == (1, 0)


# --- the loop ---


def losses(run: Path) -> list[tuple[Any, ...]]:
    """Every line of the metrics but for what a clock says."""
    clock = ("time", "pictures_per_second")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [tuple((k, v) for k, v in line.items() if k not in clock) for line in lines]


def digests(run: Path) -> Any:
    newest = run / "checkpoints" / str(steps(run / "checkpoints")[-1])
    info = json.loads((newest / "info" / "metadata").read_text())
    return {key: info[key] for key in ("arrays", "batches", "skipped", "streak")}


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    path = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configs, "PACKAGES", (*configs.PACKAGES, "toy"))
        assert train(toy.config(folder), path) == 0
    return path


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, number: int) -> None:
    """Send ourselves a signal when batch `at` of a fresh run is read."""
    whole = loader.train_batches

    def cut(*args: Any, **keys: Any) -> Iterator[Any]:
        for i, batch in enumerate(whole(*args, **keys)):
            if i == at:
                os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(loader, "train_batches", cut)


def test_a_run_directory(folder: Path, finished: Path) -> None:
    assert steps(finished / "checkpoints") == [4, 8, 12]
    assert configs.read(finished) == toy.config(folder)
    assert (finished / "tokenizer.json").exists()
    start = json.loads((finished / "run.json").read_text())[0]
    assert start["versions"]["jax"] == jax.__version__
    lines = runs.read_metrics(finished)
    assert [line["step"] for line in lines] == [3, 6, 6, 9, 12, 12]
    assert lines[0].keys() >= {"loss", "accuracy", "grad_norm", "lr", "pictures_per_second"}
    assert lines[2].keys() == {"step", "time", "test/loss", "test/accuracy"}
    assert lines[4]["loss"] < lines[0]["loss"]
    assert "after 12 steps" in (finished / "report.html").read_text()
    step, params = restore_params(finished)
    assert step == 12
    assert named(params)["image/patch/kernel"].dtype == np.float32


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_the_run_goes_on_bit_for_bit(
    folder: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Stopped in the middle of a line of metrics, and not where a checkpoint was due."""
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        interrupt(patch, 7, number)
        assert train(toy.config(folder), tmp_path / "run") == 128 + number
    assert signal.getsignal(number) == before
    assert 0 < steps(tmp_path / "run" / "checkpoints")[-1] < 12
    assert train(toy.config(folder), tmp_path / "run") == 0
    assert digests(tmp_path / "run") == digests(finished)
    assert losses(tmp_path / "run") == losses(finished)


def test_metrics_beyond_the_checkpoint_are_written_once(
    folder: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill: lines of steps that were not saved, the last one cut short."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, 5, signal.SIGTERM)
        train(toy.config(folder), run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 12, "lo')
    train(toy.config(folder), run)
    assert losses(run) == losses(finished)


def test_a_finished_run_says_so(
    folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    assert train(toy.config(folder), finished) == 0
    assert "is finished" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_a_run_from_before_a_field_came_is_gone_on_with(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    saved = json.loads((run / "config.json").read_text())
    del saved["data"]["preprocessor"], saved["init"]
    (run / "config.json").write_text(json.dumps(saved))
    assert train(toy.config(folder), run) == 0
    with pytest.raises(UserError, match=r"optim\.lr"):
        train(toy.config(folder, optim=Optim(lr=0.5)), run)


def test_another_configuration_is_refused(folder: Path, finished: Path) -> None:
    other = toy.config(folder, seed=1, optim=Optim(lr=0.5, warmup=2, ema=0.9))
    before = (finished / "config.json").read_bytes()
    with pytest.raises(UserError) as error:
        train(other, finished)
    assert "optim.lr: 0.01 -> 0.5" in str(error.value)
    assert "seed: 0 -> 1" in str(error.value)
    assert "--run" in str(error.value)
    assert (finished / "config.json").read_bytes() == before


def test_a_start_that_failed_may_be_corrected(folder: Path, tmp_path: Path) -> None:
    wrong = toy.config(folder, optim=Optim(freeze=("imago",)))
    with pytest.raises(UserError, match="no parameter matches `imago`; near it: image"):
        train(wrong, tmp_path / "run")
    assert train(toy.config(folder, steps=1), tmp_path / "run") == 0


def test_full_disk_while_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runs.Run.log

    def full(self: runs.Run, step: int, numbers: dict[str, float]) -> None:
        if step > 6:
            self.metrics = Path("/dev/full")
        whole(self, step, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "log", full)
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            train(toy.config(folder), tmp_path / "run")
    assert steps(tmp_path / "run" / "checkpoints")[-1] in (4, 8)
    assert train(toy.config(folder), tmp_path / "run") == 0


def test_keys_that_change_no_result_may_differ(folder: Path, finished: Path) -> None:
    config = toy.config(folder, log_every=1, keep=9)
    assert train(replace(config, data=replace(config.data, threads=2)), finished) == 0


def test_a_foreign_folder_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"no run directory .*thesis\.tex"):
        train(toy.config(folder), tmp_path)


def test_one_process_at_a_time(folder: Path, finished: Path) -> None:
    with (
        runs.open_run(finished, toy.config(folder)),
        pytest.raises(UserError, match=f"in use by process {os.getpid()}"),
    ):
        train(toy.config(folder), finished)


def test_unwritable_run_directory(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run directory"):
        train(toy.config(folder), tmp_path / "file" / "run")


def test_too_little_space_is_refused_before_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = runs.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(runs.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="Make room, lower --keep"):
        train(toy.config(folder), tmp_path / "run")
    assert steps(tmp_path / "run" / "checkpoints") == []


def test_what_the_run_holds_already_is_not_asked_for_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for one checkpoint more is enough to go on where all that are kept are there."""
    config = toy.config(folder)
    assert train(config, tmp_path / "run") == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    shutil.copytree(tmp_path / "run" / "checkpoints" / "8", tmp_path / "run" / "checkpoints" / "2")
    asked = []
    monkeypatch.setattr(runs.Run, "require_space", lambda self, need: asked.append(need))
    assert train(config, tmp_path / "run") == 0
    assert train(config, tmp_path / "new") == 0
    once, whole = asked
    assert whole == 4 * once


def test_a_checkpoint_of_other_code_is_refused(folder: Path, finished: Path) -> None:
    config = toy.config(folder)
    wider = replace(config, model=toy.Toy(image=toy.Eye(width=9), dropout=0.1))
    with jax.set_mesh(sharding.make_mesh(config.mesh)):
        shapes, _, _ = training.prepare(wider, next(batches_of(config)))
    checkpoints = training.Checkpoints(finished / "checkpoints", 3)
    with pytest.raises(UserError, match="step 12 is not one of this model"):
        checkpoints.restore(training.trees(shapes))
    checkpoints.close()


def batches_of(config: Config) -> Iterator[Any]:
    source = sources.open_source(config.data, config.data.train)
    tokenizer = tokenizers.build(config.data, source)
    return loader.train_batches(
        config.data, source, tokenizer, Take(decode_for(config.data, toy.SIZE)), config.seed, 0
    )


@pytest.mark.usefixtures("poisoned")
def test_training_stops_after_too_many_skipped_steps(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every third picture of the set is red: its first pixel is 255."""
    optim = Optim(max_skipped=2)
    config = toy.config(folder, loss=Caption(), optim=optim, steps=100, eval_every=0)
    config = replace(config, data=replace(config.data, batch=2))
    with pytest.raises(UserError, match=r"2 steps in a row .*head/bias"):
        train(config, tmp_path / "run")
    assert "skipped: not finite: head/bias" in capsys.readouterr().out


def test_require(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--require tpu, but jax found only"):
        train(toy.config(folder, require="tpu"), tmp_path / "run")


# --- as a user runs it ---


def command(*words: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / "train.py"), *words],
        env={**os.environ, "MLM_JAX_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "vit_tyny"], "did you mean vit_tiny"),
        (["--config", "vit_tiny", "--optim.lrr", "1"], "--optim.lr"),
        (["--config", "vit_tiny", "--data.batch", "0"], "data.batch is 0"),
    ],
)
def test_mistakes_end_with_a_message(words: list[str], message: str, tmp_path: Path) -> None:
    process = command(*words, "--run", str(tmp_path / "run"), cache=tmp_path / "cache")
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2, out
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def losses_of(run: Path) -> list[str]:
    file = run / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_exit_codes(folder: Path, tmp_path: Path, number: int) -> None:
    words = ["--config", "soak", "--run", str(tmp_path / "run"), "--steps", "100_000"]
    words += ["--data.name", str(folder)]
    process = command(*words, cache=tmp_path / "cache")
    while len(losses_of(tmp_path / "run")) < 3 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    assert "stopped and saved at step" in out
    assert steps(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in configs.names() if name.endswith("_tiny")])
def test_an_experiment_trains_two_steps(name: str, tmp_path: Path) -> None:
    words = ["--config", f"{name}:tiny", "--run", str(tmp_path / "run")]
    process = command(*words, "--data.root", str(tmp_path / "data"), cache=tmp_path / "cache")
    out, error = process.communicate(timeout=300)
    assert "finished 2 steps" in out, error
    process = command("--run", str(tmp_path / "run"), cache=tmp_path / "cache")
    assert "is finished: 2 steps" in process.communicate(timeout=300)[0]


# --- what memory cannot hold ---


def test_a_step_that_memory_cannot_hold_is_refused_before_it_is_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has not begun: another batch may be tried in its place."""
    config, run = toy.config(folder), tmp_path / "run"
    needed: list[int] = []
    count = memory.needed
    monkeypatch.setattr(memory, "needed", lambda step: needed.append(count(step)) or needed[0])
    monkeypatch.setattr(memory, "free", lambda: needed[0] - 1)
    said = f"data.batch {config.data.batch} .*--data.batch, .*--optim.accumulate, .*remat full"
    with pytest.raises(UserError, match=said):
        train(config, run)
    assert needed[0] > 0
    monkeypatch.setattr(memory, "free", lambda: needed[0])
    assert train(replace(config, seed=config.seed + 1), run) == 0


def test_the_step_is_compiled_once(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where memory is asked about, and never again for batches of the same shapes."""
    with jax.log_compiles():
        train(toy.config(folder), tmp_path / "run")
    assert caplog.text.count("Finished XLA compilation of jit(step)") == 1
