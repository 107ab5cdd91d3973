"""Training: data, step, log, evaluate, save, in this order, once for every kind of model.

The number of a step is the number of batches consumed: random keys, the place in the data and the
metrics all follow from it, so that a run that was killed goes on as if it had not been.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from mlm_jax import memory, optim, processes, sharding, stages
from mlm_jax.checkpoint import WATCHED, Checkpoints, Saved, size, steps
from mlm_jax.config import Config, UserError, to_json
from mlm_jax.data.sources import say_left_out
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.decoders.codes import AVERAGES
from mlm_jax.feed import Feed, open_feed
from mlm_jax.initial import start_from
from mlm_jax.paths import map_named, named, nest
from mlm_jax.progress import Progress
from mlm_jax.report import write_report
from mlm_jax.run import Run, differences, open_run
from mlm_jax.stop import Stop, signals

Batch = Mapping[str, Any]
Metrics = dict[str, Array]


# --- the step ---


class State(NamedTuple):
    """All that a step changes. `ema` is () when it is off; masters are float32."""

    step: Int[Array, ""]
    params: Any
    opt: Any
    ema: Any
    skipped: Int[Array, ""]
    streak: Int[Array, ""]


def prepare(
    config: Config,
    example: Batch,
    tokenizer: Tokenizer | None = None,
    classes: Sequence[str] = (),
) -> tuple[State, optax.GradientTransformation, Callable[[], State]]:
    """For batches like `example`: shapes of the state, the optimiser, what makes the first state.

    `tokenizer` is that of the run, by which words are found in what config.init names, as are its
    `classes` by their names. Where a mesh is set the shapes say where on it the arrays lie. Raises:
    ValueError by a model that cannot be built; UserError for patterns that match nothing.
    """

    def initial_params() -> Any:
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(example))
        return config.model.init(jax.random.key(config.seed), blank)["params"]

    params = jax.eval_shape(initial_params)
    sharding.check_params(params)
    tx = optim.build(config.optim, config.steps, params)

    def initial_state(params: Any) -> State:
        zero = jnp.zeros((), jnp.int32)
        ema = jax.tree.map(jnp.copy, params) if config.optim.ema else ()
        return State(zero, params, tx.init(params), ema, zero, zero)

    places = sharding.shardings(jax.eval_shape(initial_state, params), params)
    draw = jax.jit(initial_params, out_shardings=places and places.params)
    complete = jax.jit(initial_state, out_shardings=places)

    def begin() -> State:
        params = draw()
        if config.init.path:
            params, listing = start_from(config.init, config.model, params, tokenizer, classes)
            print(f"parameters from {config.init.path}:", *listing.lines(), sep="\n")
        return complete(stages.with_stages(config, params))

    return jax.eval_shape(complete, params), tx, begin


def make_step(config: Config, tx: optax.GradientTransformation) -> jax.stages.Wrapped:
    """`(state, batch) -> (state, metrics)`, compiled; the state that goes in is used up.

    Metrics: loss, those of the loss, grad_norm, lr, streak (steps skipped in a row), and `finite`:
    one bool for the gradient of each parameter that is trained, then one for the loss. If one of
    them is False, nothing but the counters changes, bit for bit.
    """
    rates = optim.schedule(config.optim, config.steps)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        grads, metrics, renewed = gradients(config, state.params, batch, key)
        squares = jnp.stack([jnp.square(g).sum() for g in moving(config, grads)])
        finite = jnp.isfinite(jnp.append(squares, metrics["loss"]))
        done = state.step - state.skipped

        def update(params: Any, opt: Any, ema: Any) -> tuple[Any, Any, Any]:
            updates, opt = tx.update(grads, opt, params)
            params = replaced(optax.apply_updates(params, updates), renewed)
            return params, opt, average(config.optim.ema, done, ema, params)

        # A branch, not a choice between two results for each leaf: that took 3 times as long to
        # compile on a CPU (34 s against 11 s for 131 parameters).
        good, old = finite.all(), (state.params, state.opt, state.ema)
        params, opt, ema = jax.lax.cond(good, update, lambda *same: same, *old)
        bad = 1 - good.astype(jnp.int32)
        streak = bad * (state.streak + 1)
        after = State(state.step + 1, params, opt, ema, state.skipped + bad, streak)
        extra = {"grad_norm": jnp.sqrt(squares.sum()), "lr": rates(done)}
        metrics = {**metrics, **extra, "finite": finite, "streak": streak}
        return sharding.hold(after, state.params), sharding.gather(metrics)

    return jax.jit(step, donate_argnums=0)


def replaced(params: Any, renewed: Mapping[str, Any]) -> Any:
    """`params` with others in the place of some: a codebook that its model has renewed."""
    new = named(renewed)
    return map_named(lambda path, leaf: new.get(path, leaf), params)


def moving(config: Config, tree: Any) -> list[Any]:
    """Leaves that are trained: gradients of frozen ones are then never computed."""
    still = jax.tree.leaves(optim.frozen(config.optim, tree))
    return [leaf for leaf, f in zip(jax.tree.leaves(tree), still, strict=True) if not f]


def gradients(
    config: Config, params: Any, batch: Batch, key: Array
) -> tuple[Any, Metrics, dict[str, Any]]:
    """Gradients, metrics, and parameters that the model renews itself ("renewed"), in float32.

    The forward and backward pass is in config.precision.

    With optim.accumulate the batch is computed in parts, every n-th picture with its texts, one
    after another: of each part every device of a mesh then has its share. A loss that is a mean
    over more than pictures (over tokens) says over how many in the metric `weight`; parts then
    count by it, and the result is that of the whole batch.
    """

    def objective(half: Any, part: Batch, key: Array) -> tuple[Array, tuple[Metrics, Any]]:
        outputs: Any = config.model.apply({"params": half}, part, train=True, rngs=rngs(key))
        loss, metrics = judged(config, outputs, part)
        return loss, ({"loss": loss, **metrics}, outputs.get("renewed", {}))

    def whole(part: Batch, key: Array) -> tuple[tuple[Any, Metrics, Any], Array]:
        grads, (metrics, renewed) = jax.grad(objective, has_aux=True)(half, part, key)
        weight = metrics.pop("weight", jnp.ones(()))
        return jax.tree.map(lambda x: x.astype(jnp.float32), (grads, metrics, renewed)), weight

    def weighed(part: Batch, key: Array) -> tuple[tuple[Any, Metrics, Any], Array]:
        results, weight = whole(part, key)
        return jax.tree.map(lambda x: weight * x, results), weight

    half = cast(params, config.precision)
    parts = config.optim.accumulate
    if parts == 1:
        return whole(batch, key)[0]
    pictures = math.gcd(*map(len, jax.tree.leaves(batch)))  # or, of text alone, what texts share

    def split_rows(x: Array) -> Array:
        apart = x.reshape(pictures // parts, parts, len(x) // pictures, *x.shape[1:])
        return apart.swapaxes(0, 1).reshape(parts, len(x) // parts, *x.shape[1:])

    split = jax.tree.map(split_rows, dict(batch))
    keys = jax.random.split(key, parts)
    shapes = jax.eval_shape(weighed, *jax.tree.map(lambda x: x[0], (split, keys)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
        rows, key = part
        return jax.tree.map(jnp.add, total, weighed(sharding.spread(rows), key)), None

    (sums, weight), _ = jax.lax.scan(add, zeros, (split, keys))
    means: tuple[Any, Metrics, dict[str, Any]] = jax.tree.map(lambda x: x / weight, sums)
    return means


def judged(config: Config, outputs: Mapping[str, Any], batch: Batch) -> tuple[Array, Metrics]:
    """Loss and metrics. Raises: UserError if the loss reads what is not there (while tracing)."""
    try:
        return config.loss(outputs, batch)
    except KeyError as error:
        raise UserError(
            f"the loss {type(config.loss).__name__} reads {error}, which is neither in what a"
            f" {type(config.model).__name__} gives ({', '.join(outputs)}) nor in a batch"
            f" ({', '.join(batch)}): a loss of your own may read them (losses.py)"
        ) from error


def rngs(key: Array) -> dict[str, Array]:
    """Keys for what a model draws: what it drops, and what it hides."""
    return {name: jax.random.fold_in(key, i) for i, name in enumerate(("dropout", "mask"))}


def cast(params: Any, precision: str) -> Any:
    """Floating parameters in `precision`: a model computes in the dtype of its parameters.

    Scalars stay as they are: rounded, a scale of logits of 100 would be off by up to 1.6 %. So do
    the averages of a codebook, which are added to and never see a gradient.
    """

    def one(path: str, x: Array) -> Array:
        still = x.ndim == 0 or path.endswith(AVERAGES)
        return x if still or not jnp.issubdtype(x.dtype, jnp.floating) else x.astype(precision)

    return map_named(one, params)


def average(decay: float, done: Array, ema: Any, params: Any) -> Any:
    """Moving average after `done` earlier updates; () stays ()."""
    if not decay:
        return ema
    d = optim.ema_decay(decay, done)
    return jax.tree.map(lambda e, p: e + (1 - d) * (p - e), ema, params)  # exact where p is e


# --- validation ---


def make_validate(config: Config) -> Callable[[Any, Sequence[Batch]], dict[str, float]]:
    """`(params, batches) -> {"test/loss": ...}`, means over the batches, in float32."""

    @jax.jit
    def one(params: Any, batch: Batch) -> Metrics:
        outputs: Any = config.model.apply({"params": params}, batch, train=False)
        loss, metrics = judged(config, outputs, batch)
        return sharding.gather({"weight": jnp.ones(()), **metrics, "loss": loss})

    def validate(params: Any, batches: Sequence[Batch]) -> dict[str, float]:
        rows = [jax.device_get(one(params, sharding.put(batch))) for batch in batches]
        weights = [float(row.pop("weight")) for row in rows]
        return {
            f"test/{name}": float(np.average([row[name] for row in rows], weights=weights))
            for name in rows[0]
        }

    return validate


# --- the loop ---


def train(config: Config, path: Path, command: Sequence[str] = ()) -> int:
    """Train in the run directory `path`, from where it is; the exit code (0, or 128 + signal).

    Raises: UserError, ValueError or OSError for what the user can put right.
    """
    config = stages.resolve(config, path)
    mesh = sharding.make_mesh(config.mesh)
    banner(config, mesh)
    sharding.check_batch(config, mesh)
    refuse_other_processes(config)
    with ExitStack() as stack:
        with processes.leader_first():
            run = stack.enter_context(open_run(path, config, command))
        with processes.leader_first():
            feed = open_feed(config, run, mesh)
        checkpoints = Checkpoints(run.checkpoints, config.keep, config.keep_best)
        stack.callback(checkpoints.close)
        stack.enter_context(jax.set_mesh(mesh))
        return loop(config, run, feed, checkpoints)


def loop(config: Config, run: Run, feed: Feed, checkpoints: Checkpoints) -> int:
    classes = feed.labels.classes if feed.labels else feed.take.events
    first = next(feed.batches(0, Stop()))
    shapes, tx, begin = prepare(config, first, feed.tokenizer, classes)
    saved = checkpoints.restore(trees(shapes))
    start = saved.step if saved else 0
    if start >= config.steps:
        print(f"{run.path} is finished: {start} steps. Another --run begins anew.")
        return 0
    more = config.keep + config.keep_best - len(steps(run.checkpoints))
    run.require_space((max(more, 0) + 1) * size(shapes))
    state = resumed(saved, shapes) if saved else begin()
    tests = feed.held_out() if config.eval_every else []
    step, validate = make_step(config, tx), make_validate(config)
    if not saved:
        require_memory(config, step, state, first)
    run.rewind(start)
    print(f"{optim.count(shapes.params):,} parameters, {config.steps:,} steps")
    print(f"going on in {run.path} after step {start}" if saved else f"a new run in {run.path}")

    with signals() as stop, Progress(config, start) as progress:
        log = Log(config, run, progress, shapes.params, saved.info["window"] if saved else [])
        batches = feed.batches(start, stop)
        batch = next(batches)
        for number in range(start + 1, config.steps + 1):
            state, metrics = step(state, sharding.put(batch))
            log.push(number, metrics)

            last = number == config.steps or stop.signal is not None
            scores: dict[str, float] = {}
            if config.eval_every and (number % config.eval_every == 0 or number == config.steps):
                log.flush()
                scores = validate(state.ema or state.params, tests)
                log.write(number, scores)

            if last or number % config.save_every == 0:
                log.flush()
                checkpoints.save(number, trees(state), info(state, log.window), scores.get(WATCHED))
            if last:
                break
            batch = next(batches)
        checkpoints.wait()

    if run.writes:
        write_report(run.path)
    say_left_out(feed.source)
    if number < config.steps:
        print(f"stopped and saved at step {number}; the same command goes on: --run {run.path}")
        return 128 + (stop.signal or 0)
    print(f"finished {config.steps:,} steps: {run.path}")
    return 0


def require_memory(config: Config, step: jax.stages.Wrapped, state: State, batch: Batch) -> None:
    """Compile the step, once for here and for the loop. Raises: UserError if it does not fit.

    The state is in memory already.
    """
    needed = memory.needed(step.lower(state, sharding.put(batch)).compile())
    room = memory.free()
    if needed > room:
        raise UserError(
            f"a step with data.batch {config.data.batch} takes {needed / 2**30:.2g} GiB besides the"
            f" parameters, and {room / 2**30:.2g} GiB are free: a smaller --data.batch, parts of it"
            f" one after another (--optim.accumulate, here {config.optim.accumulate}), or less that"
            " is kept for the way back (--model...body.remat full)"
        )


def refuse_other_processes(config: Config) -> None:
    """Raises: UserError if another process was started with another configuration."""
    texts = processes.same(json.dumps(to_json(config)))
    for index, text in enumerate(texts):
        different = differences(json.loads(texts[0]), json.loads(text))
        if different:
            raise UserError(
                f"process {index} was started with another configuration than process 0"
                " (its value, then that of process 0):\n"
                + "\n".join(f"  {key}: {mine!r}, {first!r}" for key, first, mine in different)
            )


class Log:
    """Metrics on their way to metrics.jsonl: they come one step late, so that nothing waits.

    A line is the mean over the steps since the line before; `window` holds those not yet written.
    """

    def __init__(
        self, config: Config, run: Run, progress: Progress, params: Any, window: list[dict]
    ):
        self.config, self.run, self.progress = config, run, progress
        self.paths = [*moving(config, map_named(lambda path, _: path, params)), "loss"]
        self.window = window
        self.late: tuple[int, Metrics] | None = None

    def push(self, number: int, metrics: Metrics) -> None:
        self.flush()
        self.late = number, metrics

    def flush(self) -> None:
        """Wait for the step that was pushed last. Raises: UserError after too many skipped ones."""
        if self.late is None:
            return
        number, metrics = self.late
        self.late = None
        row = {name: value.tolist() for name, value in jax.device_get(metrics).items()}
        row = {"loss": row.pop("loss")} | row
        finite, streak = row.pop("finite"), row.pop("streak")
        self.progress.advance(number, row["loss"])
        if all(finite):
            self.window.append(row)
        else:
            self.skip(number, streak, [p for p, f in zip(self.paths, finite, strict=True) if not f])
        if number % self.config.log_every == 0 or number == self.config.steps:
            self.write(number, means(self.window) | {"pictures_per_second": self.progress.rate()})
            self.window.clear()

    def write(self, number: int, numbers: dict[str, float]) -> None:
        self.run.log(number, numbers)
        self.progress.line(number, numbers)

    def skip(self, number: int, streak: int, paths: Sequence[str]) -> None:
        named = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
        self.progress.say(f"step {number} skipped: not finite: {named}")
        if streak >= self.config.optim.max_skipped:
            raise UserError(
                f"stopped at step {number}: {streak} steps in a row without a finite loss and"
                f" gradient ({named}). The parameters are those of step {number - streak}; try a"
                " lower --optim.lr, a smaller --optim.clip, or look at the data."
            )


def means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in (rows or [{}])[0]}


# --- the state, saved and brought back ---


def trees(state: State) -> dict[str, Any]:
    kept = {"params": state.params, "opt": state.opt, "ema": state.ema}
    return {name: nest(tree) for name, tree in kept.items() if jax.tree.leaves(tree)}


def info(state: State, window: Sequence[dict[str, float]]) -> dict[str, Any]:
    counts = {"skipped": int(state.skipped), "streak": int(state.streak)}
    return {"batches": int(state.step), **counts, "window": list(window)}


def resumed(saved: Saved, shapes: State) -> State:
    """The saved arrays as a state like `shapes`."""

    def fill(name: str) -> Any:
        like = getattr(shapes, name)
        leaves = named(saved.trees.get(name, {}))
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in named(like)])

    def count(number: int) -> Array:
        return sharding.put_whole(np.array(number, np.int32))

    counts = {name: count(saved.info[name]) for name in ("skipped", "streak")}
    return State(count(saved.step), fill("params"), fill("opt"), fill("ema"), **counts)


# --- around the loop ---


def banner(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Say what it runs on. Raises: UserError if that is not what config.require asks for."""
    device = mesh.devices.flat[0]
    platform, kind = device.platform, device.device_kind
    how = f" ({sharding.describe(mesh)})" if mesh.size > 1 else ""
    print(f"{platform} ({kind}) × {mesh.size}{how}, jax {jax.__version__}, {config.precision}")
    if config.require not in ("any", platform):
        raise UserError(f"--require {config.require}, but jax found only {platform}")
