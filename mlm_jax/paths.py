"""Parameters by path: image/body/block_0/mlp/up/kernel. One spelling for freezing, rates, digests.

A pattern is a prefix by whole names (`image/body`) or a glob (`*/bias`); `*` also crosses `/`.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import jax

from mlm_jax.config import UserError


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
