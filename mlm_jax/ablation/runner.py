"""Running a plan: each run trains and is evaluated by the project's own commands, by themselves.

    OUT/plan.json                 what was compared so far; more may come, but nothing else
    OUT/<variant>/seed0/          a run directory like any other
    OUT/<variant>/seed0.log       what its commands said
    OUT/<variant>/seed0.json      which of them are done, and how long they took

A run that was killed is gone on with by train.py; one that is done is not done again; one that
failed is tried again by the same command.
"""

import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import IO, Any

from mlm_jax import checkpoint, sharding
from mlm_jax import config as configs
from mlm_jax.ablation.costs import Cost, costs, reference, steps
from mlm_jax.ablation.plan import Plan, Resolved, Value, apart, refuse_names, words
from mlm_jax.config import UserError, senses, to_json
from mlm_jax.data import sources
from mlm_jax.losses import Classes, Spans
from mlm_jax.report import load_asked, saved_name
from mlm_jax.run import as_now, lock, read_metrics, write
from mlm_jax.terminal import printable

TAIL = 12
"""Lines of a failed run that are shown."""
TIMED, SKIPPED = 16, 6
"""Steps of the measurement for a budget of time, and those that it leaves out at the beginning."""
CURVE = 40
"""Lines of metrics.jsonl that a run writes at least."""
TRAIN = "train"
DEVICES = Path("/dev")
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Order:
    """How a plan is run: seeds 0 to `seeds` - 1, `jobs` at a time, `limit` pictures evaluated.

    Where there are several GPUs, each of several `jobs` has one of them.
    """

    out: Path
    seeds: int = 5
    jobs: int = 2
    limit: int | None = None

    @property
    def options(self) -> list[str]:
        """Of evaluate.py."""
        return [] if self.limit is None else ["--limit", str(self.limit)]


@dataclass(frozen=True)
class Ready:
    """A plan that may run in its folder.

    `costs` and `steps` are of all variants that the folder holds, so of those of the plan too.
    """

    plan: Plan
    order: Order
    costs: Mapping[str, Cost]
    steps: Mapping[str, int]

    @property
    def comparisons(self) -> int:
        """Variants that the folder holds, also those not run now, but for the baseline."""
        return len(self.steps) - 1

    def works(self) -> list["Work"]:
        """One seed of all variants after another, so that all can be compared early."""
        return [
            Work(self, variant, seed)
            for seed in range(self.order.seeds)
            for variant in self.plan.variants
        ]


