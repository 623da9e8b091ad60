"""The service's page in a real browser: asking, passages, history, the live panel, keys, and hostile text."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pages import Running, WebDriverException, ask, find, until
from services import TEXTS, Counting, causal, service

from search.serve.guard import Guarding

webdriver = pytest.importorskip("selenium.webdriver")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="Debian's chromium and chromium-driver are not installed"
)

HOSTILE = "<img src=x onerror=document.title='hurt'><script>document.title='hurt'</script> villain"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1200,900",
        "--disable-dev-shm-usage",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with service(tmp_path_factory.mktemp("page"), extracting=True) as backend:
        server = Running(backend, Guarding(rate=1e6, burst=1e6))
        yield server
        server.close()


@pytest.fixture
def page(browser: Any, running: Running) -> Iterator[Any]:
    browser.get(running.url)
    browser.get_log("browser")
    yield browser
    wrong = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [message for message in wrong if " 404 " not in message], "errors in the page's console"


def test_an_answer_is_shown_with_its_place_its_score_and_its_time(page: Any) -> None:
    ask(page, "Which creature?", "We saw a peacock there 😀 yesterday.")
    until(lambda: find(page, "#result .answer").text == "peacock")
    assert find(page, "#result mark").text == "peacock"
    assert "We saw a peacock there 😀 yesterday." in find(page, "#result .passage").text
    caption = find(page, "#result .quiet").text
    assert "score 0.50" in caption and " ms" in caption and "study-question-answering/" in caption


def test_the_mark_counts_characters_as_the_service_does(page: Any) -> None:
    ask(page, "What?", "😀😀 it was a meteor, 😀")
    until(lambda: find(page, "#result mark").text == "meteor,")


def test_hostile_text_is_shown_and_not_run(page: Any) -> None:
    ask(page, HOSTILE, HOSTILE)
    until(lambda: HOSTILE in find(page, "#result .passage").text)
    find(page, "[data-view=history]").click()
    until(lambda: HOSTILE in find(page, "#history").text)
    assert page.title == "Question answering"
    assert not page.find_elements("css selector", "main img, main script")


@pytest.mark.parametrize("name", TEXTS)
def test_no_stored_text_becomes_a_part_of_the_page(page: Any, running: Running, name: str) -> None:
    text = TEXTS[name]
    httpx.post(f"{running.url}/v1/answer", json={"question": text, "context": text}).raise_for_status()
    numbers = httpx.post(f"{running.url}/v1/passages", json={"text": text, "source": text[:200]}).json()["ids"]
    for view in ("passages", "history"):
        find(page, f"[data-view={view}]").click()
        until(lambda view=view: text.split()[0][:5] in find(page, f"#{view}").get_property("textContent"))
    assert page.title == "Question answering"
    assert not page.find_elements("css selector", "main img, main script, main iframe, main a, main svg")
    for number in numbers:
        httpx.delete(f"{running.url}/v1/passages/{number}")


def test_the_browser_refuses_to_read_any_text_as_html(page: Any) -> None:
    """A mistake in the page's own code would be an error there, and let nothing in."""
    for written in ("innerHTML = '<b>a</b>'", "insertAdjacentHTML('beforeend', '<b>a</b>')"):
        with pytest.raises(WebDriverException, match="TrustedHTML"):
            page.execute_script(f"document.querySelector('#result').{written}")
    assert not page.find_elements("css selector", "#result b")
    page.get_log("browser")  # it has both errors


def test_passages_are_added_by_text_and_file_and_removed(page: Any, tmp_path: Path) -> None:
    find(page, "[data-view=passages]").click()
    find(page, "#source").send_keys("birds")
    find(page, "#text").send_keys("Herons stand in shallow water.")
    find(page, "#add button").click()
    until(lambda: "1 added." in find(page, "#added").text)
    until(lambda: "Herons stand" in find(page, "#passages").text)
    (tmp_path / "<b>fish.txt").write_text("Salmon swim up the river.")
    find(page, "#file").send_keys(str(tmp_path / "<b>fish.txt"))
    find(page, "#add button").click()
    until(lambda: "<b>fish.txt" in find(page, "#passages").text)
    find(page, "#passages li:first-child button").click()
    until(lambda: "Herons stand" not in find(page, "#passages").text)
    find(page, "#add button").click()
    until(lambda: find(page, "#added").text == "Write a text or choose a file.")


