"""The runner of the benchmarks: what is counted, said and left out; live parts are `parity`."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import drawing, flops, page, runner, timing, utilisation
from experiments.benchmarks.parts import PARTS, Part
from experiments.benchmarks.setting import Setting, from_text, to_text
from experiments.benchmarks.sides import DisagreementError, Side, compare, difference, rates
from experiments.configs import bert_base, clip_base, gpt_small, vit_base, vit_classifier_base
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.layers import Block, Transformer
from mlm_jax.models.bert import Bert
from mlm_jax.models.captioner import Captioner
from mlm_jax.models.clip import Clip

# --- seconds ---


def test_summary_and_ratio_of_medians_and_of_rounds() -> None:
    found = timing.summary([1.0, 2.0, 3.0, 4.0, 10.0])
    assert found == {"median": 3.0, "minimum": 1.0, "spread": 0.67, "repeats": 5}
    told = timing.compared([2.0, 2.0, 3.0], {"eager": [4.0, 4.0, 4.0], "compiled": [2.0, 1.0, 2.0]})
    assert told == {"best": "compiled", "ratio": 1.0, "ratio_of_minima": 2.0, "by_round": [1, 2]}


def test_sides_take_turns_and_short_calls_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter_clock(monkeypatch)
    said: list[str] = []

    def call(name: str, length: float) -> Any:
        def one() -> None:
            said.append(name)
            clock[0] += length

        return one

    taken = timing.in_turns({"a": call("a", 1.0), "b": call("b", 0.1)}, {"a": 1.0, "b": 0.1}, 2)
    assert "".join(said) == "abb" + "bba"
    assert taken["a"].wall == pytest.approx([1.0, 1.0])
    assert taken["b"].wall == pytest.approx([0.1, 0.1])
    assert len(taken["b"].processor) == 2


def iter_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_long_rounds_are_fewer_but_three() -> None:
    assert [timing.rounds(s, 7) for s in (1, 39, 60, 200)] == [7, 7, 5, 3]


# --- two sides ---


def side(name: str, value: float) -> Side:
    return Side(name, lambda: value, lambda out: {"x": np.full(3, out, np.float32)})


def test_what_differs_is_not_timed() -> None:
    setting = Setting(Path(), repeats=1)
    row = compare({"what": "w"}, side("ours", 1.0), [side("eager", 1.00001)], setting)
    assert row["difference"]["eager"] == pytest.approx(1e-5, rel=0.1)
    assert rates(row, 8, "words/s")["rate"].keys() == {"ours", "eager"}
    with pytest.raises(DisagreementError, match="eager differs"):
        compare({"what": "w"}, side("ours", 1.0), [side("eager", 1.1)], setting)
    assert difference({"x": np.ones(2)}, {"y": np.ones(2)}) == math.inf
    assert difference({"x": np.ones(2)}, {"x": np.ones(3)}) == math.inf


def test_what_cannot_be_compiled_is_named_and_the_rest_is_measured() -> None:
    def fail() -> None:
        raise RuntimeError("no C++ compiler")

    broken = Side("compiled", fail, lambda out: {})
    row = compare(
        {"what": "w"}, side("ours", 1.0), [side("eager", 1.0), broken], Setting(Path(), repeats=1)
    )
    assert row["best"] == "eager"
    assert "no C++ compiler" in row["impossible"]["compiled"]


# --- drawing ---


@pytest.mark.slow
def test_codes_are_the_same_with_a_cache_and_without(tmp_path: Path) -> None:
    row = next(drawing.code_sampling(Setting(tmp_path, repeats=1, size="tiny"), 2))
    assert row["same_words"] == 1
    assert row["different_words"] > 9
    assert row["difference"] == dict.fromkeys(row["difference"], 0.0)
    assert row["rate"].keys() == {"ours", *row["difference"]}


def test_small_gradients_count_as_much_as_large_ones() -> None:
    one, other = ({"kernel": np.full(2, x), "bias": np.full(2, 1e-6)} for x in (1e-6, 2e-6))
    found, wanted = drawing.learned(1.0, one), drawing.learned(1.0, other)
    assert difference(found, wanted) == pytest.approx(0.5)
    assert drawing.learned(1.0, one)["largest"] == pytest.approx(1e-6)


# --- FLOPs ---


def clip(patch: int, pixels: int = 224) -> Clip:
    model = clip_base.config.model
    return replace(model, image=replace(model.image, patch=patch, size=(pixels, pixels)))


def clip_large() -> Clip:
    eyes = Transformer(1024, 24, Block(heads=16))
    words = Transformer(768, 12, Block(heads=12))
    image = ImageEncoder((224, 224), 14, class_token=True, body=eyes)
    return Clip(image, TextEncoder(49_408, 77, causal=True, body=words), width=768)


def padded_gpt() -> Any:
    """With the vocabulary filled up to 50,304, as the published figures count it."""
    model = gpt_small.config.model
    return replace(model, decoder=replace(model.decoder, vocab=50_304))


def bert_large() -> Bert:
    body = Transformer(1024, 24, Block(heads=16, order="post"))
    return Bert(TextEncoder(30_522, 512, body=body))


def captioner() -> Captioner:
    model = vit_classifier_base.config.model
    eyes = replace(model.image, class_token=False)
    return Captioner(eyes, padded_gpt().decoder)


VIT, BERT = vit_classifier_base.config.model, bert_base.config.model
PUBLISHED = {
    "ViT-B/16": (VIT, {}, 35.13),
    "ViT-L/16": (
        replace(VIT, image=replace(VIT.image, body=Transformer(1024, 24, Block(heads=16)))),
        {},
        123.11,
    ),
    "CLIP B/32": (clip(32), {"read": 77}, 14.78),
    "CLIP B/16": (clip(16), {"read": 77}, 41.09),
    "CLIP L/14": (clip_large(), {"read": 77}, 175.33),
    "BERT-base 512": (replace(BERT, masked=False), {"read": 512}, 96.64),
    "BERT-base 512, 77 words": (BERT, {"read": 512, "predicted": 77}, 100.34),
    "BERT-base 512, all words": (BERT, {"read": 512}, 121.24),
    "BERT-large 512, 77 words": (bert_large(), {"read": 512, "predicted": 77}, 339.98),
    "GPT-2 1024": (padded_gpt(), {"written": 1024}, 291.72),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_flops_are_those_that_are_published(name: str) -> None:
    model, lengths, gflops = PUBLISHED[name]
    assert flops.forward(model, **lengths).full / 1e9 == pytest.approx(gflops, abs=0.006)


def test_causal_attention_counts_half() -> None:
    assert flops.forward(padded_gpt(), written=1024).halved / 1e9 == pytest.approx(272.39, abs=0.01)
    assert flops.forward(VIT).halved == flops.forward(VIT).full


def small(model: Any) -> Any:
    """One block of each tower, of width 128, so that matrix products are nearly everything."""

    def body(of: Any) -> Any:
        block = replace(of.body.block, heads=2)
        return replace(of, body=replace(of.body, width=128, depth=1, block=block))

    parts = {"image": lambda of: replace(body(of), size=(64, 64), patch=16),
             "text": body, "decoder": body, "fusion": body}  # fmt: skip
    found = {name: make(getattr(model, name)) for name, make in parts.items()
             if hasattr(model, name)}  # fmt: skip
    return replace(model, **found)


CONFIGS = [vit_classifier_base, bert_base, clip_base, gpt_small, vit_base]


@pytest.mark.parametrize("experiment", CONFIGS, ids=lambda module: module.__name__)
def test_flops_are_those_that_the_compiler_counts(experiment: Any) -> None:
    """Which counts what is no matrix product as well, a few in a hundred."""
    model = small(experiment.config.model)
    ids, mask = jnp.zeros((2, 65), jnp.int32), jnp.ones((2, 65), bool)
    batch = {"target": ids, "target_mask": mask, "text": ids[:, :32], "text_mask": mask[:, :32],
             "image": jnp.zeros((2, 64, 64, 3), jnp.uint8)}  # fmt: skip
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    see = jax.jit(lambda variables, batch: model.apply(variables, batch))
    counted = see.lower(shapes, batch).cost_analysis()["flops"]
    read = 32 if experiment is vit_base else 65
    mine = 2 * flops.forward(model, read=read, written=64).full
    assert mine < counted < 1.1 * mine


def test_a_model_that_is_not_counted_says_so() -> None:
    with pytest.raises(ValueError, match="of a int are not counted"):
        flops.forward(1)


@pytest.mark.parity
def test_each_side_has_the_rate_of_its_own_model() -> None:
    pytest.importorskip("torch")
    from experiments.benchmarks.models import counted

    row = {"seconds": {"ours": {"median": 2.0}, "eager": {"median": 1.0}}}
    mine, others = flops.Flops(4e9, 3e9), flops.Flops(5e9, 5e9)
    found = counted(row, mine, 2, 3, others)
    assert found["gflops_per_second"] == {"ours": 12.0, "eager": 30.0}
    assert (found["gflops"], found["gflops_halved"], found["their_gflops"]) == (24.0, 18.0, 30.0)
    assert counted(row, mine, 2, 3)["gflops_per_second"]["eager"] == 24.0


def test_cards_of_one_name_have_their_own_peaks() -> None:
    assert flops.peak("NVIDIA H100 PCIe") == 756e12
    assert flops.peak("NVIDIA H100 80GB HBM3") == flops.peak("NVIDIA H200") == 989e12
    assert flops.peak("NVIDIA A100-SXM4-80GB") == 312e12


def test_mfu_is_flops_over_seconds_over_the_peak() -> None:
    each = flops.Flops(1e12, 0.5e12)
    row = utilisation.utilised(each, 10, 0.1, "NVIDIA H100 80GB HBM3")
    assert row["examples_per_second"] == 100
    assert row["mfu"] == pytest.approx(3 * 10 * 1e12 / 0.1 / 989e12, rel=1e-2)
    assert row["mfu_halved"] == pytest.approx(row["mfu"] / 2, rel=1e-2)
    assert "mfu" not in utilisation.utilised(each, 10, 0.1, "cpu")


def test_a_batch_that_does_not_fit_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(model: Any, rows: int, setting: Setting) -> dict[str, Any]:
        asked.append(rows)
        if rows > 3:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return {"rows": rows}

    monkeypatch.setattr(utilisation, "measure", measure)
    model = utilisation.Trained("a", "b", 12)
    assert utilisation.halving(model, Setting(tmp_path)) == {"rows": 3}
    assert asked == [12, 6, 3]
    monkeypatch.setattr(utilisation, "out_of_memory", lambda error: False)
    with pytest.raises(RuntimeError):
        utilisation.halving(model, Setting(tmp_path))


@pytest.mark.slow
def test_training_is_that_of_the_experiment(tmp_path: Path) -> None:
    model = utilisation.Trained("GPT", "gpt_tiny", 2, written=8)
    row = utilisation.measure(model, 2, Setting(tmp_path, repeats=1))
    assert (row["what"], row["optimiser"]) == ("MFU of GPT, train step, batch 2", "adamw")
    assert row["tflops_per_second"] > 0


# --- the runner ---


def test_a_setting_goes_to_another_process_and_back() -> None:
    setting = Setting(Path("/some/where"), "bfloat16", "gpu", threads=3, size="tiny")
    assert from_text(to_text(setting)) == setting


def test_parts_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    nothing = Part(lambda setting: iter(()), cpu=2, gpu=0, needs=())
    assert runner.unfit(nothing, setting, 2.1) == ""
    assert runner.unfit(nothing, setting, 1.9) == "2 min needed, 1.9 left of --minutes"
    assert runner.unfit(nothing, replace(setting, device="gpu"), 9) == "not for a gpu"
    absent = replace(nothing, needs=("jax", "no_such_module", "no_such.module"))
    assert runner.unfit(absent, setting, 9) == "not installed: no_such_module, no_such.module"


def test_a_process_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, "
        "file=sys.stderr, flush=True); time.sleep(60 * (len(sys.argv) > 1)); sys.exit(3)"
    )
    command, errors = [sys.executable, "-c", code], tmp_path / "stderr"
    problem = runner.ended(command, dict(os.environ), errors, 30)
    assert problem == errors.read_text().strip()
    assert "minutes" in runner.ended([*command, "wait"], dict(os.environ), errors, 0.5)
    for pid in (problem, errors.read_text().strip()):
        assert not pid or not alive(int(pid))


def alive(pid: int) -> bool:
    """Whether a process still runs in five seconds from now."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False  # ended, though nobody waited for it
        except FileNotFoundError:
            return False
        time.sleep(0.1)
    return True