@dataclass(frozen=True)
class Status:
    """What of a run is done, in seconds; `code` of a command that failed, and its last lines."""

    steps: int
    trained: float | None = None
    evaluated: Mapping[str, float] = field(default_factory=dict)
    code: int = 0
    tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """One run: a variant with a seed."""

    ready: Ready
    variant: Resolved
    seed: int

    @property
    def folder(self) -> Path:
        return self.ready.order.out / self.variant.folder

    @property
    def run(self) -> Path:
        return self.folder / f"seed{self.seed}"

    @property
    def log(self) -> Path:
        return self.folder / f"seed{self.seed}.log"

    @property
    def steps(self) -> int:
        return self.ready.steps[self.variant.name]

    def status(self) -> Status:
        """As it was left; a new one where the file was cut short or is of other steps."""
        try:
            found = Status(**json.loads((self.folder / f"seed{self.seed}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return Status(self.steps)
        if found.steps != self.steps:
            return Status(self.steps)
        return replace(found, tail=tuple(found.tail))

    def remember(self, status: Status) -> None:
        write(self.folder / f"seed{self.seed}.json", json.dumps(asdict(status)) + "\n")

    def done(self) -> bool:
        return self.next(self.status()) is None

    def next(self, status: Status) -> tuple[str, list[str]] | None:
        """ "train" or the split to evaluate on, and the command; None where nothing is left."""
        left = [
            split
            for split in self.ready.plan.ablation.splits
            if split not in status.evaluated or not self.measured(split)
        ]
        if status.trained is None:
            line = train_command(self.variant, self.run, seed=self.seed, steps=self.steps)
            return TRAIN, line
        if not left:
            return None
        line = [*script("evaluate.py"), "--run", str(self.run), "--split", left[0]]
        return left[0], [*line, *self.ready.order.options]

    def measured(self, split: str) -> bool:
        """Whether a split has figures, and, as far as is known, by the options of the order."""
        if not self.evaluation(split).exists():
            return False
        try:
            asked = load_asked(self.run, split)
        except (ValueError, AttributeError):
            return False
        return asked in (None, shlex.join(self.ready.order.options))

    def goes_on(self) -> bool:
        """Whether train.py can go on with it: nothing was saved yet, or a checkpoint is whole."""
        folder = self.run / "checkpoints"
        begun = (self.run / "config.json").exists()
        return begun and (not checkpoint.steps(folder) or checkpoint.restorable(folder))

    def whole(self) -> bool:
        """Whether it can be asked: what evaluate.py opens is there, and a checkpoint is whole."""
        names = ["config.json", "tokenizer.json"]
        if isinstance(self.variant.config.loss, Classes | Spans):
            names.append("classes.json")
        if not all((self.run / name).exists() for name in names):
            return False
        return checkpoint.restorable(self.run / "checkpoints", checkpoint.parameters)

    def evaluation(self, split: str) -> Path:
        return self.run / saved_name("evaluation", split)


def script(name: str) -> list[str]:
    return [sys.executable, str(configs.folder().parent / name)]


def train_command(variant: Resolved, run: Path, *, seed: int, steps: int) -> list[str]:
    """A variant's own keys count over these, which do not change what is learnt."""
    every = min(variant.config.log_every, max(1, steps // CURVE))
    free: dict[str, Value] = {"log_every": every, "keep": 1}
    keys = {**free, **variant.overrides, "seed": seed, "steps": steps}
    return [*script("train.py"), "--config", variant.source, "--run", str(run), *words(keys)]


# --- the folder ---


def prepare(plan: Plan, order: Order) -> Ready:
    """Check every new variant by building its step, and every split by opening it.

    The folder is taken for this plan, or what is new is added to the plan that it holds. Raises:
    UserError for a model that cannot be built, a split that is not there, a folder of another plan
    or of no plan, or several runs at once that each need several devices.
    """
    refuse_shared(plan, order)
    kept = opened(plan, order)
    open_splits(plan)
    known: dict[str, int] = kept["steps"]
    new = [each for each in plan.variants if each.name not in known]
    prices = {name: Cost(**values) for name, values in kept["costs"].items()} | costs(new)
    timed = new and plan.ablation.budget == "time"
    base = reference(plan, known)
    seconds = measure({each.name: each for each in (base, *new)}, order) if timed else {}
    made = known | steps(plan, prices, seconds, known)
    tree = tree_of(plan, order)
    tree["variants"] = kept["variants"] | tree["variants"]
    tree |= {"costs": {name: asdict(cost) for name, cost in prices.items()}, "steps": made}
    write(order.out / "plan.json", json.dumps(tree, indent=1) + "\n")
    return Ready(plan, order, prices, made)


def tree_of(plan: Plan, order: Order) -> dict[str, Any]:
    return {
        "ablation": plan.name,
        "baseline": plan.baseline,
        "budget": plan.ablation.budget,
        "figures": list(plan.ablation.figures),
        "splits": list(plan.ablation.splits),
        "limit": order.limit,
        "variants": {each.name: to_json(each.config) for each in plan.variants},
    }


def opened(plan: Plan, order: Order) -> dict[str, Any]:
    """What the folder knows of variants that it holds, or that it holds none yet.

    Raises: UserError where it is of another plan, of no plan, or damaged.
    """
    order.out.mkdir(parents=True, exist_ok=True)
    path = order.out / "plan.json"
    if not path.exists():
        refuse_foreign(order.out)
        return {"variants": {}, "costs": {}, "steps": {}}
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        different = list(plan_differences(kept, tree_of(plan, order)))
        if not {*kept["steps"]} == {*kept["costs"]} == {*kept["variants"]}:
            raise ValueError("costs or steps are missing")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): choose another --out") from error
    if different:
        raise UserError(
            f"{order.out} holds another plan (its value, then yours):\n"
            + "\n".join(f"  {line}" for line in different)
            + "\nNothing was changed. Choose another --out."
        )
    refuse_names(list(kept["variants"] | dict.fromkeys(each.name for each in plan.variants)))
    return kept


def refuse_foreign(out: Path) -> None:
    others = sorted(p.name for p in out.iterdir() if p.name not in ("lock", "timing"))
    if others:
        shown = ", ".join(others[:5])
        raise UserError(f"{out} is not empty and holds no plan ({shown}): choose another --out")


def plan_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What would make runs of both incomparable: other figures, splits or variants do not."""
    for key in ("budget", "limit"):
        if old[key] != new[key]:
            yield f"{key}: {old[key]!r} -> {new[key]!r}"
    before, now = old["variants"], new["variants"]
    shared = [name for name in now if name in before]
    if not shared:
        yield "none of its variants is among yours"
    for name in shared:
        for key, one, two in apart(as_now(before[name]), now[name]):
            yield f"variant `{name}`: {key}: {one!r} -> {two!r}"


def open_splits(plan: Plan) -> None:
    """Raises: UserError naming the variant whose data have no such split."""
    tried = set()
    for each in plan.variants:
        needs = tuple(senses(each.config))
        for split in plan.ablation.splits:
            data = each.config.data
            data = data if split == "test" else replace(data, test=split)
            if (data, needs) in tried:
                continue
            tried.add((data, needs))
            try:
                sources.open_source(data, data.test, needs)
            except UserError as error:
                raise UserError(f"variant `{each.name}`: {error}") from error


def measure(variants: Mapping[str, Resolved], order: Order) -> dict[str, float]:
    """Seconds of a step of each variant, the median of a few, run by itself."""
    found = {}
    for each in variants.values():
        run = order.out / "timing" / each.folder
        rmtree(run, ignore_errors=True)
        run.parent.mkdir(parents=True, exist_ok=True)
        every = replace(each, overrides={**each.overrides, "log_every": 1})
        line = train_command(every, run, seed=0, steps=TIMED)
        surroundings = environment(0, order.jobs)
        done = subprocess.run(line, capture_output=True, text=True, env=surroundings)
        times = [float(row["time"]) for row in read_metrics(run)][SKIPPED:]
        if done.returncode or len(times) < 2:
            said = "\n".join(map(printable, (done.stdout + done.stderr).splitlines()[-TAIL:]))
            raise UserError(f"variant `{each.name}` could not be timed:\n{said}")
        found[each.name] = statistics.median(b - a for a, b in itertools.pairwise(times))
    rmtree(order.out / "timing", ignore_errors=True)
    return found


# --- devices ---


def gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them: those that it leaves visible, or else all there are."""
    shown = os.environ.get(VISIBLE)
    if shown is None:
        return [str(index) for index, _ in enumerate(DEVICES.glob("nvidia[0-9]*"))]
    return [each.strip() for each in shown.split(",") if each.strip()]


def environment(slot: int, jobs: int) -> dict[str, str]:
    """Of one of `jobs` runs at once: its GPU, and its share of the memory where others are there.

    A run by itself sees them all.
    """
    if jobs == 1:
        return {**os.environ}
    there = gpus()
    place = slot % max(len(there), 1)
    beside = len(range(place, jobs, max(len(there), 1)))
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / beside:.2f}"}
    return share | os.environ | ({VISIBLE: there[place]} if there else {})


def refuse_shared(plan: Plan, order: Order) -> None:
    """Raises: UserError where runs at once would each need the GPUs of the others."""
    if order.jobs == 1 or len(gpus()) < 2:
        return
    for each in plan.variants:
        if (count := sharding.least(each.config.mesh)) > 1:
            raise UserError(
                f"variant `{each.name}` needs {count} devices for a run, but {order.jobs} runs at"
                " once have one each: --jobs 1, or no --mesh"
            )


# --- the runs ---


@dataclass
class Going:
    """A command that runs, on its share of the cores; `stage` is "train" or a split."""

    work: Work
    status: Status
    stage: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    slot: int
    began: float


def run_all(ready: Ready, say: Callable[[str], None], after: Callable[[], object]) -> int:
    """Run what is not done yet; `after` is called when a run ended. How many failed.

    An error or a signal here stops the runs, which save first.
    """
    waiting = [work for work in ready.works() if not work.done()]
    total, failed = len(waiting), 0
    going: list[Going] = []
    try:
        while waiting or going:
            for each in [g for g in going if g.process.poll() is not None]:
                going.remove(each)
                status = ended(each)
                each.work.remember(status)
                if status.code == 0 and each.work.next(status):
                    going.append(start(each.work, status, each.slot, ready.order.jobs))
                    continue
                failed += status.code != 0
                say(line_of(each.work, status, total - len(waiting) - len(going), total))
                after()
            begin_next(ready, waiting, going)
            time.sleep(0.1)
    finally:
        stop(going)
    return failed


def begin_next(ready: Ready, waiting: list[Work], going: list[Going]) -> None:
    """Start as many as there is room for; those last that another process still works on."""
    for slot in sorted({*range(ready.order.jobs)} - {each.slot for each in going}):
        work = next((each for each in waiting if not held(each.run)), None)
        if work is not None:
            waiting.remove(work)
            going.append(start(work, taken_up(work), slot, ready.order.jobs))


def start(work: Work, status: Status, slot: int, jobs: int) -> Going:
    following = work.next(status)
    assert following is not None
    stage, command = following
    work.folder.mkdir(parents=True, exist_ok=True)
    log = work.log.open("ab")
    surroundings = environment(slot, jobs)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=surroundings
    )
    cores = sorted(os.sched_getaffinity(0))
    if jobs > 1 and len(cores) >= jobs:
        # before jax counts them, which takes it a second: its threads are then on these alone
        with suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, cores[slot::jobs])
    return Going(work, status, stage, process, log, slot, time.monotonic())


def taken_up(work: Work) -> Status:
    """How a run was left, for another try; one that was half deleted is removed.

    train.py or evaluate.py would refuse it each time.
    """
    status = replace(work.status(), code=0, tail=())
    if work.goes_on() if status.trained is None else work.whole():
        return status
    rmtree(work.run, ignore_errors=True)
    return Status(work.steps)


def ended(each: Going) -> Status:
    """What is known after a command."""
    each.log.close()
    code, seconds = each.process.returncode, round(time.monotonic() - each.began, 1)
    if code:
        return replace(each.status, code=code, tail=last_lines(each.work.log))
    if each.stage == TRAIN:
        return replace(each.status, trained=seconds)
    return replace(each.status, evaluated={**each.status.evaluated, each.stage: seconds})


def last_lines(path: Path) -> tuple[str, ...]:
    """Of a log, no more than a screen."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        text = file.read().decode(errors="replace")
    return tuple(printable(line) for line in text.splitlines() if line.strip())[-TAIL:]


def held(run: Path) -> bool:
    """Whether another process still works on it, such as one whose parent was killed."""
    if not run.is_dir():
        return False
    try:
        with lock(run):
            return False
    except UserError:
        return True


def stop(going: Sequence[Going]) -> None:
    for each in going:
        each.process.terminate()
    for each in going:
        each.process.wait()
        each.log.close()


def line_of(work: Work, status: Status, ended: int, total: int) -> str:
    seconds = (status.trained or 0) + sum(status.evaluated.values())
    how = f"failed with code {status.code}" if status.code else f"{seconds:.0f} s"
    return f"{ended} of {total}: {work.variant.name}, seed {work.seed}: {how}"
