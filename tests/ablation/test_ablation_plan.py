"""What an ablation may hold: every mistake is named before anything runs."""

import itertools
import random

import pytest

from mlm_jax.ablation import plan
from mlm_jax.ablation.plan import Ablation, Draws, Grid, Range, Variant
from mlm_jax.config import UserError, load, to_json
from mlm_jax.run import differences


def made(*variants: Variant, common: dict | None = None, **changes) -> plan.Plan:
    settings = {"config": "vit_tiny", "figures": ("loss",), "variants": variants} | changes
    return plan.make("mine", Ablation(**settings), common)


def test_overrides_are_those_of_the_command_line():
    """Nested, tuples, booleans; hyphens or not; common keys are overruled by a variant's own."""
    found = made(
        Variant("a"),
        Variant("b", {"model.fusion.kind": "gated", "optim.freeze": ("image", "text")}),
        Variant("c", {"model.image.place-again": False, "optim.lr": 0.5}),
        common={"optim.lr": "0.25", "steps": "7"},
    )
    a, b, c = (each.config for each in found.variants)
    assert (a.steps, a.optim.lr, c.optim.lr) == (7, 0.25, 0.5)
    assert (b.model.fusion.kind, b.optim.freeze) == ("gated", ("image", "text"))
    assert c.model.image.place_again is False
    assert found.baseline == "a"
    changed = {key for key, _, _ in differences(to_json(a), to_json(b))}
    assert changed == {"model.fusion.kind", "optim.freeze"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"model.fusin.kind": "gated"}, ["variant `b`", "model.fusin.kind", "model.fusion.kind"]),
        ({"model.fusion.kind": "gatet"}, ["variant `b`", "gatet", "mean gated"]),
        ({"optim.lr": "fast"}, ["variant `b`", "optim.lr", "'fast'", "float"]),
        ({"data.batch": 0}, ["variant `b`", "data.batch", "at least 1"]),
        ({"seed": 3}, ["variant `b`", "seed"]),
        ({"steps": 3}, ["variant `b`", "steps"]),
        ({"optim.lr": 1.0, "loss": "x"}, ["variant `b`", "no key loss"]),
    ],
)  # fmt: skip
def test_mistakes_are_named(overrides, said):
    with pytest.raises(UserError) as error:
        made(Variant("a"), Variant("b", overrides))
    for text in said:
        assert text in str(error.value)


def test_a_wrong_common_key_is_no_variants_fault():
    with pytest.raises(UserError, match=r"^there is no key optim.rate"):
        made(Variant("a"), Variant("b", {"data.shift": 1}), common={"optim.rate": "1"})


def test_variants_that_are_the_same_are_named():
    """By what is learnt: the default said again, and keys that change nothing, such as threads."""
    with pytest.raises(UserError, match=r"`a` and `b`.*`a` and `c`"):
        made(
            Variant("a"),
            Variant("b", {"model.fusion.kind": "cross_attention"}),
            Variant("c", {"data.threads": 1}),
            Variant("d", {"data.shift": 1}),
        )


def test_variants_that_choose_their_checkpoint_otherwise_are_not_the_same():
    """Which one is evaluated hangs on these keys as soon as one of the two keeps the best."""
    best = {"keep_best": 1, "eval_every": 50}
    found = made(
        Variant("last"), Variant("best", best), Variant("on few", {**best, "eval_examples": 8})
    )
    assert [each.name for each in found.variants] == ["last", "best", "on few"]
    with pytest.raises(UserError, match="`last` and `watched`"):
        made(Variant("last"), Variant("watched", {"eval_every": 50}))


@pytest.mark.parametrize(
    ("names", "said"),
    [(["a"], "at least two"), (["a", "a!"], "share the folder a"), (["a", "!"], "letters")],
)
def test_names_that_cannot_be_folders(names, said):
    with pytest.raises(UserError, match=said):
        made(*(Variant(name, {"data.shift": i}) for i, name in enumerate(names)))


def test_long_names_that_end_otherwise_have_folders_of_their_own():
    one, other = (plan.slug("optim.lr=0.001 " * 8 + end) for end in "ab")
    assert one != other
    assert len(one) == len(other) == 100
    assert one == plan.slug("optim.lr=0.001 " * 8 + "a")
    assert plan.slug("a" * 100) == "a" * 100


def test_baseline_and_only():
    variants = tuple(Variant(name, {"data.shift": i}) for i, name in enumerate("abc"))
    whole = Ablation("vit_tiny", variants, ("loss",), baseline="b")
    found = plan.make("mine", whole, only=["c"])
    assert ([each.name for each in found.variants], found.baseline) == (["b", "c"], "b")
    astray = Ablation("vit_tiny", variants, ("loss",), baseline="x")
    for each, only in ((whole, ["x"]), (astray, [])):
        with pytest.raises(UserError, match="no variant `x`"):
            plan.make("mine", each, only=only)


