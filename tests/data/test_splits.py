import pytest

from mlm_jax.data.records import DataError
from mlm_jax.data.splits import Part, parse


def test_terms_are_read():
    assert parse("train") == (Part("train"),)
    assert parse("a[:90%] + b-c[10:]") == (Part("a", "", "90%"), Part("b-c", "10", ""))


@pytest.mark.parametrize("split", ["", "train[", "train[x:]", "a++b", "train[:101%]", "tr ain"])
def test_anything_else_is_refused(split):
    with pytest.raises(DataError, match="split"):
        parse(split)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("a", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("a[:33%]", [0, 1, 2]),
        ("a[33%:]", [3, 4, 5, 6, 7, 8, 9]),
        ("a[-2:]", [8, 9]),
        ("a[-20%:]", [8, 9]),
        ("a[2:4]", [2, 3]),
        ("a[50:]", []),
    ],
)
def test_bounds_select_positions(split, expected):
    (part,) = parse(split)
    assert list(part.select(10)) == expected


@pytest.mark.parametrize("count", [1, 7, 39, 1001])
def test_percentages_leave_no_gap_and_no_overlap(count):
    for percent in range(0, 101, 7):
        first, second = Part("a", "", f"{percent}%"), Part("a", f"{percent}%", "")
        assert [*first.select(count), *second.select(count)] == list(range(count))
