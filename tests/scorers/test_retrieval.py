"""Recall at k, by hand and by sorting."""

import numpy as np
import pytest

from mlm_jax.scorers.retrieval import score


def test_by_hand():
    similarity = np.array([[0.9, 0.1, 0.8, 0.2], [0.3, 0.4, 0.1, 0.5]])
    figures = score(similarity, np.array([0, 0, 1, 1]), recalls=(1, 2))
    value = {name: figure.value for name, figure in figures.items()}
    # of picture 0 caption 0 is first, of picture 1 caption 3
    assert value["captions/recall@1"] == 1
    # captions 0 and 3 find theirs; caption 1 is nearer to picture 1, caption 2 to picture 0
    assert value["pictures/recall@1"] == 0.5
    assert value["pictures/recall@2"] == 1
    assert figures["pictures/recall@1"].n == 4
    assert figures["captions/recall@1"].n == 2


def test_by_sorting():
    rng = np.random.default_rng(0)
    picture = rng.permutation(np.repeat(np.arange(20), 5))
    similarity = rng.normal(size=(20, 100)) + 1.5 * (np.arange(20)[:, None] == picture)
    figures = score(similarity, picture)
    for k in (1, 5, 10):
        first = np.argsort(-similarity, axis=1)[:, :k]
        own = (picture[first] == np.arange(20)[:, None]).any(1).mean()
        assert figures[f"captions/recall@{k}"].value == pytest.approx(own)
        near = np.argsort(-similarity, axis=0)[:k]
        assert figures[f"pictures/recall@{k}"].value == pytest.approx(
            (near == picture).any(0).mean()
        )


def test_what_tells_nothing_apart_finds_nothing():
    figures = score(np.zeros((30, 60)), np.repeat(np.arange(30), 2))
    assert all(figure.value == 0 for figure in figures.values())
