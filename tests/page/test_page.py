"""The page in a real browser: what it shows, its verbs and their guard, a lost connection, 1,000 tasks (15)."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.page.conftest import TOKEN, Scene
from tests.page.proxy import BROWSER

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

Start = Callable[[str], Scene]
SLOW = 90_000
"""Milliseconds: on a busy machine things take their time."""
QUIET = "QUIET" in os.environ
"""Whether nothing else runs on this machine, so that times are judged and not only recorded."""


def open_page(
    context: BrowserContext, url: str, *, token: bool = True, faults: list[str] | None = None
) -> Page:
    page = context.new_page()
    page.set_default_timeout(SLOW)
    if faults is not None:
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.goto(f"{url}?token={TOKEN}" if token else url)
    page.wait_for_selector("#live.on")
    page.wait_for_selector(".row")
    return page


def wait_until(page: Page, expression: str) -> None:
    """Wait until an expression holds. Playwright's own way needs `eval`, which the policy of the page forbids."""
    deadline = time.monotonic() + SLOW / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def status(url: str, task: str) -> Any:
    with urllib.request.urlopen(f"{url}api/status?task={task}", timeout=10) as answer:
        return json.load(answer)["tasks"][0]


def row(page: Page, task: str) -> Any:
    return page.locator(".row", has=page.locator(f'b:text-is("{task}")'))


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "forced": {"forced_colors": "active", "reduced_motion": "reduce"},
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("width", [1440, 390])
def test_it_looks_as_it_should(browser: Browser, scenes: Start, shots: Path, look: str, width: int) -> None:
    """In each theme, on a screen and on a phone: no faults, nothing wider than the window, something drawn."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **LOOKS[look])
    faults: list[str] = []
    page = open_page(context, scenes("three_hosts").url, faults=faults)
    wait_until(page, "S.tasks.size === 13 && S.hosts.size === 3")
    page.locator(".need", has_text="Search.reindex").wait_for()
    page.wait_for_timeout(300)  # for the pictures: an animation ends
    page.screenshot(path=shots / f"page-{width}-{look}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    inked = page.evaluate(
        "(() => { const c = document.querySelector('.row canvas'), d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; return new Set(d).size })()"
    )
    assert inked > 3
    page.locator(".need .name", has_text="Backups.nightly").click()
    page.locator("#drawer.open .waits").wait_for()
    if look == "forced":
        assert page.evaluate("getComputedStyle(document.querySelector('#drawer')).animationName") == "none"
    page.wait_for_timeout(300)
    page.screenshot(path=shots / f"drawer-{width}-{look}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
    assert faults == []


def test_what_needs_a_person_comes_first(context: BrowserContext, scenes: Start) -> None:
    """In sentences, the worst first, with the verb that helps; the rest is well, and what is over is under Earlier."""
    page = open_page(context, scenes("three_hosts").url)
    page.locator(".need", has_text="Search.reindex").wait_for()
    page.locator(".need p", has_text="min on eu-1").first.wait_for()  # once other hosts are known
    page.locator(".need p", has_text="in a row on eu-1").first.wait_for()
    assert re.match(r"\d tasks need you\s*the other \d+ are well", page.inner_text("#needs h2"))
    names = page.locator("#needs .name").all_inner_texts()
    assert names[0] == "Backups.nightly"
    sentences = dict(zip(names, page.locator(".need p").all_inner_texts(), strict=True))
    hung, failing = sentences["Backups.nightly"], sentences["Invoices.export"]
    assert re.match(
        r"Running for \d+ min on eu-1; its timeout is 45 min. It waits in Backups.nightly at", hung
    )
    assert re.match(
        r"Failed \d+ times in a row on eu-1 since .*: ConnectionError: 503 from pay.example", failing
    )
    assert (
        page.locator(".need", has_text="Backups.nightly").locator("button.red").inner_text() == "Cancel run"
    )
    assert "Reports.render blocked a loop" in page.inner_text("#needs summary")
    page.click("#needs summary")
    assert "Reports.render blocked the event loop of eu-2 for 4.2 s, computing" in page.inner_text(
        "#needs ul"
    )


WORDS = """
() => {
  const said = [], kind = CanvasRenderingContext2D.prototype, real = kind.fillText;
  kind.fillText = function (text, ...rest) { said.push(text); real.call(this, text, ...rest); };
  for (const el of drawn.values()) if (el.parts) paint(el);
  kind.fillText = real;
  return said;
}
"""
"""What is written into the rows."""


def test_reasons_are_written_into_bands(context: BrowserContext, scenes: Start) -> None:
    """And the pointer gets a sentence for what is below it."""
    page = open_page(context, scenes("three_hosts").url)
    wait_until(page, "S.hosts.size === 3")
    words: list[str] = page.evaluate(WORDS)
    assert {"slept 9 min", "missed 18: slept", "4.2 s Reports.render"} <= set(words)
    assert any(word.startswith("held back") for word in words)
    track = row(page, "Snapshots.prune").locator(".tr").bounding_box()
    page.mouse.move(track["x"] + track["width"] * 0.6, track["y"] + 5)
    page.locator("#tip", has_text="were skipped: it was held back after failures").wait_for()


def test_a_task_that_one_host_runs(context: BrowserContext, scenes: Start) -> None:
    """It has one lane for all hosts, names the one that runs it, and stands as this one says."""
    page = open_page(context, scenes("cluster").url)
    facts = "S.tasks.get('Reports.send').on"
    wait_until(page, f"{facts}.size === 3 && [...{facts}.values()].every(one => one.owner)")
    owner = page.evaluate(f"ownerOf([...{facts}.values()][0])")
    assert owner in ("eu-1", "eu-2", "eu-3")
    row(page, "Reports.send").locator("small", has_text=f"every 1s · {owner} · cluster").wait_for()
    assert page.evaluate("lanesOf(S.tasks.get('Reports.send')).length") == 1
    wait_until(page, "document.querySelector('.row[aria-label^=\"Reports.send, ok\"]') !== null")
    assert page.evaluate("worst(S.tasks.get('Reports.send')).host") == owner
    wait_until(page, f"S.tasks.get('Reports.send').marks.get('{owner}')?.length > 0")
    # Its host dies: what it did stays.
    page.evaluate(f"take.host({{ host: '{owner}', gone: true }})")
    assert owner in page.evaluate("lanesOf(S.tasks.get('Reports.send'))[0].hosts")


def test_filters_search_and_keys(context: BrowserContext, scenes: Start) -> None:
    """The keyboard reaches everything."""
    page = open_page(context, scenes("three_hosts").url)
    page.locator(".need", has_text="Search.reindex").wait_for()
    names = page.locator(".row b")
    page.keyboard.press("n")
    wait_until(page, "document.querySelectorAll('.row').length === 3")
    assert set(names.all_inner_texts()) == {"Backups.nightly", "Invoices.export", "Search.reindex"}
    page.keyboard.press("f")
    wait_until(page, "document.querySelectorAll('.row').length === 1")
    page.keyboard.press("a")
    page.keyboard.press("/")
    page.keyboard.type("volumes")
    wait_until(page, "document.querySelectorAll('.row').length === 3")
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    assert page.locator("#drawer.open h2").inner_text() == "Volumes.measure"
    assert "task=Volumes.measure" in page.url
    page.keyboard.press("Escape")
    assert page.locator("#drawer.open").count() == 0
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    wait_until(page, "document.querySelectorAll('.row').length > 8")
    page.keyboard.press("4")
    wait_until(page, "U.span === 86400 && complete && S.tasks.size === 13")
    page.keyboard.press("?")
    page.locator("#ask[open]", has_text="next, previous task").wait_for()


def test_the_drawer(context: BrowserContext, scenes: Start) -> None:
    """The state in a sentence, the facts, the slots newest first, each explained at a click; all of it as text."""
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = open_page(context, scenes("three_hosts").url)
    row(page, "Volumes.sync").locator(".nm").click()
    page.locator("#drawer .slot").nth(3).click()
    said = page.locator("#drawer .slot + p").inner_text()
    assert re.match(r"Volumes.sync: .*(ran, and succeeded in|missed)", said)
    page.click("text=Copy as text")
    page.locator("#toast", has_text="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("Volumes.sync on eu-")
    assert "slots, newest first" in copied


def test_verbs_with_the_token(context: BrowserContext, scenes: Start) -> None:
    """They act here and, over RPC, on another host; a pause says who and why."""
    url = scenes("three_hosts").url
    page = open_page(context, url)
    assert "token" not in page.url
    before = status(url, "Volumes.expire")["runs"]
    row(page, "Volumes.expire").locator(".nm").click()
    page.locator('#drawer [data-key="heu-1"]').click()
    page.locator("#drawer", has_text="Run now").locator('[data-verb="trigger"]').click()
    page.locator("#toast", has_text="Volumes.expire runs now").wait_for()
    wait_until(page, "S.tasks.get('Volumes.expire').on.get('eu-1').counts[0] > " + str(before))
    page.locator('#drawer [data-key="heu-2"]').click()
    page.locator('#drawer [data-verb="pause"]').click()
    page.click("text=4 hours")
    page.fill("#ask input", "provider moves")
    page.click('#ask button[type="submit"]')
    page.locator("#toast", has_text="is paused until").wait_for()
    wait_until(page, "S.tasks.get('Volumes.expire').on.get('eu-2').paused?.note === 'provider moves'")
    by = page.evaluate("S.tasks.get('Volumes.expire').on.get('eu-2').paused.by")
    assert by.startswith("said to be a browser or program at 127.0.0.1 via eu-1")
    assert status(url, "Volumes.expire")["paused"] is None
    page.locator('#drawer [data-verb="resume"]').click()
    wait_until(page, "!S.tasks.get('Volumes.expire').on.get('eu-2').paused")


def test_a_refusal_is_told(context: BrowserContext, scenes: Start) -> None:
    """In the words of the error."""
    page = open_page(context, scenes("three_hosts").url)
    row(page, "Search.reindex").locator(".nm").click()
    page.locator('#drawer [data-verb="trigger"]').click()
    page.locator("#toast.bad", has_text="Search.reindex").wait_for()


def test_without_the_token_it_only_reads(context: BrowserContext, scenes: Start) -> None:
    """There are no verbs, and a request for one is refused."""
    page = open_page(context, scenes("three_hosts").url, token=False)
    assert page.inner_text("#live") == "live, read-only"
    page.locator(".need").first.wait_for()
    assert page.locator("[data-verb]").count() == 0
    code = page.evaluate(
        "fetch('api/pause', {method: 'POST', headers: {'X-Asyncmgr': '1'}, body: '{\"task\": \"Volumes.sync\"}'})"
        ".then((answer) => answer.status)"
    )
    assert code == 403


def test_a_page_elsewhere_cannot_use_verbs(context: BrowserContext, scenes: Start) -> None:
    """Neither by fetch nor by a form, though the browser has the cookie (CSRF)."""
    url = scenes("three_hosts").url
    open_page(context, url)
    elsewhere = context.new_page()
    body = '{"task": "Volumes.measure"}'
    fields = f"<input name='{body[:-1]},\"x\":\"' value='\"}}'>"
    html = f"<form method=post enctype=text/plain action={url}api/pause>{fields}</form>"
    elsewhere.route("http://evil.test/", lambda route: route.fulfill(content_type="text/html", body=html))
    elsewhere.goto("http://evil.test/")
    for options in ("mode: 'no-cors'", "headers: {'X-Asyncmgr': '1'}"):
        options = f"{options}, method: 'POST', credentials: 'include', body: '{body}'"
        elsewhere.evaluate(f"fetch('{url}api/pause', {{{options}}}).catch(() => 0)")
    elsewhere.evaluate("document.forms[0].submit()")
    elsewhere.wait_for_url(f"{url}api/pause")
    assert "NotAllowed" in elsewhere.inner_text("body")
    assert status(url, "Volumes.measure")["paused"] is None


def test_another_name_for_this_address_gets_nothing(context: BrowserContext, scenes: Start) -> None:
    """A page elsewhere that makes its name point here (DNS rebinding) cannot read it."""
    page = context.new_page()
    answer = page.goto(f"http://evil.example:{scenes('three_hosts').port}/")
    assert answer is not None
    assert answer.status == 403
    assert "not known here" in page.inner_text("body")


def test_a_lost_connection(browser: Browser, shots: Path) -> None:
    """It greys the page out under a red bar, without verbs; the page comes back by itself, also after a restart."""
    scene = Scene("three_hosts")
    context = browser.new_context(viewport={"width": 1440, "height": 600})
    try:
        page = open_page(context, scene.url)
        page.locator('.need [data-verb="cancel"]').first.wait_for()
        scene.process.send_signal(signal.SIGSTOP)
        page.locator("#bar", has_text="No word for").wait_for(state="visible")
        page.wait_for_timeout(400)
        page.screenshot(path=shots / "lost.png")
        assert page.locator('.need [data-verb="cancel"]').first.is_disabled()
        assert page.inner_text("#live") == "lost"
        scene.process.send_signal(signal.SIGCONT)
        page.locator("#bar").wait_for(state="hidden")
        assert page.locator('.need [data-verb="cancel"]').first.is_enabled()
        life = page.evaluate("S.life")
        scene.close()
        page.locator("#bar").wait_for(state="visible")
        scene = Scene("three_hosts", scene.port)
        page.locator("#bar").wait_for(state="hidden")
        wait_until(page, f"S.life !== '{life}' && S.tasks.size === 13")
    finally:
        context.close()
        scene.close()


def test_an_open_page_does_not_hold_up_the_stop(browser: Browser) -> None:
    """Its stream ends at the stop of the service."""
    scene = Scene("crowd")
    context = browser.new_context()
    try:
        open_page(context, scene.url)
        scene.process.terminate()
        assert scene.process.wait(15) == 0
    finally:
        context.close()
        scene.close()


def test_hostile_names_and_errors(context: BrowserContext, scenes: Start, shots: Path) -> None:
    """HTML, text directions and 10 kB in names, errors and notes are shown as what they are, and harm nothing."""
    faults: list[str] = []
    page = open_page(context, scenes("hostile").url, faults=faults)
    page.locator(".need", has_text="endless").first.wait_for()
    for need in (0, 1):
        page.locator(".need .name").nth(need).click()
        page.locator("#drawer.open pre").wait_for()
        page.locator("#drawer .slot").first.wait_for()
        page.screenshot(path=shots / f"hostile-{need}.png")
    page.keyboard.press("Escape")
    assert page.evaluate("typeof pwned") == "undefined"
    assert page.locator("main img, main b b, main script, #drawer img, #drawer script").count() == 0
    text = page.inner_text("body")
    assert "\\u202e" in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\0]", text)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('.need')].every((one) => one.offsetHeight < 90)")
    assert faults == []


FRAMES = """
async () => {
  const times = [], step = document.documentElement.scrollHeight / 240;
  let most = 0, last = performance.now();
  for (let at = 0; at < 240; at++) {
    scrollTo(0, at * step);
    const began = performance.now();
    scrolled();
    most = Math.max(most, performance.now() - began);
    await new Promise(requestAnimationFrame);
    const now = performance.now(); times.push(now - last); last = now;
  }
  times.sort((a, b) => a - b);
  const rows = document.querySelectorAll('#rows > div').length;
  return { rows, median: times[120], p95: times[228], most: times[239], work: most };
}
"""


def test_a_thousand_tasks(context: BrowserContext, scenes: Start, shots: Path, record_property: Any) -> None:
    """The first paint comes at once, only rows in sight exist, and they scroll without stutter.

    Times are judged on a quiet machine only: ``QUIET=1 SHOTS=shots nox -s page -- -k thousand``, with the figures in
    ``shots/figures.json``.
    """
    url = scenes("crowd").url
    page = open_page(context, url)
    wait_until(page, "S.tasks.size === 1000 && complete")
    page.screenshot(path=shots / "crowd.png")
    frames = page.evaluate(FRAMES)
    page.reload()
    page.wait_for_selector(".row")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    with urllib.request.urlopen(url, timeout=10) as answer:
        size = len(answer.read())
    asked = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        packed = len(answer.read())
    figures = {**frames, "first_paint": paint, "bytes": size, "packed": packed, "load": os.getloadavg()[0]}
    record_property("figures", figures)
    (shots / "figures.json").write_text(json.dumps(figures))
    assert frames["rows"] < 80
    assert size < 60_000
    assert packed < 23_000
    if QUIET:  # milliseconds
        assert frames["median"] < 20, figures
        assert frames["p95"] < 34, figures
        assert paint < 300, figures


def test_mounted_behind_a_prefix_and_a_proxy(browser: Browser, scenes: Start) -> None:
    """In FastAPI under uvicorn: page, stream, verbs and cookie work below any path, and show the other hosts.

    The proxy speaks https to the browser, so it says: the cookie is for https only then. It also says who asked.
    """
    url = scenes("mounted").url + "shop/jobs/"
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    faults: list[str] = []
    page = open_page(context, url, faults=faults)
    assert page.url == url
    wait_until(page, "S.hosts.size === 2 && S.tasks.get('Volumes.expire').on.size === 2")
    for host in ("eu-1", "eu-2"):
        row(page, "Volumes.expire").locator(".nm").click()
        page.locator(f'#drawer [data-key="h{host}"]').click()
        page.locator('#drawer [data-verb="pause"]').click()
        page.click('#ask button[type="submit"]')
        wait_until(page, f"S.tasks.get('Volumes.expire').on.get('{host}').paused")
        by = page.evaluate(f"S.tasks.get('Volumes.expire').on.get('{host}').paused.by")
        assert f"a browser or program at {BROWSER}" in by
    (cookie,) = context.cookies(url)
    assert (cookie["path"], cookie["secure"], cookie["sameSite"]) == ("/shop/jobs", True, "Strict")
    answer = context.request.get(
        url.rstrip("/"), max_redirects=0
    )  # without the slash: to the proxy's own address
    assert answer.headers["location"] == url.replace("http:", "https:")
    context.close()
    assert faults == []
