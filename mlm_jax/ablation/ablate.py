"""An ablation from its plan to its page: what is foreseen, what is run, what is written."""

from collections.abc import Callable, Iterator

from mlm_jax.ablation.kinds import statistics
from mlm_jax.ablation.page import as_markdown, report
from mlm_jax.ablation.plan import Plan
from mlm_jax.ablation.results import Results, as_csv, as_json, gather, missing, spreads
from mlm_jax.ablation.runner import Order, Ready, prepare, run_all
from mlm_jax.ablation.statistics import foreseen, outlook, warning
from mlm_jax.run import lock, write

FILES: dict[str, Callable[[Results], str]] = {
    "report.html": report,
    "table.md": as_markdown,
    "results.csv": as_csv,
    "results.json": as_json,
}


def ablate(plan: Plan, order: Order, say: Callable[[str], None] = print) -> Results:
    """Run what of a plan is not done yet; FILES in `order.out` are written whenever a run ended.

    Runs that failed are in the results. Runs are processes by themselves: on an accelerator they
    need its memory, which this process leaves them after `planner.compiler.simulate`. Raises:
    UserError for what `prepare` refuses, or a folder that another process works in.
    """
    order.out.mkdir(parents=True, exist_ok=True)
    with lock(order.out, "--out"):
        ready = prepare(plan, order)
        for line in foresee(ready):
            say(line)
        told: set[str] = set()

        def results() -> Results:
            found = written(ready)
            new = [line for line in missing(found) if line not in told]
            told.update(new)
            for line in new:
                say(f"warning: {line}")
            return found

        run_all(ready, say, results)
        return results()


def written(ready: Ready) -> Results:
    """The results by now, also as FILES."""
    found = gather(ready, statistics)
    for name, text in FILES.items():
        write(ready.order.out / name, text(found))
    return found


def foresee(ready: Ready) -> Iterator[str]:
    """Lines that say before it runs what it takes, and which differences it can show."""
    plan, seeds = ready.plan, ready.order.seeds
    for each in plan.variants:
        cost = ready.costs[each.name]
        yield (
            f"{each.name}: {cost.parameters:,} parameters, {cost.flops / 1e9:.3g} GFLOP a step,"
            f" {ready.steps[each.name]:,} steps"
        )
    problem = warning(seeds, ready.comparisons)
    yield f"warning: {problem}" if problem else outlook(seeds, ready.comparisons)
    known = {**plan.ablation.spread, **spreads(gather(ready, statistics))}
    for figure, spread in known.items():
        smallest = foreseen(seeds, ready.comparisons, spread)
        if smallest is not None:
            yield f"{figure}: differences from {smallest:.3g} on can be seen with {seeds} seeds"
