"""The page as a person uses it, in headless Chromium: by mouse, by keyboard, in light and dark."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import picture

from mlm_jax.trained import tell

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not there")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="likewise")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium is there (CHROMIUM names one)"),
]
GRAVE = ("serious", "critical")
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """Errors in the console, and requests to others."""
    return []


@pytest.fixture
def page(browser, server, complaints, request) -> Iterator:
    """At the playground; in the end there may be no complaint."""
    look = getattr(request, "param", {})
    context = browser.new_context(**look)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    here = f"http://127.0.0.1:{server.port}/"
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def asked(request) -> None:
        if not request.url.startswith((here, "blob:", "data:")):
            complaints.append(f"asked {request.url}")

    page.on("request", asked)
    page.goto(here)
    page.get_by_role("heading", name="Try run").wait_for()
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "picture.png"
    path.write_bytes(picture())
    return path


def wanted(trained, question: str = "", file: bytes = b"") -> str:
    from mlm_jax.data.records import Record

    shown = trained.take(Record("file", image=file or picture()))
    return tell(trained, shown, question)[0].text


def answer(page) -> str:
    """What stands there when all is said."""
    playwright.expect(page.locator("#said")).not_to_have_text("", timeout=WAIT)
    return page.locator("#answer").inner_text()


def drop(page, path: Path) -> None:
    """As a file that is let go over the page."""
    data = page.evaluate_handle(
        """bytes => {
          const held = new DataTransfer();
          held.items.add(new File([new Uint8Array(bytes)], "picture.png", {type: "image/png"}));
          return held;
        }""",
        list(path.read_bytes()),
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": data})


def test_a_picture_is_dropped_and_asked_about(page, file, trained):
    drop(page, file)
    page.get_by_role("img", name="The picture that is asked about").wait_for()
    page.get_by_label("Question").fill("what colour is the star?")
    page.get_by_role("button", name="Ask", exact=True).click()
    assert answer(page) == wanted(trained, "what colour is the star?")
    page.get_by_role("button", name="Describe", exact=True).click()
    assert answer(page) == wanted(trained)


def test_each_word_shows_where_it_looked(page, file):
    page.get_by_label("A picture", exact=True).set_input_files(file)
    page.get_by_role("button", name="Describe", exact=True).click()
    answer(page)
    words = page.locator("button.word")
    first, last = words.first, words.last
    image = page.locator("#map-images img")
    assert first.get_attribute("aria-pressed") == "true"
    before = image.get_attribute("src")
    last.focus()
    page.keyboard.press("Enter")
    assert last.get_attribute("aria-pressed") == "true"
    assert first.get_attribute("aria-pressed") == "false"
    assert image.get_attribute("src") != before
    assert image.evaluate("each => each.decode().then(() => each.naturalWidth)") == 32


def things(page) -> list[str]:
    return page.locator("#things button[aria-pressed]").all_inner_texts()


def painted(page) -> str:
    playwright.expect(page.locator("#canvas")).to_have_attribute("aria-busy", "false", timeout=WAIT)
    return page.evaluate("document.getElementById('canvas').toDataURL()")


def test_a_scene_by_mouse(page):
    page.get_by_label("A scene drawn here").check()
    page.get_by_label("star").check()
    page.get_by_label("blue").check()
    canvas = page.locator("#canvas")

    def at(x: float, y: float) -> tuple[float, float]:
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.mouse.click(*at(0.25, 0.5))
    page.get_by_label("circle").check()  # of the one that is chosen
    page.get_by_label("small").check()
    page.mouse.click(*at(0.75, 0.5))
    assert len(things(page)) == 2
    assert things(page)[0] == "small blue circle, 25 % from the left, 50 % from the top"
    before = painted(page)
    page.mouse.move(*at(0.75, 0.5))
    page.mouse.down()
    page.mouse.move(*at(0.6, 0.3))
    page.mouse.move(*at(0.5, 0.25))
    page.mouse.up()
    assert things(page)[1].endswith("50 % from the left, 25 % from the top")
    assert painted(page) != before
    page.get_by_label("Question").fill("one cross")
    page.get_by_label("Question").press("Enter")
    assert answer(page)
    page.get_by_role("button", name="Remove the small blue circle").first.click()
    assert len(things(page)) == 1


def test_a_scene_by_keyboard_alone(page, server):
    """From the top of the page, with Tab, arrows, space and Enter."""

    def go_to(selector: str) -> None:
        for _ in range(60):
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{selector} is not reached")

    go_to("input[name=mode]")
    page.keyboard.press("ArrowDown")
    go_to("input[name=shape]")
    page.keyboard.press("ArrowRight")  # square
    go_to("input[name=colour]")
    go_to("#canvas")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    assert things(page) == ["large red square, 48 % from the left, 60 % from the top"]
    assert "48 % from the left" in page.locator("#moved").inner_text()
    page.keyboard.press("Enter")
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowUp")
    assert things(page)[0].endswith("58 % from the top")
    page.keyboard.press("PageDown")
    page.keyboard.press("Delete")
    assert len(things(page)) == 1
    go_to("#question")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    thing = {"shape": "square", "colour": "red", "size": "large", "x": 0.48, "y": 0.58}
    assert (
        answer(page)
        == server.ask({"scene": {"objects": [thing]}, "question": "red"}).tree["answer"]
    )


def test_what_is_wrong_is_said(page, complaints, tmp_path):
    page.get_by_role("button", name="Describe", exact=True).click()
    alert = page.get_by_role("alert").first
    playwright.expect(alert).to_have_text("a picture is missing")
    other = tmp_path / "picture.png"
    other.write_bytes(b"<svg onload=alert(1)>")
    page.get_by_label("A picture", exact=True).set_input_files(other)
    page.get_by_role("button", name="Describe", exact=True).click()
    playwright.expect(alert).to_contain_text("not a readable picture", timeout=WAIT)
    assert "400" in complaints.pop()  # the browser's own line


def test_a_number_that_is_typed_is_the_one_that_is_asked_with(page, file, complaints):
    """Also 0, which the server refuses; an empty field stands for what is usual."""
    page.get_by_label("A picture", exact=True).set_input_files(file)
    page.get_by_text("How words are chosen").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Describe", exact=True).click()
    alert = page.get_by_role("alert").first
    playwright.expect(alert).to_contain_text("temperature", timeout=WAIT)
    assert "400" in complaints.pop()  # the browser's own line
    page.get_by_label("Temperature").fill("")
    page.get_by_role("button", name="Describe", exact=True).click()
    assert answer(page)


def test_markup_is_shown_as_text(page, file):
    page.get_by_label("A picture", exact=True).set_input_files(file)
    page.get_by_label("Question").fill("<img src=x> zebra")
    page.get_by_role("button", name="Ask", exact=True).click()
    answer(page)
    playwright.expect(page.locator("#status")).to_contain_text("never seen in training: img, src")
    assert page.locator("img[src=x]").count() == 0


def test_a_long_wait_can_be_stopped(page, file, server):
    page.get_by_label("A picture", exact=True).set_input_files(file)
    with server.held():
        page.get_by_role("button", name="Describe", exact=True).click()
        server.wait_for(1)
        page.get_by_role("button", name="Stop").click()
        playwright.expect(page.locator("#status")).to_have_text("stopped")
        server.wait_for(0)


LOOKS = [
    {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    for scheme in ("light", "dark")
    for width in (400, 1280)
]


@pytest.mark.parametrize("page", LOOKS, indirect=True)
def test_nothing_grave_is_found_by_axe(page, file):
    def found() -> list[str]:
        violations = axe.Axe().run(page).response["violations"]
        return [each["id"] for each in violations if each["impact"] in GRAVE]

    assert found() == []
    page.get_by_label("A picture", exact=True).set_input_files(file)
    page.get_by_role("button", name="Describe", exact=True).click()
    answer(page)
    page.get_by_text("How words are chosen").click()
    assert found() == []
    page.get_by_label("A scene drawn here").check()
    page.get_by_role("button", name="Add a shape").click()
    painted(page)
    assert found() == []
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