def test_the_history_takes_feedback_and_keeps_it(page: Any) -> None:
    ask(page, "Which planet?", "Jupiter is large.")
    until(lambda: find(page, "#result .answer").text == "Jupiter")
    find(page, "[data-view=history]").click()
    until(lambda: find(page, "#history li .answer").text == "Jupiter")
    find(page, "#history li button").click()
    until(lambda: "You found this helpful." in find(page, "#history li").text)
    page.refresh()
    find(page, "[data-view=history]").click()
    until(lambda: "Found helpful." in find(page, "#history li").text)


def test_the_live_panel_draws_the_front_and_the_variant_that_serves(page: Any, running: Running) -> None:
    ask(page, "Which metal?", "Titanium is light.")
    until(lambda: find(page, "#serving").text.startswith("study-question-answering/"))
    until(lambda: float(find(page, "#per-s").text) > 0)
    points = page.find_elements("css selector", "#front circle.point")
    assert len(points) == 2 and len(page.find_elements("css selector", "#front circle.now")) == 1
    assert "ms" in find(page, "#p50").text
    assert re.search(r"· switches: \d+", find(page, "#objective").text)


def test_the_keyboard_is_enough(page: Any) -> None:
    find(page, "[data-view=passages]").click()
    current = page.find_elements("css selector", "nav [aria-current=page]")
    assert [one.get_attribute("data-view") for one in current] == ["passages"]
    find(page, "h1").click()
    page.switch_to.active_element.send_keys("/")
    until(lambda: page.switch_to.active_element.get_attribute("id") == "question")
    assert find(page, "#view-ask").is_displayed() and not find(page, "#view-passages").is_displayed()
    page.switch_to.active_element.send_keys("Which colour?")
    page.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert find(page, "#question").get_attribute("value") == ""


def test_whatever_is_hidden_is_not_shown(page: Any) -> None:
    shown = page.execute_script(
        """return [...document.querySelectorAll("body *")].filter((one) => {
            if (!(one instanceof HTMLElement)) return false;
            const before = one.hidden;
            one.hidden = true;
            const display = getComputedStyle(one).display;
            one.hidden = before;
            return display !== "none";
        }).map((one) => one.id || one.tagName)"""
    )
    assert shown == []


def test_a_variant_is_pinned_by_the_keyboard(page: Any) -> None:
    until(lambda: len(page.find_elements("css selector", "#pins button")) == 3)
    find(page, "#pins button[data-number='3']").send_keys("\n")
    until(lambda: "pinned" in find(page, "#objective").text)
    assert find(page, "#pins [aria-pressed=true]").get_attribute("data-number") == "3"
    assert page.switch_to.active_element.get_attribute("data-number") == "3"  # the panel is drawn anew around the focus
    find(page, "#pins button[data-number='']").send_keys(" ")
    until(lambda: "pinned" not in find(page, "#objective").text)
    assert find(page, "#pins [aria-pressed=true]").text == "Automatic"


