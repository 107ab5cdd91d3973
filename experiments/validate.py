"""Read every row and file of a data set, and name the broken ones.

python experiments/validate.py --data.name mine.jsonl
python experiments/validate.py --config vit_tiny --data.name mine.jsonl [--data... as in train.py]

Without --config rows are pictures with captions or questions. With it they are what the model of
that experiment reads, such as clips, sounds, or pictures with a label.
"""

import sys

from mlm_jax.command import main
from mlm_jax.data import validate

if __name__ == "__main__":
    sys.exit(main(validate.main))
