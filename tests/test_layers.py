"""Layers against literal matrices, brute force, flax's own attention, and published sizes."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.decoders import TextDecoder
from mlm_jax.layers import (
    MLP,
    Attention,
    Block,
    Causal,
    ConvStem,
    Norm,
    PatchStem,
    Pool,
    Positions,
    Tokens,
    Transformer,
    concatenate,
    transformer,
)
from mlm_jax.layers.attention import MANY, PIECE, rotate
from mlm_jax.layers.norms import LayerNorm, RMSNorm
from mlm_jax.layers.tokens import every, for_rows
from mlm_jax.losses import Caption
from mlm_jax.models.gpt import Gpt

KEY = jax.random.key(0)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def wide(params: dict, seed: int = 1) -> dict:
    """Parameters far from their initial values, so that no bias or scale hides."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in pairs])


def rows(mask: jax.Array) -> list[str]:
    return ["".join(map(str, row)) for row in np.asarray(mask).astype(int)]


def test_masks_are_these_matrices() -> None:
    assert rows(Causal().looks(range(3))) == ["100", "110", "111"]
    assert rows(Causal(2).looks(range(4))) == ["1100", "1100", "1110", "1111"]
    assert rows(Causal(2).looks(range(1))) == ["11"]
    assert rows(Causal().looks(range(1, 3))) == ["110", "111"]


def test_tokens_for_rows_and_concatenated() -> None:
    a = Tokens(normal(2, 1, 3), jnp.array([[True], [False]]))
    twice = for_rows(4, a)
    assert np.array_equal(twice.x, np.repeat(a.x, 2, 0))
    assert np.array_equal(twice.mask, [[True], [True], [False], [False]])
    for rows_of_text in (1, 5):
        with pytest.raises(ValueError, match=f"{rows_of_text} rows of text for 2 pictures"):
            for_rows(rows_of_text, a)
    both = concatenate(a, every(normal(2, 2, 3, seed=1)))
    assert both.x.shape == (2, 3, 3)
    assert rows(both.mask) == ["111", "011"]


def brute(p: dict, x: np.ndarray, source: np.ndarray, looks: np.ndarray, groups: int) -> np.ndarray:
    """Attention by loops over rows, heads and queries, in float64."""
    q, k, v = (
        np.einsum("bnd,dhk->bnhk", s, np.float64(p[n]["kernel"])) + np.float64(p[n]["bias"])
        for n, s in (("query", x), ("key", source), ("value", source))
    )
    out = np.zeros(q.shape)
    for b, n, h in np.ndindex(q.shape[:3]):
        score = k[b, :, h // groups] @ q[b, n, h] / np.sqrt(q.shape[-1])
        weight = np.exp(score - score.max()) * looks[b, n]
        out[b, n, h] = (weight / weight.sum()) @ v[b, :, h // groups]
    return np.einsum("bnhk,hkd->bnd", out, np.float64(p["out"]["kernel"])) + p["out"]["bias"]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(("groups", "piece"), [(1, 5), (2, 5), (1, 2), (2, 3)])
def test_attention_equals_brute_force(groups: int, piece: int) -> None:
    """In one piece, and in several, of which the last is short."""
    x, real = normal(2, 5, 8), jnp.array([[1, 1, 1, 0, 1], [1, 1, 0, 1, 1]], bool)
    attention = Attention(heads=4, groups=groups)
    params = wide(attention.init(KEY, x, [Tokens(x, real)])["params"])
    before = PIECE.set(piece)
    ours = attention.apply({"params": params}, x, [Tokens(x, real)], Causal())
    PIECE.reset(before)
    looks = np.asarray(real)[:, None, :] & np.tril(np.ones((5, 5), bool))
    np.testing.assert_allclose(ours, brute(params, x, x, looks, groups), atol=2e-5)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(("groups", "causal"), [(1, None), (2, None), (2, Causal(1))])
def test_rows_attend_one_by_one_as_they_do_together(groups: int, causal: Causal | None) -> None:
    """What is read, and its gradients; their weights are never all there at once."""
    x, real = normal(3, 5, 8), jnp.array([[1, 1, 1, 0, 1], [1, 1, 0, 1, 1], [1] * 5], bool)
    attention = Attention(heads=4, groups=groups, qk_norm=True)
    params = wide(attention.init(KEY, x, [Tokens(x, real)])["params"])

    def loss(params: Any, x: jax.Array) -> jax.Array:
        read: Any = attention.apply({"params": params}, x, [Tokens(x, real)], causal)
        return jnp.sin(read).sum()

    def program() -> tuple[Any, str]:
        step = jax.jit(lambda *args: jax.value_and_grad(loss, (0, 1))(*args)).lower(params, x)
        return step.compile()(params, x), step.as_text()

    together, text = program()
    assert "3x4x5x5xf32" in text
    before = MANY.set(4 * 5 * 5)
    apart, text = program()
    MANY.reset(before)
    assert "1x4x5x5xf32" in text
    assert "3x4x5x5xf32" not in text
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), apart, together)


