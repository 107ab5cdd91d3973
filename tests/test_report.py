"""The page of a run: whole without a network, safe with any text, its curves where they belong."""

import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mlm_jax import command, report
from mlm_jax.errors import UserError
from mlm_jax.metrics import Figure
from mlm_jax.pages import charts, page

EVIL = '<script>alert("1")</script>&\'"{x}'
VOID = {"meta", "img"}


class Checker(HTMLParser):
    """Collects tags, and the nesting that does not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "<run & all>"
    folder.mkdir()
    lines = [{"step": s, "time": 0, "loss": 4 / s, "accuracy": 0.1 * s} for s in range(1, 10)]
    lines += [{"step": 9, "time": 0, "test/loss": 1.0}, {"step": 9, "loss": math.nan}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    figures = {
        "caption/facts_f1": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 10},
        "vqa/accuracy": {"value": 0.9, "low": 0.8, "high": 1.0, "n": 20},
        f"vqa/accuracy/{EVIL}": {"value": 0.9, "low": 0.8, "high": 1.0, "n": 20},
        f"vqa/majority/{EVIL}": {"value": 0.4, "low": 0.3, "high": 0.5, "n": 20},
        "loss": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 30},
    }
    (folder / "evaluation.json").write_text(json.dumps(figures))
    (folder / "evaluation_novel.json").write_text(json.dumps(figures))
    said = {"text": EVIL, "score": 0.0, "references": [EVIL]}
    example = {
        "image": "QUJD",
        "where": EVIL,
        "caption": said | {"missed": [EVIL], "invented": [EVIL]},
        "questions": [said | {"question": EVIL}, said | {"question": "q", "score": 1.0}],
    }
    (folder / "examples.json").write_text(json.dumps({"shown": [example], "wrong": []}))
    (folder / "config.json").write_text(json.dumps({"data": EVIL}))
    report.write_report(folder)
    return folder


def test_page_is_whole_and_safe(run):
    page = (run / "report.html").read_text()
    checker = parsed(page)
    names = [tag for tag, _ in checker.tags]
    assert "script" not in names
    assert names.count("img") == 1
    assert not {"link", "iframe", "object", "a"} & set(names)
    urls = [v for _, attrs in checker.tags for k, v in attrs.items() if k in ("src", "href")]
    assert urls == ["data:image/png;base64,QUJD"]
    assert "url(" not in page
    assert "@import" not in page
    image = next(attrs for tag, attrs in checker.tags if tag == "img")
    assert EVIL in image["alt"]
    text = "".join(checker.text)
    assert text.count("<script>") == 2 + 8 + 1, "kind in two splits, card, config"
    assert "novel" in text
    assert "prefers-color-scheme: dark" in page


def test_a_name_that_is_no_utf8_is_shown(run, tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    (example,) = json.loads((run / "examples.json").read_text())["shown"]
    shown = {"shown": [{**example, "where": name}], "wrong": []}
    (tmp_path / "examples.json").write_text(json.dumps(shown))
    report.write_report(tmp_path)
    assert r"caf\udce9.png" in (tmp_path / "report.html").read_text()


def test_headings_go_down_step_by_step(run):
    page = (run / "report.html").read_text()
    levels = [int(x) for x in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast_in_light_and_dark():
    """4.5 : 1, level AA, of every colour of text on both grounds."""
    light, dark = re.findall(r":root \{(.*?)\}", page("a"), re.DOTALL)
    for theme in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        for ground in ("page", "card"):
            for ink in ("ink", "soft", "good", "bad", "one", "two"):
                both = sorted(luminance(colours[name]) for name in (ground, ink))
                assert (both[1] + 0.05) / (both[0] + 0.05) >= 4.5, (ink, ground)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 73, [0, 20, 40, 60, 80]), (0, 0, [0, 0.2, 0.4]),
     (-3, 11, [-5, 0, 5, 10, 15])],
)  # fmt: skip
def test_ticks(low, high, wanted):
    found = charts.ticks(low, high)
    if low < high:
        assert found == pytest.approx(wanted)
    assert found[0] <= low <= high <= found[-1]


@pytest.mark.parametrize(("low", "high"), [(0.3, 4), (1, 1), (1e-5, 3), (0.02, 0.021)])
def test_log_ticks_enclose(low, high):
    found = charts.log_ticks(low, high)
    assert found[0] <= low * 1.001
    assert found[-1] >= high * 0.999
    assert found == sorted(set(found))
    assert 2 <= len(found) <= 12


def test_curves_lie_within_the_axes_and_end_where_they_end():
    svg = charts.chart("loss", {"loss": [(1.0, 4.0), (50.0, 0.4), (100.0, 0.5)]}, log=True)
    places = [p.split(",") for p in re.search(r'points="([^"]*)"', svg)[1].split()]
    xs, ys = ([float(p[i]) for p in places] for i in (0, 1))
    assert all(charts.LEFT <= x <= charts.WIDTH - charts.RIGHT for x in xs)
    assert all(charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM for y in ys)
    assert xs == sorted(xs)
    assert ys[0] < ys[2] < ys[1], "larger is higher"
    assert "loss ends at 0.5" in svg


def test_points_are_thinned_and_keep_the_last():
    lines = [{"step": i, "loss": float(i)} for i in range(5001)]
    found = report.points(lines, "loss")
    assert len(found) <= report.POINTS
    assert found[-1] == (5000, 5000)
    assert report.points([{"step": 1, "loss": math.inf}, {"step": 2}], "loss") == []


def test_short_numbers():
    values = [0, 1500, 0.00042, 0.25, 1234567, 1]
    assert [charts.short(v) for v in values] == ["0", "1.5k", "4.2e-4", "0.25", "1235k", "1"]


def test_figures_are_plain_without_a_terminal(capsys):
    report.print_figures({"loss": Figure(0.5, 0.25, 0.75, 10)}, "run on test")
    out = capsys.readouterr().out
    assert re.search(r"loss +0\.500 +0\.250 to 0\.750 +n 10", out)
    assert out.isascii()


def test_each_split_has_a_file_of_its_own_from_whose_name_it_is_read():
    splits = [
        "test",
        "novel",
        "test[:500]",
        "test[500:]",
        "test_500",
        "_test",
        "a/b+train[:9%]",
        "é",
    ]
    names = [report.saved_name("evaluation", split) for split in splits]
    assert names[:2] == ["evaluation.json", "evaluation_novel.json"]
    assert len({*names}) == len(splits)
    assert [report.split_of(Path("run") / name, "evaluation") for name in names] == splits
    assert all(re.fullmatch(r"[\w.%+-]+", name) for name in names)


def test_examples_on_the_screen_hold_no_control_characters(tmp_path, capsys):
    """Captions, questions and names of files are of data, and of a model."""
    evil = "a \x1b]0;title\x07 star\nwrong"
    told = {"text": evil, "score": 0.0, "references": [evil]}
    each = {"where": evil, "caption": told, "questions": [{"question": evil} | told]}
    (tmp_path / "examples.json").write_text(json.dumps({"shown": [each], "wrong": []}))
    report.print_examples(tmp_path, "test")
    said = capsys.readouterr().out
    assert all(line.isprintable() for line in said.splitlines())
    assert said.count(r"\x1b]0;title\x07 star\nwrong") == 6
    assert len(said.splitlines()) == 4


def test_an_answer_that_few_people_gave_is_not_wrong(tmp_path, capsys):
    """Three of ten count 0.9; what is right is what most of them say, not what the first says."""
    people = ["crimson", *["red"] * 3, *(f"other {i}" for i in range(6))]
    few = {"question": "which?", "text": "red", "score": 0.9, "references": people}
    none = few | {"text": "blue", "score": 0.0}
    said = "as 3 of 10 people say, the commonest: red"
    assert parsed(report.question(few)).text == ["which?", "≈", " red ", said]
    assert parsed(report.question(none)).text == ["which?", "✗", " blue ", "right: red"]
    example = {"where": "1", "questions": [few, none]}
    (tmp_path / "examples.json").write_text(json.dumps({"shown": [example], "wrong": []}))
    report.print_examples(tmp_path, "test")
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines == [f"  which?: red  ({said})", "  which?: blue  (wrong, right: red)"]


def test_errors_hold_no_control_characters(monkeypatch, capsys):
    """They name files and keys as they are found."""

    def verb(_):
        raise UserError("no such file: x\x1b[31m\x07.json\nnor y")

    monkeypatch.setenv("MLM_JAX_CACHE", "")
    assert command.main(verb) == 2
    assert capsys.readouterr().err == "error: no such file: x\\x1b[31m\\x07.json\nnor y\n"
