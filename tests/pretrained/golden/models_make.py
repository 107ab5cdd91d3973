"""Makes the golden models: python tests/pretrained/golden/models_make.py [CLASS ...]

Needs the extra parity. A folder for each class, or for those that are named: a small random
checkpoint as the reference writes it, and in expected.npz the inputs and what it computes for them.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import reference  # noqa: E402
import reference_video_audio as senses  # noqa: E402

SIZES = {"heads": 3, "width": 24, "hidden": 40, "depth": 2, "act": "gelu", "eps": 1e-5,
         "patch": 4, "pixels": 8, "bias": True, "labels": 3, "other": 36,
         "end": reference.VOCAB - 1}  # fmt: skip

SENSES = SIZES | {"tube": 2, "times": 2, "mean": True, "wide": 12, "mels": 8, "frames": 21,
                  "strides": [3, 4], "other_heads": 2, "other_depth": 1,
                  "other_hidden": 44}  # fmt: skip


def make(
    folder: Path, case: reference.Case, sizes: dict, given: reference.Arrays, seed: int
) -> None:
    if sys.argv[1:] and folder.name not in sys.argv[1:]:
        return
    shutil.rmtree(folder, ignore_errors=True)
    model = reference.weigh(case.make(sizes), seed, "wide")
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    with torch.no_grad():
        expected = {f"out_{k}": v for k, v in case.run(model, given).items()}
        if case.generate:
            expected["out_written"] = case.generate(model, given)
    np.savez_compressed(folder / "expected.npz", **given, **expected)


for number, (name, case) in enumerate(reference.CASES.items()):
    make(HERE / name, case, SIZES, reference.inputs(SIZES, seed=number), number)
for number, (name, case) in enumerate(senses.CASES.items()):
    given = senses.inputs(SENSES, name, seed=number)
    make(HERE / "video_audio" / name, case, SENSES, given, number)

table = np.random.default_rng(0).normal(size=(6, 6, 3)).astype(np.float32)
squares = {}
for size in (9, 4, 14):
    out = torch.nn.functional.interpolate(
        torch.tensor(table.transpose(2, 0, 1)[None]), (size, size), mode="bicubic",
        align_corners=False,
    )  # fmt: skip
    squares[f"to{size}"] = out[0].numpy().transpose(1, 2, 0)
np.savez_compressed(HERE / "resample.npz", table=table, **squares)

wave = senses.sounds(1, 8000, seed=0)[0]
spectrograms = {name: spectrogram(wave / 32768) for name, spectrogram in senses.RECIPES.items()}
np.savez_compressed(HERE / "sounds.npz", wave=wave, **spectrograms)