def test_cross_attention_equals_flax() -> None:
    x, memory = normal(2, 3, 8), normal(2, 6, 8, seed=1)
    ours, theirs = Attention(heads=2), nn.MultiHeadDotProductAttention(num_heads=2)
    params = wide(theirs.init(KEY, x, memory)["params"])
    np.testing.assert_allclose(
        ours.apply({"params": params}, x, [every(memory)], cross=True),
        theirs.apply({"params": params}, x, memory),
        atol=1e-5,
    )


def test_sources_in_parts_are_read_as_one() -> None:
    """Also where a part has one row for several of `x`, as a picture has for its texts."""
    attention = Attention(heads=2, qk_norm=True)
    x, image, words = normal(4, 3, 8), normal(2, 5, 8, seed=1), normal(4, 2, 8, seed=2)
    real = jnp.array([[True, True], [True, False], [True, True], [True, False]])
    one = Tokens(
        jnp.concatenate([jnp.repeat(image, 2, axis=0), words], axis=1),
        jnp.concatenate([jnp.ones((4, 5), bool), real], axis=1),
    )
    params = attention.init(KEY, x, [one], cross=True)
    parts = [every(image), Tokens(words, real)]
    np.testing.assert_allclose(
        attention.apply(params, x, parts, cross=True),
        attention.apply(params, x, [one], cross=True),
        atol=1e-6,
    )


def test_attention_refuses_heads_that_do_not_divide() -> None:
    x = normal(1, 2, 8)
    with pytest.raises(ValueError, match="width 8, heads 3"):
        Attention(heads=3).init(KEY, x, [every(x)])
    with pytest.raises(ValueError, match="groups 3"):
        Attention(heads=4, groups=3).init(KEY, x, [every(x)])


def test_padding_is_never_looked_at() -> None:
    block = Block(heads=2)
    x, real = normal(1, 4, 8), jnp.array([[True, True, True, False]])
    params = wide(block.init(KEY, Tokens(x, real))["params"])
    other = x.at[:, 3].set(99.0)
    a, b = (block.apply({"params": params}, Tokens(y, real)).x for y in (x, other))
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert not np.allclose(a[:, 3], b[:, 3])


def test_rotary_positions_see_distances_only() -> None:
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)

    def score(i: tuple[float, ...], j: tuple[float, ...]) -> float:
        return float((rotate(q, jnp.array([i]), 1e4) * rotate(k, jnp.array([j]), 1e4)).sum())

    assert score((3.0,), (1.0,)) == pytest.approx(score((12.0,), (10.0,)), abs=1e-5)
    assert abs(score((3.0,), (1.0,)) - score((3.0,), (2.0,))) > 1e-3
    right, below = score((3.0, 5.0), (1.0, 5.0)), score((3.0, 5.0), (3.0, 3.0))
    assert right == pytest.approx(score((9.0, 2.0), (7.0, 2.0)), abs=1e-5)
    assert below == pytest.approx(score((0.0, 9.0), (0.0, 7.0)), abs=1e-5)
    assert abs(right - below) > 1e-3
    with pytest.raises(ValueError, match="head width 8 must be a multiple of 6"):
        score((1.0, 1.0, 1.0), (2.0, 2.0, 2.0))


