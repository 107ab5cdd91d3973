"""What a training step would take on hardware that is not at hand, from the compiled step itself.

python experiments/plan.py --config vit_large --mesh.data 8 --mesh.fsdp 8 --hardware h100-nvlink-ib
    [--egress GB/s] [--loss SHARE] [--json FILE] [--data.batch N --precision bfloat16 ...]
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax

from mlm_jax import command
from mlm_jax.config import Config, cli
from mlm_jax.planner import hardware


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("plan.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--hardware", default=hardware.H100.name)
    parser.add_argument("--egress", type=float)
    parser.add_argument("--loss", type=float)
    parser.add_argument("--json", type=Path)
    own, rest = parser.parse_known_args(argv)
    row = hardware.find(own.hardware)
    if own.egress is not None:
        row = replace(row, egress=own.egress * 1e9)
    if own.loss is not None:
        row = replace(row, loss=own.loss)
    config, run = cli(rest, "plan.py")
    simulate(config)
    from mlm_jax.planner.program import growth, read, unit_of
    from mlm_jax.planner.report import Plan, text

    program = read(config)
    plan = Plan(run.name, config.precision, row, program, 0)
    largest = growth(config, program).largest(plan.room, unit_of(config, program))
    plan = replace(plan, largest=largest)
    print(text(plan))
    if own.json is not None:
        own.json.write_text(json.dumps(plan.json(), indent=1) + "\n")
    return 0


def simulate(config: Config) -> None:
    """As many devices as the mesh has, on the CPU: before anything asks jax for its devices."""
    sizes = (config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", math.prod(max(size, 1) for size in sizes))


if __name__ == "__main__":
    sys.exit(command.main(main))
