"""Loads every checkpoint of a folder in another version of transformers; prints what did not fit.

python loads_in_4.py FOLDER    with a Python that has transformers 4 and torch
"""

import json
import sys
from pathlib import Path

import transformers

found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    cls = getattr(transformers, path.name)
    _, info = cls.from_pretrained(path, output_loading_info=True)
    found[path.name] = {key: list(value) for key, value in info.items()}
assert transformers.__version__.startswith("4."), transformers.__version__
print(json.dumps(found))