def test_rotary_positions_turn_pairs_as_published() -> None:
    """As a product of complex numbers (RoFormer, equation 12), K/4 of them for each axis."""
    x, places = np.asarray(normal(1, 3, 2, 8)), np.array([[0.0, 0.0], [1.0, 2.0], [5.0, 3.0]])
    pairs = x[..., :4] + 1j * x[..., 4:]
    for n, (column, row) in enumerate(places):
        angle = np.array([column, column / 10**0.5, row, row / 10**0.5])
        pairs[:, n] = pairs[:, n] * np.exp(1j * angle)
    turned = rotate(jnp.asarray(x), jnp.asarray(places, jnp.float32), 10.0)
    np.testing.assert_allclose(turned, np.concatenate([pairs.real, pairs.imag], -1), atol=1e-6)


def test_normed_queries_and_keys_do_not_depend_on_their_length() -> None:
    """Only the direction counts, so the scores of a head are bounded; values keep their length."""
    x, memory = normal(1, 2, 8), normal(1, 5, 8, seed=1)
    attention = Attention(heads=2, bias=False, qk_norm=True)
    params = attention.init(KEY, x, [every(memory)], cross=True)["params"]
    assert params["query_norm"]["scale"].shape == params["key_norm"]["scale"].shape == (4,)

    def out(scale: float, names: tuple[str, ...]) -> jax.Array:
        scaled = {n: jax.tree.map(lambda p: scale * p, params[n]) for n in names}
        return attention.apply({"params": params | scaled}, x, [every(memory)], cross=True)

    np.testing.assert_allclose(out(9.0, ("query", "key")), out(1.0, ()), atol=1e-5)
    np.testing.assert_allclose(out(9.0, ("value",)), 9 * out(1.0, ()), atol=1e-4)


def test_activations_equal_their_published_formulas() -> None:
    x = np.linspace(-4, 4, 16, dtype=np.float32).reshape(1, 1, 16)
    eye = {"kernel": np.eye(16, dtype=np.float32), "bias": np.zeros(16, np.float32)}
    erf = np.vectorize(__import__("math").erf)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    expected = {
        "gelu": x * 0.5 * (1 + erf(x / np.sqrt(2))),
        "gelu_tanh": 0.5 * x * (1 + np.tanh(inner)),
        "quick_gelu": x / (1 + np.exp(-1.702 * x)),
        "swiglu": x * x / (1 + np.exp(-x)),
    }
    for name, value in expected.items():
        params = {"up": eye, "down": eye, "gate": eye}
        if name != "swiglu":
            del params["gate"]
        ours = MLP(ratio=1.0, activation=name).apply({"params": params}, jnp.asarray(x))
        np.testing.assert_allclose(ours, value, atol=2e-6, err_msg=name)


def test_norms_equal_their_formulas_and_keep_statistics_in_float32() -> None:
    x = 100 + normal(3, 64)
    centred = x - x.mean(-1, keepdims=True)
    layer = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    rms = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    for kind, value in (("layer", layer), ("rms", rms)):
        norm = Norm(kind)
        params = norm.init(KEY, x)
        np.testing.assert_allclose(norm.apply(params, x), value, atol=2e-4)
        half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        assert norm.apply(half, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(RMSNorm(), nn.RMSNorm()), (LayerNorm(), nn.LayerNorm(use_fast_variance=False))],
)
def test_norms_have_the_gradients_of_flax(ours: nn.Module, theirs: nn.Module) -> None:
    """Forward and backward, and of rows that are all 0."""
    x = normal(4, 3, 16).at[0].set(0)
    params = wide(theirs.init(KEY, x))

    def of(norm: nn.Module) -> tuple[Any, Any]:
        def read(params: Any, x: jax.Array) -> Any:
            return norm.apply(params, x)

        forward = jax.jvp(partial(read, params), (x,), (jnp.cos(x),))
        return forward, jax.grad(lambda *args: jnp.sin(read(*args)).sum(), (0, 1))(params, x)

    close = partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
    jax.tree.map(close, of(ours), of(theirs))


