"""Train an experiment; a run that exists is gone on with.

python experiments/train.py --config vit_tiny [--run DIR] [--steps N] [--optim.lr 3e-4 ...]
python experiments/train.py --config vit_tiny:tiny    2 steps on the smallest data, to try it
python experiments/train.py --config vit_tiny --help  every key
"""

import sys
from collections.abc import Sequence

from mlm_jax import command, processes


def main(argv: Sequence[str]) -> int:
    place, timeout, words = processes.from_command_line(argv)
    config, run = command.cli(words, "train.py")
    command.keep_memory()
    with processes.joined(place, timeout):
        from mlm_jax.train import train  # after the command line: a typo is answered at once

        return train(config, run, sys.argv)


if __name__ == "__main__":
    sys.exit(command.main(main))
