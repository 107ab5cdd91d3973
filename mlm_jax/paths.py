"""Parameters by path: image/body/block_0/mlp/up/kernel. One spelling for freezing, rates, digests.

A pattern is a prefix by whole names (`image/body`) or a glob (`*/bias`); `*` also crosses `/`.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np

from mlm_jax.errors import UserError


def spell(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def named(tree: Any) -> dict[str, Any]:
    """Path -> leaf, in the order of `jax.tree.leaves`."""
    return {spell(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nest(tree: Any) -> dict[str, Any]:
    """The same leaves under the same paths, as dicts only."""
    return nested(named(tree))


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by path as nested dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = leaf
    return tree


def unrolled(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of scanned layers, stacked under `blocks`, as those of block_0, block_1, ..."""
    found: dict[str, Any] = {}
    for path, leaf in leaves.items():
        if "/blocks/" in path:
            found |= {path.replace("/blocks/", f"/block_{i}/"): leaf[i] for i in range(len(leaf))}
        else:
            found[path] = leaf
    return found


def rolled(leaves: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse, for the paths of `like`."""

    def one(path: str, leaf: Any) -> Any:
        if "/blocks/" not in path:
            return leaves[path]
        names = (path.replace("/blocks/", f"/block_{i}/") for i in range(len(leaf)))
        return np.stack([leaves[name] for name in names])

    return {path: one(path, leaf) for path, leaf in like.items()}


def map_named(fn: Callable[[str, Any], Any], tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: fn(spell(path), leaf), tree)


def matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern.rstrip('/')}/*")


def require_matches(patterns: Sequence[str], tree: Any, key: str) -> None:
    """Raises: UserError, with near paths, for a pattern that matches nothing in `tree`."""
    paths = list(named(tree))
    for pattern in patterns:
        if not any(matches(path, pattern) for path in paths):
            prefixes = {p.rsplit("/", n)[0] for p in paths for n in range(p.count("/") + 1)}
            near = get_close_matches(pattern, sorted(prefixes), n=3, cutoff=0.5)
            hint = (
                f"near it: {', '.join(near)}" if near else f"paths begin {', '.join(tops(paths))}"
            )
            raise UserError(f"{key}: no parameter matches `{pattern}`; {hint}")


def tops(paths: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(path.partition("/")[0] for path in paths))