def test_post_norm_ends_in_a_norm_and_pre_norm_in_a_residual() -> None:
    x = every(normal(1, 3, 8))
    out = {}
    for order in ("pre", "post"):
        block = Block(heads=2, order=order)
        out[order] = block.apply(block.init(KEY, x), x).x
    np.testing.assert_allclose(out["post"].mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(out["post"].std(-1), 1, atol=1e-3)
    assert np.abs(out["pre"].mean(-1)).max() > 1e-3


@pytest.mark.usefixtures("strict")
def test_gates_are_shut_at_the_start_and_then_open() -> None:
    x, memory = every(normal(1, 3, 8)), every(normal(1, 2, 8, seed=1))
    block = Block(heads=2)
    variables = block.init(KEY, x, None, (), [memory])
    plain = {k: v for k, v in variables["params"].items() if not k.startswith("gated")}
    shut = block.apply(variables, x, None, (), [memory]).x
    np.testing.assert_array_equal(shut, block.apply({"params": plain}, x).x)
    opened = {**variables["params"], "gated_gate": jnp.ones(())}
    assert not np.allclose(shut, block.apply({"params": opened}, x, None, (), [memory]).x)


@pytest.mark.parametrize("told", [False, True])
def test_work_grows_with_the_depth_and_not_with_its_square(told: bool) -> None:
    """XLA would add up the whole residual stream, and its gradient, anew in each block."""
    x, condition = every(normal(1, 3, 8)), normal(1, 8) if told else None

    def additions(depth: int) -> int:
        model = Transformer(8, depth, Block(heads=2))
        params = jax.eval_shape(lambda: model.init(KEY, x, condition=condition))
        made = jax.grad(lambda p: model.apply(p, x, condition=condition).x.sum())
        return jax.jit(made).lower(params).compile().as_text().count(" add(")

    assert additions(6) < 3.2 * additions(2)


@pytest.mark.slow
def test_scanned_and_rematerialised_layers_equal_unrolled_ones() -> None:
    x, mask = every(normal(2, 3, 8)), Causal()
    image, words = every(normal(1, 4, 8, seed=1)), every(normal(2, 2, 8, seed=2))
    read = {"memory": (image, words), "gated": (words,)}
    plain = Transformer(8, 2, Block(heads=2))
    params = wide(jax.jit(plain.init)(KEY, x, **read)["params"])
    for block in ("block_0", "block_1"):
        params[block] |= {"gated_gate": jnp.ones(()), "gated_mlp_gate": jnp.ones(())}
    blocks = [params[f"block_{i}"] for i in range(2)]
    stacked = {"blocks": jax.tree.map(lambda *a: jnp.stack(a), *blocks), "norm": params["norm"]}

    def loss(model: Transformer, params: dict) -> jax.Array:
        return (model.apply({"params": params}, x, mask, **read).x ** 2).sum()

    expected = jax.jit(jax.value_and_grad(lambda p: loss(plain, p)))(params)
    for remat in ("dots", "full"):
        again = Transformer(8, 2, Block(heads=2), remat=remat)
        value, grad = jax.jit(jax.value_and_grad(lambda p, m=again: loss(m, p)))(params)
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), grad, expected[1])
    scanned = Transformer(8, 2, Block(heads=2), layers="scanned")
    value = jax.jit(lambda p: loss(scanned, p))(stacked)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    x = every(normal(1, 3, 8))
    body = Transformer(8, 1, Block(heads=2, dropout=0.5))
    params = body.init(KEY, x)
    still = body.apply(params, x).x
    one, two = (
        body.apply(params, x, train=True, rngs={"dropout": jax.random.key(i)}).x for i in (1, 2)
    )
    np.testing.assert_array_equal(still, body.apply(params, x).x)
    assert not np.allclose(one, two)
    assert not np.allclose(one, still)


def test_patches_are_cut_in_row_major_order() -> None:
    image = jnp.arange(4 * 6, dtype=jnp.float32).reshape(1, 4, 6, 1)
    stem = PatchStem(width=1, patch=2)
    params = {"patches": {"kernel": jnp.ones((2, 2, 1, 1)), "bias": jnp.zeros(1)}}
    sums = [[0 + 1 + 6 + 7, 2 + 3 + 8 + 9, 4 + 5 + 10 + 11], [62, 70, 78]]
    np.testing.assert_allclose(stem.apply({"params": params}, image)[0, ..., 0], sums)


