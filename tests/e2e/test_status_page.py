"""The status page in a real browser on a lab of five hosts: what it shows, how soon, and that the keyboard suffices."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from controller.lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

_ADDRESS = "http://127.0.0.1:9092/"
_DEADLINE_MS = 60_000
#: A root user has no sandbox; without the others it looks for hosts of its maker's.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_FETCH = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers=dict(pair.split("=") for pair in sys.argv[2:]))
try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        print(answer.status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Five hosts with one workload each."""
    lab = Lab(f"p{os.getpid()}")
    try:
        lab.up(nodes=5, workloads=1)
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def browser(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium on the first host: its page is served on loopback."""
    program = shutil.which("chromium")
    assert program is not None, "no chromium on PATH; ./bootstrap test installs it"
    script = tmp_path_factory.mktemp("browser") / "chromium"
    command, _ = lab.command("h1", [program])
    script.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
    script.chmod(0o755)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=script, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """Return what the browser complains about while a page is open."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """Open the status page, live, with all sessions of the lab established."""
    page = browser.new_page(viewport={"width": 1360, "height": 900}, reduced_motion="reduce")
    page.set_default_timeout(_DEADLINE_MS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("request", lambda request: None if request.url.startswith(_ADDRESS) else complaints.append(request.url))
    page.goto(_ADDRESS)
    expect(page.locator("#map .line.established")).to_have_count(10, timeout=_DEADLINE_MS)
    expect(page.locator("#link-text")).to_have_text("Live", timeout=_DEADLINE_MS)
    expect(page.locator("#pool-list .cell")).to_have_count(5, timeout=_DEADLINE_MS)
    yield page
    page.close()


def test_it_shows_the_whole_cluster(page: Page, complaints: list[str], tmp_path: Path) -> None:
    """Five nodes, ten sessions and five blocks, on screens of any size; the browser has nothing to complain about."""
    expect(page.locator("#map .place.ready")).to_have_count(5)
    expect(page.locator("#tile-sessions")).to_contain_text("10 sessions 10 established")
    expect(page.locator("#tile-problems")).to_contain_text("0 problems")
    expect(page.locator("#pool-list .cell")).to_have_count(5)
    expect(page.locator("#pool-list .cell").first).to_have_attribute(
        "aria-label", re.compile(r"2 % h\d 10\.244\.\d+\.\d+/26: 1 of 64 addresses in use")
    )
    for scheme, width in (("light", 1360), ("dark", 1360), ("light", 390)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.set_viewport_size({"width": width, "height": 900})
        picture = tmp_path / f"{scheme}-{width}.png"
        page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 10_000
        scrolled = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert scrolled == 0, f"{width} pixels wide it has to be moved sideways"
    assert complaints == []


def test_a_killed_session_turns_visible(page: Page, lab: Lab, complaints: list[str]) -> None:
    """By a thick dashed line and by word, in the table and in the log; and so does its return. Prints how soon."""
    began = time.monotonic()
    lab.stop("h3/bgp")
    try:
        expect(page.locator("#map .line.broken").first).to_be_attached(timeout=_DEADLINE_MS)
        print(f"a killed session is visible {time.monotonic() - began:.2f} s after the order to kill it")  # noqa: T201  measured
        expect(page.locator("#map .line.broken")).to_have_count(4, timeout=_DEADLINE_MS)
        expect(page.locator("#map .marks .broken text")).to_have_text(["✕ broken"] * 4)
        dashes = page.locator("#map .line.broken").first.evaluate("line => getComputedStyle(line).strokeDasharray")
        assert dashes != "none"
        expect(page.locator("#tile-sessions")).to_contain_text("✕ 4 broken")
        expect(page.locator("#log")).to_contain_text("session h3 – h4 is broken")  # noqa: RUF001  the dash it writes
        expect(page.locator("#problem-list")).to_contain_text("the BGP sidecar is not connected")
        page.locator("#show-table").click()
        expect(page.locator("#session-rows tr.broken")).to_have_count(4)
        page.locator("#show-map").click()
    finally:
        lab.start("h3/bgp")
    expect(page.locator("#map .line.established")).to_have_count(10, timeout=_DEADLINE_MS)
    expect(page.locator("#log")).to_contain_text("session h3 – h4 is established")  # noqa: RUF001  the dash it writes
    assert complaints == []


def test_a_node_that_does_not_answer_keeps_its_sessions(page: Page, lab: Lab, complaints: list[str]) -> None:
    """Its speaker outlives its agent, and the other ends say so."""
    lab.stop("h4/agent")
    try:
        expect(page.locator("#map .place.no-answer")).to_have_count(1, timeout=_DEADLINE_MS)
        expect(page.locator("#map .place.no-answer .sign")).to_have_text("?")
        expect(page.locator("#problem-list")).to_contain_text("does not answer")
        expect(page.locator("#map .line.established")).to_have_count(10)
    finally:
        lab.start("h4/agent")
    expect(page.locator("#map .place.ready")).to_have_count(5, timeout=_DEADLINE_MS)
    assert complaints == []


def test_without_its_agent_it_says_so_and_comes_back_by_itself(page: Page, lab: Lab) -> None:
    """What is shown is marked as old until the agent is there again."""
    lab.stop("h1/agent")
    try:
        expect(page.locator("#stale")).to_contain_text("No connection to the agent since", timeout=_DEADLINE_MS)
        expect(page.locator("#link-text")).to_have_text("Not connected")
        expect(page.locator("#map .place")).to_have_count(5)
    finally:
        lab.start("h1/agent")
    expect(page.locator("#link-text")).to_have_text("Live", timeout=_DEADLINE_MS)
    expect(page.locator("#stale")).to_be_hidden()


def test_the_keyboard_suffices(page: Page, complaints: list[str]) -> None:
    """The way round leads past every part; arrows go from node to node and from block to block; the focus is seen."""
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_have_text("Skip to the cluster")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    _tab_to(page, "#map .place")
    expect(focused).to_have_attribute("aria-label", "h1, ready, serves this page, 4 of 4 sessions established")
    assert focused.locator(".halo").evaluate("halo => getComputedStyle(halo).stroke") != "none"
    page.keyboard.press("ArrowRight")
    expect(focused).to_have_attribute("aria-label", "h2, ready, 4 of 4 sessions established")
    expect(page.locator("#map .line.near")).to_have_count(4)
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_contain_text("192.0.2.2")
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    _tab_to(page, ".cell")
    first = focused.get_attribute("aria-label")
    page.keyboard.press("End")
    assert focused.get_attribute("aria-label") not in (None, first)
    expect(page.locator(".pool .about")).to_have_text(focused.get_attribute("aria-label") or "")
    page.locator("#show-table").focus()
    page.keyboard.press("Space")
    expect(page.locator("#node-rows tr")).to_have_count(5)
    page.locator("#filter").focus()
    page.keyboard.type("h3")
    expect(page.locator("#node-rows tr")).to_have_count(1)
    expect(page.locator("#session-rows tr")).to_have_count(4)
    assert complaints == []


@pytest.mark.parametrize(
    ("place", "address", "header", "expected"),
    [
        ("h1", "http://127.0.0.1:9092/", "Host=localhost:9092", "200"),
        ("h1", "http://127.0.0.1:9092/", "Host=tortie.example:9092", "421"),
        ("h1", "http://127.0.0.1:9092/events", "Host=tortie.example:9092", "421"),
        ("h1", "http://127.0.0.1:9092/events", "Sec-Fetch-Site=cross-site", "403"),
        ("h2", "http://192.0.2.1:9091/v1/summary", "Host=192.0.2.1", "200"),
        ("h1w1", "http://192.0.2.1:9091/v1/summary", "Host=192.0.2.1", "403"),
    ],
)
def test_only_those_it_is_for_may_read_it(lab: Lab, place: str, address: str, header: str, expected: str) -> None:
    """No web site under a name of its own, and no workload; other nodes read a node's summary."""
    assert lab.run(place, [sys.executable, "-c", _FETCH, address, header]).stdout.strip() == expected


def test_nobody_elsewhere_reaches_the_page(lab: Lab) -> None:
    """It is served on loopback alone."""
    refused = lab.run("h2", [sys.executable, "-c", _FETCH, "http://192.0.2.1:9092/"])
    assert refused.stdout == ""
    assert "Connection refused" in refused.stderr


def _tab_to(page: Page, selector: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.locator(f"{selector}:focus").count():
            return
    pytest.fail(f"the Tab key does not lead to {selector}")
