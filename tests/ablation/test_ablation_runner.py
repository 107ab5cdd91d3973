"""Runs of an ablation: which are left, another plan in the folder, and the command line itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from experiments import ablate as script
from mlm_jax.ablation import plan as plans
from mlm_jax.ablation import results, runner
from mlm_jax.ablation.ablate import FILES, ablate
from mlm_jax.ablation.costs import Cost, cost
from mlm_jax.ablation.plan import Ablation, Plan, Variant
from mlm_jax.ablation.runner import Order, Ready, Status
from mlm_jax.checkpoint import Checkpoints
from mlm_jax.config import UserError, load, override
from mlm_jax.run import lock
from mlm_jax.sharding import least

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def plan() -> Plan:
    variants = (Variant("base"), Variant("other", {"data.shift": 1, "optim.freeze": ("image",)}))
    return plans.make("mine", Ablation("vit_tiny", variants, ("loss",), splits=("test", "novel")))


def ready(plan: Plan, out: Path, **order) -> Ready:
    costs = {each.name: Cost(1, 1, 1.0) for each in plan.variants}
    return Ready(plan, Order(out, **order), costs, dict.fromkeys(costs, 10))


def trained(run: Path) -> None:
    """What is left of training, as far as it is looked for."""
    checkpoints = Checkpoints(run / "checkpoints", keep=1)
    arrays = {"params": {"kernel": jnp.ones(8)}, "opt": {"mean": jnp.zeros(16)}}
    checkpoints.save(10, arrays, {"batches": 10})
    checkpoints.close()
    for name in ("config.json", "tokenizer.json", "classes.json"):
        (run / name).write_text("{}")


def damaged(run: Path, tree: str) -> None:
    shutil.rmtree(run / "checkpoints" / "10" / tree)


def test_works_are_seed_by_seed_and_know_what_is_left(plan, tmp_path):
    works = ready(plan, tmp_path, seeds=2, limit=8).works()
    assert [(w.variant.name, w.seed) for w in works] == [
        ("base", 0), ("other", 0), ("base", 1), ("other", 1)
    ]  # fmt: skip
    work = works[3]
    stage, line = work.next(work.status())
    assert stage == "train"
    assert line[-7:] == ["1", "--optim.freeze", "image", "--seed", "1", "--steps", "10"]
    trained(work.run)
    stage, line = work.next(Status(10, 1.0))
    assert (stage, line[-4:]) == ("test", ["--split", "test", "--limit", "8"])
    work.evaluation("test").write_text("{}")
    assert work.next(Status(10, 1.0, {"test": 1.0}))[0] == "novel"
    work.evaluation("novel").write_text("{}")
    work.remember(Status(10, 1.0, {"test": 1.0, "novel": 1.0}))
    assert work.done()
    work.evaluation("test").unlink()
    assert work.next(work.status())[0] == "test", "deleted: it is made again"


def test_a_split_that_was_evaluated_in_another_way_is_evaluated_again(plan, tmp_path):
    """By hand, with other options; where none are recorded they are taken to be the same."""
    work = ready(plan, tmp_path, limit=8).works()[0]
    trained(work.run)
    work.remember(Status(10, 1.0, {"test": 1.0, "novel": 1.0}))
    for split in ("test", "novel"):
        work.evaluation(split).write_text('{"loss": {"value": 1, "low": 1, "high": 1, "n": 8}}')
    recorded = work.run / "examples.json"
    for asked in ('{"shown": []}', '{"asked": "--limit 8"}'):
        recorded.write_text(asked)
        assert work.done()
    for asked in ('{"asked": ""}', '{"asked": "--limit 20"}', '{"asked": "--lim'):
        recorded.write_text(asked)
        assert work.next(work.status())[0] == "test"
        assert set(results.look_at(work).figures) == {"novel"}


GONE = ("config.json", "tokenizer.json", "checkpoints", "checkpoints/10/params")


@pytest.mark.parametrize("gone", GONE)
def test_a_half_deleted_run_is_trained_again_from_nothing(plan, tmp_path, gone):
    """Where it must be asked; what was evaluated and lies there needs no training."""
    work = ready(plan, tmp_path).works()[0]
    trained(work.run)
    done = Status(10, 1.0, {"test": 1.0, "novel": 1.0})
    for split in ("test", "novel"):
        work.evaluation(split).write_text("{}")
    work.remember(done)
    left = work.run / gone
    shutil.rmtree(left) if left.is_dir() else left.unlink()
    assert work.done()
    work.evaluation("novel").unlink()
    assert runner.taken_up(work) == Status(10)
    assert not work.run.exists()


def test_a_whole_run_is_asked(plan, tmp_path):
    """What the optimiser remembers and names of classes are not opened for it."""
    work = ready(plan, tmp_path).works()[0]
    trained(work.run)
    damaged(work.run, "opt")
    (work.run / "classes.json").unlink()
    work.remember(Status(10, 1.0, code=3, tail=("full",)))
    assert runner.taken_up(work) == Status(10, 1.0)


def test_a_classifier_is_asked_with_the_names_of_its_classes(tmp_path):
    variants = (Variant("base"), Variant("other", {"data.shift": 1}))
    classifiers = plans.make("mine", Ablation("vit_classifier_tiny", variants, ("accuracy",)))
    work = ready(classifiers, tmp_path).works()[0]
    trained(work.run)
    assert work.whole()
    (work.run / "classes.json").unlink()
    assert not work.whole()


@pytest.mark.parametrize("tree", ["params", "opt", "info"])
def test_training_goes_on_with_what_can_be_restored(plan, tmp_path, tree):
    """Without a checkpoint it begins anew by itself; one that is damaged it would refuse."""
    work = ready(plan, tmp_path).works()[0]
    trained(work.run)
    assert runner.taken_up(work) == Status(10)
    assert work.run.exists()
    damaged(work.run, tree)
    assert runner.taken_up(work) == Status(10)
    assert not work.run.exists()
    work.run.mkdir(parents=True)
    (work.run / "config.json").write_text("{}")
    assert runner.taken_up(work) == Status(10)
    assert work.run.exists()


def test_a_status_that_was_cut_short_or_is_of_other_steps_is_none(plan, tmp_path):
    work = ready(plan, tmp_path).works()[0]
    work.folder.mkdir()
    place = work.folder / "seed0.json"
    for text in ("", '{"steps": 10', '{"steps": 10, "unknown": 1}', '{"steps": 9, "trained": 1.0}'):
        place.write_text(text)
        assert work.status() == Status(10)


@pytest.fixture
def prepared(monkeypatch):
    """`prepare` without models and data; gives the variants whose costs were asked for."""
    asked: list[str] = []

    def costs(variants):
        asked.extend(each.name for each in variants)
        return {each.name: Cost(1, 1, 1e9 * (1 + each.config.data.shift)) for each in variants}

    monkeypatch.setattr(runner, "costs", costs)
    monkeypatch.setattr(runner, "open_splits", lambda plan: None)
    return asked


def shifted(*shifts: int, figures=("loss",), splits=("test",), **settings) -> Plan:
    variants = tuple(Variant(f"by {i}", {"data.shift": i}) for i in shifts)
    return plans.make("mine", Ablation("vit_tiny", variants, figures, splits=splits, **settings))


def test_a_plan_grows_and_what_it_has_is_kept(prepared, tmp_path):
    """More figures, splits, variants, another baseline; fewer of them; and all of them again."""
    first = runner.prepare(shifted(0, 1), Order(tmp_path))
    more = shifted(0, 1, 3, figures=("loss", "vqa/accuracy"), splits=("test", "novel"))
    assert runner.prepare(more, Order(tmp_path, seeds=9, jobs=1)).steps == dict.fromkeys(
        ("by 0", "by 1", "by 3"), first.steps["by 0"]
    )
    runner.prepare(shifted(1, 3), Order(tmp_path))
    runner.prepare(more, Order(tmp_path))
    assert prepared == ["by 0", "by 1", "by 3"], "of each once"
    kept = json.loads((tmp_path / "plan.json").read_text())
    assert (kept["figures"], kept["splits"]) == (["loss", "vqa/accuracy"], ["test", "novel"])


def test_a_new_variant_gets_the_budget_that_the_others_had(prepared, tmp_path):
    """Also by another baseline, of which the steps are not those of its configuration."""
    first = runner.prepare(shifted(0, 3, budget="flops"), Order(tmp_path))
    whole = load("vit_tiny").steps
    assert first.steps == {"by 0": whole, "by 3": round(whole / 4)}
    grown = runner.prepare(shifted(3, 1, budget="flops"), Order(tmp_path))
    assert grown.steps["by 3"] == first.steps["by 3"]
    assert grown.steps["by 1"] == pytest.approx(whole / 2, abs=2)
    assert runner.prepare(shifted(0, 3, budget="flops"), Order(tmp_path)).steps == grown.steps | {
        "by 0": whole
    }


def test_for_a_budget_of_time_what_is_new_is_timed_beside_one_that_is_known(
    prepared, tmp_path, monkeypatch
):
    timed: list[str] = []

    def measure(variants, order):
        timed.extend(variants)
        return {name: 0.1 * (1 + each.config.data.shift) for name, each in variants.items()}

    monkeypatch.setattr(runner, "measure", measure)
    first = runner.prepare(shifted(0, 3, budget="time"), Order(tmp_path))
    grown = runner.prepare(shifted(0, 3, 1, budget="time"), Order(tmp_path))
    runner.prepare(shifted(0, 3, 1, budget="time"), Order(tmp_path))
    assert timed == ["by 0", "by 3", "by 0", "by 1"]
    assert grown.steps == first.steps | {"by 1": round(first.steps["by 0"] / 2)}


def test_another_plan_is_refused_with_the_difference(prepared, tmp_path):
    runner.prepare(shifted(0, 1), Order(tmp_path))
    before = (tmp_path / "plan.json").read_text()
    other = (Variant("by 0"), Variant("by 1", {"data.shift": 2}))
    for ablation, limit, said in (
        (Ablation("vit_tiny", other, ("loss",)), None, "`by 1`: data.shift: 1 -> 2"),
        (Ablation("vit_tiny", other, ("loss",), budget="flops"), None, "'steps' -> 'flops'"),
        (Ablation("vit_tiny", other, ("loss",)), 8, "limit: None -> 8"),
    ):
        with pytest.raises(UserError) as error:
            runner.prepare(plans.make("mine", ablation), Order(tmp_path, limit=limit))
        assert said in str(error.value)
    with pytest.raises(UserError, match="none of its variants is among yours"):
        runner.prepare(shifted(2, 3), Order(tmp_path))
    shared = (Variant("by 0"), Variant("by 1!", {"data.shift": 2}))
    with pytest.raises(UserError, match="share the folder by_1"):
        runner.prepare(plans.make("mine", Ablation("vit_tiny", shared, ("loss",))), Order(tmp_path))
    assert (tmp_path / "plan.json").read_text() == before
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        runner.prepare(shifted(0, 1), Order(tmp_path))


def test_runs_of_the_best_checkpoint_are_not_mixed_with_those_of_the_last(prepared, tmp_path):
    def watched(**best: int) -> Plan:
        variants = tuple(Variant(f"by {i}", {"data.shift": i}) for i in range(2))
        return plans.make(
            "mine", Ablation("vit_tiny", variants, ("loss",)), {"eval_every": 50} | best
        )

    runner.prepare(watched(), Order(tmp_path))
    runner.prepare(watched(eval_examples=8), Order(tmp_path))
    with pytest.raises(UserError, match="`by 0`: keep_best: 0 -> 1"):
        runner.prepare(watched(keep_best=1), Order(tmp_path))


def test_a_split_that_is_not_there_is_found_before_anything_runs(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "data.jsonl").write_text("")
    data = {"data.name": str(folder)}
    variants = (Variant("a", data), Variant("b", {**data, "data.shift": 1}))
    ablation = Ablation("vit_tiny", variants, ("loss",), splits=("tset",))
    with pytest.raises(UserError, match=r"variant `a`: .*tset"):
        runner.open_splits(plans.make("mine", ablation))


def test_a_folder_of_something_else_is_refused(plan, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"no plan \(thesis.tex\)"):
        runner.opened(plan, Order(tmp_path))


def test_a_run_that_another_process_holds_waits(tmp_path):
    assert not runner.held(tmp_path / "none")
    code = "import sys,time\nfrom pathlib import Path\nfrom mlm_jax.run import lock\n"
    code += "with lock(Path(sys.argv[1])):\n  print('held', flush=True)\n  time.sleep(60)\n"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        assert other.stdout.readline() == b"held\n"
        assert runner.held(tmp_path)
        other.kill()
        other.wait()
    assert not runner.held(tmp_path)
    with lock(tmp_path):
        pass


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Commands that take no time, of which the first run of `other` fails in training."""

    def command(variant, run, *, seed, steps):
        fails = variant.name == "other" and seed == 0
        write = f"import os; os.makedirs({str(run / 'checkpoints' / '10')!r})"
        write += f"; open({str(run / 'config.json')!r}, 'w')"
        say = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
        return [sys.executable, "-c", say if fails else write]

    evaluate = tmp_path / "evaluate.py"
    evaluate.write_text(
        "import sys, pathlib\n"
        "name = 'evaluation.json' if sys.argv[4] == 'test' else 'evaluation_novel.json'\n"
        "(pathlib.Path(sys.argv[2]) / name).write_text('{}')\n"
    )
    monkeypatch.setattr(runner, "train_command", command)
    monkeypatch.setattr(runner, "script", lambda name: [sys.executable, str(tmp_path / name)])