def test_every_part_is_one_that_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["--only", "vit_forwrd", "--json", "x.json"]) == 2
    told = capsys.readouterr().err
    assert "vit_forwrd" in told
    assert all(name in told for name in PARTS)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each part gives, instead of a process of its own."""
    given: dict[str, Any] = {"machine": ([MACHINE | {"load": 0.1}], "")}
    monkeypatch.setattr(runner, "part", lambda name, *rest: given[name])
    return given


MACHINE = {"cpu": "c", "cores": 2, "memory_gib": 1.0, "device": "cpu", "accelerator": "none",
           "python": "3.11", "versions": {"jax": "0.10.2"}, "flags": {}}  # fmt: skip
ROW = {
    "what": "ViT-B/16, forward, batch 8", "ratio": 1.2, "by_round": [1.1, 1.3], "best": "eager",
    "ratio_of_minima": 1.22, "processor_ratio": 1.21,
    "difference": {"eager": 1e-6}, "impossible": {"compiled": "RuntimeError: no compiler\nat all"},
    "seconds": {"ours": {"median": 1.2, "minimum": 1.1, "spread": 0.02, "repeats": 7},
                "eager": {"median": 0.9, "minimum": 0.9, "spread": 0.02, "repeats": 7}},
    "rate": {"ours": 6.7, "eager": 8.0}, "unit": "examples/s", "times": 0.83, "load": 1.5,
}  # fmt: skip


def test_results_are_kept_part_by_part_and_shown(
    in_process: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "there", lambda module: module != "grain")
    path, shown = tmp_path / "out.json", tmp_path / "page.md"
    in_process["vit_forward"] = ([ROW], "")
    in_process["vit_step"] = ([], "stopped: --minutes were over")
    assert runner.main(["--only", "vit_forward", "--json", str(path)]) == 0
    assert runner.main(["--only", "vit_step,loader,mfu_vit", "--json", str(path)]) == 1
    found = json.loads(path.read_text())
    assert found["parts"].keys() == {"vit_forward", "vit_step", "loader", "mfu_vit"}
    assert found["left_out"] == {"loader": "not installed: grain", "mfu_vit": "not for a cpu"}

    assert runner.main(["--json", str(path), "--markdown", str(shown)]) == 0
    text = shown.read_text()
    assert "| ViT-B/16, forward, batch 8 | 1.2 s | eager 900 ms | **1.2** of eager |" in text
    assert "| 1.22 | 1.21 | 1.1 to 1.3 |" in text
    assert "1.1 to 1.3 | 6.7 examples/s, 0.83x | 1.25 | 1.0 | 1.0e-06 |" in text
    assert "compiled is impossible here: RuntimeError: no compiler" in text
    assert "loader: left out, not installed: grain" in text
    assert "vit_step: stopped" in text


def test_results_of_another_machine_are_not_mixed(
    in_process: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    in_process["vit_forward"] = ([ROW], "")
    assert runner.main(["--only", "vit_forward", "--json", str(path)]) == 0
    half = ["--only", "vit_forward", "--json", str(path), "--precision", "bfloat16"]
    assert runner.main(half) == 2
    assert "another machine or setting (precision differ)" in capsys.readouterr().err
    in_process["machine"] = ([MACHINE | {"cpu": "other"}], "")
    assert runner.main(["--only", "vit_forward", "--json", str(path)]) == 2
    assert "another machine or setting (cpu differ)" in capsys.readouterr().err


def test_the_page_has_a_table_for_each_kind_of_row() -> None:
    taken = {"median": 0.3, "minimum": 0.2, "spread": 0.1, "repeats": 5}
    rows = [
        ROW,
        {"what": "MFU of ViT-B/16, train step, batch 512", "seconds": {"ours": taken},
         "examples_per_second": 4000.0, "tflops_per_second": 421.0, "mfu": 0.426,
         "mfu_halved": 0.426},
        {"what": "start", "stages": {"cold": {"imported": 2.0}, "cached": {"imported": 2.1}}},
        {"what": "memory", "gib": {"planned": 1.5}},
        {"what": "checkpoint, 100 M parameters", "stall": taken, "written": taken},
    ]  # fmt: skip
    machine = MACHINE | {"threads": 2, "device": "gpu", "precision": "bfloat16"}
    results = {"machine": machine, "formula": page.FORMULA,
               "parts": {"all": {"rows": rows}}}  # fmt: skip
    text = page.page(results, "x.json")
    assert text.count("\n## ") == 5 + 1
    assert "on as many cores; bfloat16" in text
    assert "42.6 % | 42.6 % | 35 % | 50 % |" in text
    assert "| start | cached | 2.1 |" in text
    assert "| memory | 1.5 |" in text
    assert "| 300 ms | 0.2 s | 300 ms |  |  |" in text


# --- as a user runs it ---

BLOCK = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"grain", "tensorflow_datasets", "array_record", "tyro"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
"""


def invoke(folder: Path, only: str, **more: str) -> dict[str, Any]:
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(folder), str(root)])
    command = [sys.executable, "-m", "experiments.benchmarks", "--size", "tiny", "--repeats", "2",
               "--only", only, "--json", str(folder / "out.json")]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": paths, **more}
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


@pytest.mark.slow
def test_it_runs_without_the_libraries_that_read_data(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    found = invoke(tmp_path, "start,loader", TORCHDYNAMO_DISABLE="1")
    assert "grain" in found["left_out"]["loader"]


@pytest.mark.slow
@pytest.mark.parity
def test_every_part_runs_at_small_sizes(tmp_path: Path) -> None:
    """torch.compile is switched off: it takes half a minute for each side."""
    pytest.importorskip("torch")
    names = [name for name in PARTS if not name.startswith("mfu")]
    found = invoke(tmp_path, ",".join(names), TORCHDYNAMO_DISABLE="1")
    assert not found["left_out"]
    assert all(found["parts"][name]["rows"] for name in names)