def test_a_grid_is_every_combination():
    found = Grid({"optim.lr": (0.1, 0.2), "optim.freeze": ((), ("image",))}).variants()
    assert [each.name for each in found] == [
        "optim.lr=0.1 optim.freeze=", "optim.lr=0.1 optim.freeze=image",
        "optim.lr=0.2 optim.freeze=", "optim.lr=0.2 optim.freeze=image",
    ]  # fmt: skip


def test_draws_are_the_same_again_and_go_on():
    ranges = {"optim.lr": Range(1e-4, 1e-1, log=True), "data.shift": Range(0, 9, whole=True)}
    few, more = (Draws(ranges, count, seed=5).variants() for count in (3, 6))
    assert more[: len(few)] == few
    assert few[0] == Variant("base")
    assert Draws(ranges, 3, seed=6).variants()[1:] != few[1:]
    assert all(isinstance(each.overrides["data.shift"], int) for each in more[1:])


CHOICES = {"data.shift": (0, 1, 2), "optim.freeze": ((), ("image",))}


def searched(count: int, ranges: dict, common: dict | None = None) -> list[dict]:
    found = made(variants=Draws(ranges, count), common=common)
    return [dict(each.own) for each in found.variants]


def test_no_draw_is_the_base_or_another_draw(capsys):
    """Of six choices one is the base; a larger count goes on with those of the smaller one."""
    few, more = (searched(count, CHOICES) for count in (3, 5))
    assert more[:4] == few
    assert {"data.shift": load("vit_tiny").data.shift, "optim.freeze": ()} not in more
    assert all(one != other for one, other in itertools.combinations(more, 2))
    assert capsys.readouterr().err == ""
    other = searched(5, CHOICES, {"data.shift": "1"})
    assert {"data.shift": 1, "optim.freeze": ()} not in other, "the base is that of the command"
    assert len(searched(6, {"data.shift": Range(0, 6, whole=True)})) == 7


def test_fewer_draws_where_there_are_no_more(capsys):
    assert len(searched(8, CHOICES)) == 6
    assert "mine: 5 draws instead of 8" in capsys.readouterr().err


def test_ranges_are_even_in_what_they_say():
    """Half of the draws under the middle, which of logarithms is the geometric one."""
    dice = random.Random(0)
    for each, middle in ((Range(1, 3), 2), (Range(1e-4, 1e-2, log=True), 1e-3)):
        drawn = [each.draw(dice) for _ in range(2000)]
        assert min(drawn) >= each.low
        assert max(drawn) <= each.high
        assert sum(x < middle for x in drawn) / 2000 == pytest.approx(0.5, abs=0.04)
    for wrong in (Range(1, 1), Range(0, 1, log=True)):
        with pytest.raises(UserError, match="low must be under high"):
            wrong.draw(dice)


def test_whole_numbers_are_drawn_evenly_and_lie_in_the_range():
    """Also both ends, of which rounding would take half, and where these are no whole numbers."""
    dice = random.Random(0)
    drawn = [Range(0, 3, whole=True).draw(dice) for _ in range(4000)]
    for number in range(4):
        assert drawn.count(number) / 4000 == pytest.approx(0.25, abs=0.03)
    for each in (Range(1.6, 4.4, whole=True), Range(1.6, 4.4, log=True, whole=True)):
        assert {each.draw(dice) for _ in range(400)} == {2, 3, 4}
    with pytest.raises(UserError, match="no whole number"):
        Range(1.2, 1.8, whole=True).draw(dice)


@pytest.mark.parametrize("name", plan.names())
def test_shipped_ablations_can_run(name):
    """All keys and values are right, no two variants are the same, each in both sizes."""
    whole = plan.load(name)
    found = plan.make(name, whole, tiny=True)
    assert len(found.variants) >= 3
    assert all(each.config.steps == 2 for each in found.variants)
    trees = [to_json(each.config) for each in found.variants]
    assert all(differences(one, two) for one, two in itertools.combinations(trees, 2))
    listed = whole.variants if isinstance(whole.variants, tuple) else whole.variants.variants()
    assert all(load(each.config or whole.config).steps > 100 for each in listed)


def test_fusion_has_all_kinds():
    found = plan.load("fusion").variants
    assert {each.overrides["model.fusion.kind"] for each in found} == {
        "concat", "joint", "cross_attention", "gated", "resampler", "bottleneck", "prefix"
    }  # fmt: skip


def test_unknown_ablations_and_files(tmp_path):
    with pytest.raises(UserError, match="did you mean fusion"):
        plan.load("fusoin")
    with pytest.raises(UserError, match="no file"):
        plan.load(str(tmp_path / "none.py"))
    (tmp_path / "empty.py").write_text('"""Nothing."""\n')
    with pytest.raises(UserError, match="no Ablation"):
        plan.load(str(tmp_path / "empty.py"))
