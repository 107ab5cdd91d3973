"""An ablation from its plan to its page: what is foreseen, what is run, what is written."""

from collections.abc import Iterator

from mlm_jax.ablation.kinds import statistics
from mlm_jax.ablation.results import gather, spreads
from mlm_jax.ablation.runner import Ready
from mlm_jax.ablation.statistics import foreseen, outlook, warning


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
