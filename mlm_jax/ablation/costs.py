"""What a variant costs: parameters and FLOPs from its compiled step, steps from the budget."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax

from mlm_jax import optim, sharding
from mlm_jax.ablation.plan import Budget, Plan, Resolved
from mlm_jax.config import Config, UserError
from mlm_jax.paths import named
from mlm_jax.planner.compiler import parts


@dataclass(frozen=True)
class Cost:
    """`trained` of the `parameters` move. `flops` are those of one step."""

    parameters: int
    trained: int
    flops: float


def cost(config: Config) -> Cost:
    """Of the step as it is handed to the compiler, which takes seconds where compiling takes a
    minute: of `vit_tiny` 4 % above what was compiled, with its picture encoder frozen 4.5 %.

    What need not be computed, such as the gradients of frozen parameters, is not counted. Raises:
    UserError or ValueError for a model that cannot be built, or patterns that match nothing.
    """
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config, mesh)
    state, batch, step = parts(config, mesh)
    with jax.set_mesh(mesh):
        analysis = step.lower(state, batch).cost_analysis() or {}
    sizes = {path: leaf.size for path, leaf in named(state.params).items()}
    still = named(optim.frozen(config.optim, state.params))
    return Cost(
        sum(sizes.values()),
        sum(size for path, size in sizes.items() if not still[path]),
        float(analysis.get("flops", 0.0)),
    )


def costs(variants: Iterable[Resolved]) -> dict[str, Cost]:
    """By variant. Raises: UserError naming the variant that cannot be built."""
    found = {}
    for each in variants:
        try:
            found[each.name] = cost(each.config)
        except (UserError, ValueError) as error:
            raise UserError(f"variant `{each.name}`: {error}") from error
    return found


def steps(
    plan: Plan,
    costs: Mapping[str, Cost],
    seconds: Mapping[str, float],
    known: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """How many steps each variant makes, those of the baseline being as configured.

    `known` steps stay, and what is new is held against one of those (see `reference`). `seconds` of
    a step by variant are read where the budget is time.
    """
    known = known or {}
    base = reference(plan, known)

    def price(one: Resolved) -> float:
        prices: dict[Budget, float] = {
            "steps": 1.0,
            "examples": one.config.data.batch,
            "flops": costs[one.name].flops,
            "time": seconds.get(one.name, 0.0),
        }
        return prices[plan.ablation.budget]

    whole = known.get(base.name, base.config.steps)
    return {
        each.name: known.get(each.name) or max(1, round(whole * price(base) / price(each)))
        for each in plan.variants
    }


def reference(plan: Plan, known: Mapping[str, int]) -> Resolved:
    """The baseline, but for where others have run without it: then the first of those."""
    there = [each for each in plan.variants if each.name in known]
    base = plan.by_name(plan.baseline)
    return base if base in there or not there else there[0]