def test_the_api_s_page_shows_its_description(page: Any, running: Running) -> None:
    page.get(running.url + "/docs")
    until(lambda: "POST /v1/answer" in find(page, "#operations").text)
    text = find(page, "#operations").text
    assert "GET /v1/history" in text and "1 to 2000 characters" in text and "within_ms" in text
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_names_of_the_api_s_page_stay_whole_on_a_phone(page: Any, running: Running) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.get(running.url + "/docs")
        until(lambda: "POST /v1/answer" in find(page, "#operations").text)
        question = next(one for one in page.find_elements("css selector", "th") if one.text == "question")
        select = "const range = document.createRange(); range.selectNodeContents(arguments[0]);"
        assert page.execute_script(f"{select} return range.getClientRects().length", question) == 1, "one line"
        wide, inner = page.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= inner == 360
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_an_objective_has_no_needless_digits_and_an_empty_history_says_so(page: Any) -> None:
    page.execute_script(
        "const real = call; call = async (...request) => {"
        "  if (request[1].startsWith('/v1/history')) return { answers: [] };"
        "  const reply = await real(...request);"
        "  if (request[1] === '/v1/status') for (const one of Object.values(reply.fleets)) one.slo_ms = 948.7577401;"
        "  return reply; }"
    )
    until(lambda: "objective 949 ms" in find(page, "#objective").text)
    find(page, "[data-view=history]").click()
    until(lambda: find(page, "#history").text == "No questions yet.")


@pytest.mark.parametrize("width", [360, 800, 1200])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    try:
        ask(page, "Which word?", "x" * 300 + " is long.")
        until(lambda: find(page, "#result .answer").text)
        for view in ("ask", "passages", "history"):
            find(page, f"[data-view={view}]").click()
            wide, inner = page.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
            assert wide <= inner == width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(page: Any, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 :].rstrip(")").split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(ink: str, ground: str) -> float:
        low, high = sorted((luminance(ink), luminance(ground)))
        return (high + 0.05) / (low + 0.05)

    def colours(selector: str, of: str) -> str:
        return str(page.execute_script(f"return getComputedStyle(document.querySelector('{selector}')).{of}"))

    ground, card = colours("body", "backgroundColor"), colours("aside", "backgroundColor")
    assert (luminance(ground) < 0.2) == (scheme == "dark")
    assert contrast(colours("body", "color"), ground) >= 4.5
    assert contrast(colours("label", "color"), ground) >= 4.5 and contrast(colours("dt", "color"), card) >= 4.5
    assert contrast(colours("#ask button", "color"), colours("#ask button", "backgroundColor")) >= 4.5


def test_a_service_with_keys_asks_for_one(browser: Any, tmp_path: Path) -> None:
    with service(tmp_path, extracting=True) as backend:
        key = backend.archive.make_key("me").result(5)
        server = Running(backend, Guarding(keys=True, rate=1e6, burst=1e6))
        try:
            browser.get(server.url)
            until(lambda: find(browser, "#key").is_displayed())
            find(browser, "#key").send_keys(key + "\n")
            until(lambda: find(browser, "#serving").text.startswith("study-"))
            ask(browser, "Which stone?", "Granite is hard.")
            until(lambda: find(browser, "#result .answer").text == "Granite")
        finally:
            server.close()
            browser.execute_script("sessionStorage.clear()")
            browser.get_log("browser")


def test_a_completion_is_shown_as_it_comes_and_can_be_stopped(browser: Any, tmp_path: Path) -> None:
    model = Counting(seconds=0.02)
    with service(tmp_path, causal(model)) as serving:
        server = Running(serving, Guarding(rate=1e6, burst=1e6))
        try:
            browser.get(server.url)
            until(lambda: find(browser, "h1").text == "Completion")
            assert not find(browser, "#own-text").is_displayed()
            find(browser, "#question").send_keys(HOSTILE + "\n")
            until(lambda: find(browser, "#result mark").text.startswith("1 2 3"))
            assert model.written < 200
            until(lambda: "study-lm/0" in find(browser, "#result .quiet").text)
            assert find(browser, "#result mark").text.strip().endswith("199 200")
            assert browser.title == "Completion" and not browser.find_elements("css selector", "main img, main script")
            find(browser, "#question").send_keys("again\n")
            until(lambda: find(browser, "#result button")).click()
            until(lambda: find(browser, "#result .quiet").text == "Stopped.")
        finally:
            server.close()