def test_convolutional_stem_halves_to_the_patch() -> None:
    image = normal(2, 16, 24, 3)
    stem = ConvStem(width=32, patch=8)
    assert stem.apply(stem.init(KEY, image), image).shape == (2, 2, 3, 32)
    with pytest.raises(ValueError, match="patch 6 is no power of two"):
        ConvStem(width=32, patch=6).init(KEY, image)


def test_positions_start_where_they_are_told_and_end() -> None:
    x = jnp.zeros((1, 2, 4))
    positions = Positions(length=5)
    params = positions.init(KEY, x)
    table = params["params"]["table"]
    places = jnp.array([[3, 4]])
    np.testing.assert_array_equal(positions.apply(params, x, places)[0], table[3:5])
    with pytest.raises(ValueError, match="6 tokens, but positions for 5"):
        positions.apply(params, jnp.zeros((1, 6, 4)))


def test_positions_on_a_grid_start_as_waves_of_column_and_row() -> None:
    grid = Positions(7, grid=(2, 3), rms=2.0)
    table = grid.init(KEY, jnp.zeros((1, 7, 8)))["params"]["table"]
    assert jnp.sqrt((table[1:] ** 2).mean()) == pytest.approx(2.0, abs=0.1)
    assert abs(table[0]).max() < 0.1, "the class token stands nowhere"
    for i, place in enumerate(table[1:]):
        angles = [axis * rate for axis in (i % 3, i // 3) for rate in (1, 10**-0.5)]
        x, y = angles[:2], angles[2:]
        wave = [*np.sin(x), *np.cos(x), *np.sin(y), *np.cos(y)]
        np.testing.assert_allclose(place, 2 * 2**0.5 * np.array(wave), atol=0.1)
    clips = Positions(13, grid=(2, 2, 3), rms=2.0)
    frames = clips.init(KEY, jnp.zeros((1, 13, 8)))["params"]["table"][1:].reshape(2, 6, 8)
    for time, frame in enumerate(frames - table[1:]):
        wave = [f(time * 100.0**-i) for i in (0, 0.5, 1, 1.5) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(frame, np.tile(2 * 2**-0.5 * np.array(wave), (6, 1)), atol=0.2)
    with pytest.raises(ValueError, match="width 6: places on a grid need a multiple of 4"):
        Positions(6, grid=(2, 3)).init(KEY, jnp.zeros((1, 6, 6)))


def test_pooling_reads_real_tokens_only() -> None:
    tokens = Tokens(jnp.array([[[1.0], [3.0], [100.0]]]), jnp.array([[True, True, False]]))
    for kind, value in (("mean", 2.0), ("first", 1.0), ("last", 3.0)):
        assert float(Pool(kind).apply({}, tokens)[0, 0]) == value
    pool = Pool("attention", heads=1)
    params = wide(pool.init(KEY, tokens)["params"])
    seen = [
        float(pool.apply({"params": params}, Tokens(tokens.x.at[0, 2].set(v), tokens.mask))[0, 0])
        for v in (100.0, -5.0)
    ]
    assert seen[0] == seen[1]


def test_an_unknown_size_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="one of tiny, small, base, large"):
        transformer("huge")


def test_logits_in_pieces_are_the_same_and_never_held_at_once() -> None:
    """Loss, accuracy and gradients; what the compiled step holds beside its arguments."""
    rows, length, vocab, width = 4, 50, 3000, 16
    body = Transformer(width, 1, Block(heads=2))
    ids = jax.random.randint(jax.random.key(1), (rows, length + 1), 4, vocab)
    mask = jnp.arange(length + 1) < jnp.array([[length + 1], [30], [9], [1]])
    batch = {"target": ids, "target_mask": mask}
    params, results = None, []
    for pieces in (0, 8):
        model = Gpt(TextDecoder(vocab, length, body=body, pieces=pieces))
        params = params or jax.jit(model.init)(jax.random.key(0), batch)["params"]

        def loss(params: Any, model: Any = model) -> Any:
            outputs = model.apply({"params": params}, batch, train=True)
            return Caption(0.1)(outputs, batch)

        step = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params).compile()
        results.append((step(params), step.memory_analysis().temp_size_in_bytes))
    ((whole, most), (parts, less)) = results
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert most > 4 * rows * length * vocab
    assert less < most / 2
