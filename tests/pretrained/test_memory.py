"""What reading and writing take in memory, over the size of the file.

Of a mapped file the pages count that were looked at, though the system may take them back.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlm_jax.pretrained.files import CONFIG, WEIGHTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
WIDTH, DEPTH, VOCAB = 768, 4, 30_000
MEASURE = """
import json, re, sys
from pathlib import Path
import jax
from mlm_jax.pretrained import load, save

def now(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

tiny, big, out = map(Path, sys.argv[1:])
jax.block_until_ready(jax.device_put(load(tiny).params))  # what is there without the weights
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = now("VmRSS")
read = load(big)
told = {"load": now("VmHWM") - before}
sum(float(leaf.sum()) for leaf in jax.tree.leaves(read.params))
told["look"] = now("VmHWM") - before
anonymous = now("RssAnon")
device = jax.block_until_ready(jax.device_put(read.params))
told["put"] = now("RssAnon") - anonymous
del device
anonymous = now("RssAnon")
save(out, read.model, read.params)
told["save"] = now("VmHWM") - before
print(json.dumps(told))
"""


def write(folder: Path) -> int:
    """A BERT of random numbers; its size."""
    rng = np.random.default_rng(0)
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCAB, WIDTH),
        "embeddings.position_embeddings.weight": (512, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for n in range(DEPTH):
        layer, wide = f"encoder.layer.{n}", 4 * WIDTH
        square = ("self.query", "self.key", "self.value", "output.dense")
        dense = {f"attention.{name}": (WIDTH, WIDTH) for name in square}
        dense |= {"intermediate.dense": (wide, WIDTH), "output.dense": (WIDTH, wide)}
        sizes |= {f"{layer}.{name}.weight": size for name, size in dense.items()}
        sizes |= {f"{layer}.{name}.bias": size[:1] for name, size in dense.items()}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    sizes |= {f"{norm}.{leaf}": (WIDTH,) for norm in norms for leaf in ("weight", "bias")}
    folder.mkdir()
    arrays = {name: rng.standard_normal(size, np.float32) for name, size in sizes.items()}
    save_file(arrays, folder / WEIGHTS)
    config = {"model_type": "bert", "vocab_size": VOCAB, "num_hidden_layers": DEPTH}
    (folder / CONFIG).write_text(json.dumps(config))
    return (folder / WEIGHTS).stat().st_size


def test_reading_takes_little_more_than_the_file(tmp_path: Path) -> None:
    size = write(tmp_path / "big")
    assert size > 200_000_000
    tiny = Path(__file__).with_name("golden") / "BertModel"
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tiny, tmp_path / "big", tmp_path / "out"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ratio = {key: value / size for key, value in json.loads(done.stdout).items()}
    assert ratio["load"] < 0.3, ratio
    assert ratio["look"] < 1.6, ratio
    assert ratio["put"] < 1.3, ratio
    assert ratio["save"] < 2.6, ratio  # with the pages of the file that is read
