"""Compare variants of an experiment over several seeds, and test what differs.

python experiments/ablate.py fusion [--seeds 5] [--jobs 2] [--out runs/ablations/fusion]
    [--only joint prefix] [--limit N] [--budget steps|examples|flops|time] [--tiny]
    [--steps 200 --data.root data ...]

Keys of train.py are set in all variants. The same command goes on with what was stopped, also with
more seeds, variants, figures or splits; what is done is not done again. The result is
OUT/report.html, table.md, results.csv and results.json. The exit code is 1 where a run failed.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from mlm_jax import command
from mlm_jax.ablation import plan as plans
from mlm_jax.ablation.ablate import ablate
from mlm_jax.ablation.page import as_markdown
from mlm_jax.ablation.plan import Budget, Overrides
from mlm_jax.ablation.runner import Order
from mlm_jax.config import UserError
from mlm_jax.planner.compiler import simulate
from mlm_jax.sharding import least


def main(argv: Sequence[str]) -> int:
    given, common = arguments(argv)
    ablation = plans.load(given.name)
    ablation = replace(ablation, budget=given.budget or ablation.budget)
    name = Path(given.name).stem
    plan = plans.make(name, ablation, common, only=given.only, tiny=given.tiny)
    out = given.out or Path("runs") / "ablations" / (f"{name}-tiny" if given.tiny else name)
    # runs alone take the accelerator
    simulate(max((each.config for each in plan.variants), key=lambda config: least(config.mesh)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = ablate(
        plan, Order(out, given.seeds, given.jobs, given.limit), partial(print, flush=True)
    )
    print(as_markdown(results))
    print(out / "report.html")
    if failed := results.failed():
        print(f"{len(failed)} runs failed: their last lines are in the report", file=sys.stderr)
    return int(bool(failed))


def arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, Overrides]:
    """What is the ablation's own, and the keys of train.py for all variants. Raises: UserError."""
    parser = argparse.ArgumentParser("ablate.py", allow_abbrev=False, add_help=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="VARIANT")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--budget", choices=get_args(Budget))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    given, rest = parser.parse_known_args(argv)
    if given.name is None or given.help:
        print(__doc__)
        for name, line in plans.names().items():
            print(f"    {name:<16} {line}")
        raise SystemExit(0 if given.help else 2)
    for key in ("seeds", "jobs", "limit"):
        value = getattr(given, key)
        if value is not None and value < 1:
            raise UserError(f"--{key} {value}: at least 1")
    return given, keys(rest)


def keys(words: Sequence[str]) -> Overrides:
    """["--optim.freeze", "image", "text"] -> {"optim.freeze": ("image", "text")}

    Raises: UserError for a word that belongs to no key.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = [value] if value else []
            last = name
        elif not found:
            raise UserError(f"`{word}` belongs to no key: ablate.py NAME --key value ...")
        else:
            found[last].append(word)
    return {key: values[0] if len(values) == 1 else tuple(values) for key, values in found.items()}


if __name__ == "__main__":
    sys.exit(command.main(main))
