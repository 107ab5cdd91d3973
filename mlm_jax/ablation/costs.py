"""What a variant costs: parameters and FLOPs from its compiled step, steps from the budget."""

from collections.abc import Mapping
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


def costs(plan: Plan) -> dict[str, Cost]:
    """By variant. Raises: UserError naming the variant that cannot be built."""
    found = {}
    for each in plan.variants:
        try:
            found[each.name] = cost(each.config)
        except (UserError, ValueError) as error:
            raise UserError(f"variant `{each.name}`: {error}") from error
    return found


def steps(plan: Plan, costs: Mapping[str, Cost], seconds: Mapping[str, float]) -> dict[str, int]:
    """How many steps each variant makes, those of the baseline being as configured.

    `seconds` of a step by variant are read where the budget is time.
    """
    base = plan.by_name(plan.baseline)

    def price(one: Resolved) -> float:
        prices: dict[Budget, float] = {
            "steps": 1.0,
            "examples": one.config.data.batch,
            "flops": costs[one.name].flops,
            "time": seconds.get(one.name, 0.0),
        }
        return prices[plan.ablation.budget]

    return {
        each.name: max(1, round(base.config.steps * price(base) / price(each)))
        for each in plan.variants
    }