def test_failures_are_kept_and_the_others_go_on(plan, tmp_path, commands):
    """One variant fails in training, one is wholly done."""
    whole, said, ended = ready(plan, tmp_path / "out", seeds=2), [], []
    assert runner.run_all(whole, said.append, lambda: ended.append(1)) == 1
    assert len(said) == len(ended) == 4
    assert [work.done() for work in whole.works()] == [True, False, True, True]
    failed = whole.works()[1].status()
    assert (failed.code, failed.tail) == (3, ("one", "two"))
    began = {work.run: work.log.stat().st_mtime_ns for work in whole.works()}
    assert runner.run_all(whole, said.append, lambda: None) == 1
    again = [run for run, at in began.items() if run.with_suffix(".log").stat().st_mtime_ns > at]
    assert again == [whole.works()[1].run], "what is done is not done again"


def test_an_ablation_is_a_function(plan, tmp_path, prepared, commands):
    """It says what it takes, runs what is not done, and gives back what it writes."""
    out, said = tmp_path / "out", []
    found = ablate(plan, Order(out, seeds=2), said.append)
    assert [run.done for run in found.runs] == [True, False, True, True]
    assert [run.work.run for run in found.failed()] == [out / "other" / "seed0"]
    assert json.loads((out / "results.json").read_text())["failed"][0]["tail"] == ["one", "two"]
    assert {path.name for path in out.iterdir()} > {*FILES}
    assert "times the spread between seeds" in "".join(said[:3])
    assert "4 of 4" in said[-1]
    with lock(out), pytest.raises(UserError, match=r"in use by process \d+: .* another --out"):
        ablate(plan, Order(out, seeds=2), said.append)


