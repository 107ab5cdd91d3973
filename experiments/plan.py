"""What a training step would take on hardware that is not at hand, from the compiled step itself.

python experiments/plan.py --config vit_large --mesh.data 8 --mesh.fsdp 8 --hardware h100-nvlink-ib
    [--egress GB/s] [--loss SHARE] [--json FILE] [--data.batch N --precision bfloat16 ...]
python experiments/plan.py --published    the planner beside the scaling that others measured
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlm_jax import command
from mlm_jax.config import UserError
from mlm_jax.planner.hardware import H100, TABLE, Hardware, find


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("plan.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--hardware", default=H100.name)
    parser.add_argument("--egress", type=float)
    parser.add_argument("--loss", type=float)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--published", action="store_true")
    own, rest = parser.parse_known_args(argv)
    if own.published:
        from mlm_jax.planner.published import table

        print(table())
        return 0
    if "--config" not in rest:
        print(__doc__, *(f"{row.name:<16} {row.source}" for row in TABLE), "", sep="\n")
    if own.json is not None and not own.json.parent.is_dir():
        raise UserError(f"--json {own.json}: there is no folder {own.json.parent}")
    hardware = changed(find(own.hardware), own.egress, own.loss)
    config, run = command.cli(rest, "plan.py")
    from mlm_jax import stages  # after the command line
    from mlm_jax.planner.compiler import simulate
    from mlm_jax.planner.program import read
    from mlm_jax.planner.report import Plan, largest, text

    config = stages.resolve(config, run)
    simulate(config)
    print("compiling the step: a large model takes minutes", file=sys.stderr)
    plan = Plan(run.name, config.precision, hardware, read(config))
    print(text(plan), flush=True)
    plan = plan.with_largest(config)
    print(largest(plan))
    if own.json is not None:
        own.json.write_text(json.dumps(plan.json(), indent=1) + "\n")
    return 0


def changed(hardware: Hardware, egress: float | None, loss: float | None) -> Hardware:
    """With another network between nodes: GB/s out of one, share lost by each doubling."""
    if egress is not None:
        if not egress > 0:
            raise UserError(f"--egress {egress:g}: GB/s that a node sends, over 0")
        hardware = replace(hardware, egress=egress * 1e9)
    if loss is not None:
        if not 0 <= loss < 1:
            raise UserError(f"--loss {loss:g}: a share, at least 0 and under 1")
        hardware = replace(hardware, loss=loss)
    return hardware


if __name__ == "__main__":
    sys.exit(command.main(main))
