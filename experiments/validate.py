"""Read every row and picture of a data set, and name the broken ones.

python experiments/validate.py --data.name mine.jsonl
"""

import sys

from mlm_jax.command import main
from mlm_jax.data import validate

if __name__ == "__main__":
    sys.exit(main(validate.main))