# --- devices ---


def test_each_run_has_a_gpu_and_its_share_of_the_memory(monkeypatch):
    """Four runs at once on three GPUs: the first and the last share one. One alone has them all."""
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7f,6")
    found = [runner.environment(slot, 4) for slot in range(4)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["5", "GPU-7f", "6", "5"]
    assert [each["XLA_PYTHON_CLIENT_MEM_FRACTION"] for each in found] == [
        "0.45", "0.90", "0.90", "0.45"
    ]  # fmt: skip
    assert runner.environment(0, 1) == dict(os.environ)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.2")
    assert runner.environment(1, 4)["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2"


@pytest.mark.parametrize(("there", "seen"), [((), None), (("0", "1", "2"), "1")])
def test_without_a_choice_of_the_user_all_gpus_count(monkeypatch, there, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(runner, "DEVICES", SimpleNamespace(glob=lambda _: map(Path, there)))
    assert runner.gpus() == list(there)
    assert runner.environment(1, 2).get("CUDA_VISIBLE_DEVICES") == seen
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert runner.gpus() == []
    assert runner.environment(1, 2)["CUDA_VISIBLE_DEVICES"] == ""


def test_runs_at_once_are_started_on_gpus_of_their_own(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"

    def command(variant, run, *, seed, steps):
        return [sys.executable, "-c", f"{code}; sys.exit(1)", str(tmp_path / variant.name)]

    monkeypatch.setattr(runner, "train_command", command)
    runner.run_all(ready(plan, tmp_path / "out", seeds=1, jobs=2), lambda _: None, lambda: None)
    assert [(tmp_path / each).read_text() for each in ("base", "other")] == ["3", "4"]


def test_a_run_that_needs_several_gpus_has_no_other_beside_it(monkeypatch, tmp_path):
    variants = (Variant("base"), Variant("other", {"data.shift": 1}))
    spread = plans.make("mine", Ablation("vit_tiny", variants, ("loss",)), {"mesh.fsdp": 2})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=r"`base` needs 2 devices for a run.* --jobs 1"):
        runner.prepare(spread, Order(tmp_path, jobs=2))
    runner.refuse_shared(spread, Order(tmp_path, jobs=1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    runner.refuse_shared(spread, Order(tmp_path, jobs=2))


def test_costs_are_counted_on_as_many_devices_as_the_command_asks_for(monkeypatch, tmp_path):
    asked: list[int] = []

    def simulate(config):
        asked.append(least(config.mesh))
        raise UserError("far enough")

    monkeypatch.setattr(script, "simulate", simulate)
    words = ["pooling", "--tiny", "--out", str(tmp_path), "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    with pytest.raises(UserError, match="far enough"):
        script.main(words)
    assert asked == [4]


def test_last_lines_are_a_screen(tmp_path):
    (tmp_path / "log").write_text("x" * 9000 + "\n" + "".join(f"{i}\n\n" for i in range(50)))
    assert runner.last_lines(tmp_path / "log") == tuple(map(str, range(50 - runner.TAIL, 50)))


def test_last_lines_hold_no_control_characters(tmp_path):
    """They go to the screen with table.md."""
    (tmp_path / "log").write_bytes(b"a\x1b[2J\xff b\n")
    assert runner.last_lines(tmp_path / "log") == ("a\\x1b[2J\ufffd b",)


def test_cost_counts_what_learns():
    """Frozen parameters are counted, and their gradients are not computed."""
    config = load("vit_classifier_tiny:tiny")
    whole = cost(config)
    still = cost(override(config, ["--optim.freeze", "image"]))
    assert whole.parameters == whole.trained == still.parameters
    assert still.trained < 0.1 * whole.trained
    assert still.flops < 0.6 * whole.flops
    with pytest.raises(UserError, match="imag"):
        cost(override(config, ["--optim.freeze", "imagery"]))


# --- the command line, for real ---


def command(out: Path, data: Path, *words: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "experiments" / "ablate.py"), "pooling", "--tiny",
        "--seeds", "2", "--only", "attention", "--out", str(out), "--data.root", str(data), *words,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.slow
def test_two_variants_two_seeds_killed_and_gone_on_with(data, tmp_path):
    """Killed when the first runs are done; those are not done again, and the rest is."""
    out = tmp_path / "out"
    with subprocess.Popen(command(out, data), cwd=tmp_path, stdout=subprocess.DEVNULL) as first:
        end = time.monotonic() + 900
        while not list(out.glob("*/seed0.json")) and time.monotonic() < end:
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/seed0/metrics.jsonl")}
    finished = {path.parent / path.stem for path in out.glob("*/seed0.json")}
    assert finished
    done = subprocess.run(command(out, data), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path, at in before.items():
        if path.parent in finished:
            assert path.stat().st_mtime_ns == at, "trained twice"
    tree = json.loads((out / "results.json").read_text())
    assert [row["mean"]["n"] for row in tree["compared"][0]["rows"]] == [2, 2]
    assert tree["failed"] == []
    for name in ("report.html", "table.md", "results.csv"):
        assert (out / name).stat().st_size > 100
    for variant in ("mean", "attention"):
        for seed in (0, 1):
            kept = json.loads((out / variant / f"seed{seed}" / "config.json").read_text())
            assert (kept["seed"], kept["model"]["pool"]["kind"]) == (seed, variant)
    other = subprocess.run(
        command(out, data, "--optim.lr", "0.5"), cwd=tmp_path, capture_output=True, text=True
    )
    assert other.returncode == 2
    assert "optim.lr: 0.0042 -> 0.5" in other.stderr


@pytest.mark.slow
def test_a_run_that_fails_is_in_the_report(data, tmp_path):
    """A split that is not there."""
    out = tmp_path / "out"
    words = ("--seeds", "1", "--data.train", "nowhere")
    done = subprocess.run(command(out, data, *words), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nowhere" in (out / "report.html").read_text()
