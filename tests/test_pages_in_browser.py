"""Pages in headless Chromium: nothing is asked for elsewhere, and axe finds nothing to mend."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_compare import written
from test_report import EVIL

from mlm_jax import pages
from mlm_jax.ablation import comparison, results
from mlm_jax.ablation import page as ablation
from mlm_jax.evaluators.texts import statistics
from mlm_jax.explaining.page import measures_page, page_of
from mlm_jax.report import write_report

sys.path += [str(Path(__file__).parent / folder) for folder in ("ablation", "explaining")]
from test_ablation_page import finished, planned
from test_maps_page import found, measured, seen_and_heard

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not there")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="likewise")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium is there (CHROMIUM names one)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def complaints(browser: Any, page: Path, scheme: str, width: int) -> list[str]:
    """Errors, requests, what is wider than the screen, and what axe finds, all folds open."""
    context = browser.new_context(  # axe is a script, which pages themselves refuse
        color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True
    )
    tab, found = context.new_page(), []
    tab.on("console", lambda said: found.append(said.text) if said.type == "error" else None)
    tab.on("pageerror", lambda error: found.append(str(error)))
    own = ("file:", "data:")
    tab.on("request", lambda r: None if r.url.startswith(own) else found.append(r.url))
    tab.goto(page.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    if tab.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("wider than the screen")
    for each in axe.Axe().run(tab).response["violations"]:
        found.append(f"{each['id']} ({each['impact']}): {each['nodes'][0]['html']}")
    context.close()
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    runs = [
        written(root / "a" / "run", 0.5, "a star", 0),
        written(root / "b" / "run", 0.7, EVIL, 1),
    ]
    write_report(runs[1])
    texts = {
        "compare": comparison.report(comparison.sides(runs), statistics),
        "ablation": ablation.report(
            results.gather(finished(planned(), root / "ablation"), statistics)
        ),
        "explained": page_of(found()),
        "seen_and_heard": page_of(seen_and_heard()),
        "measures": measures_page(measured(), Path("runs/vit")),
    }
    for name, text in texts.items():
        (root / f"{name}.html").write_text(text)
    return {name: root / f"{name}.html" for name in texts} | {"report": runs[1] / "report.html"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize(
    "name", ["report", "compare", "ablation", "explained", "seen_and_heard", "measures"]
)
def test_pages_are_for_all(browser: Any, made: dict, name: str, scheme: str, width: int) -> None:
    assert complaints(browser, made[name], scheme, width) == []


def test_what_is_wrong_is_found(browser: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    image = '<img src="http://127.0.0.1:9/picture.png">'
    bad.write_text(pages.page("bad", image, '<pre style="width: 9000px">wide</pre>'))
    found = " ".join(complaints(browser, bad, "light", 400))
    assert "image-alt (critical)" in found
    assert "wider than the screen" in found
    assert "127.0.0.1:9" in found
