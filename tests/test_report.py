"""The HTML page: true to its result, closed to a hostile one, read in a real browser."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from harness import binding, prices, store
from harness.errors import ArmbenchError, Exit
from harness.records.run import RequestRecord, Result
from harness.reports.html import page, views
from harness.reports.html.plots import Line, Plot, svg, thinned
from harness.tune import outcome
from harness.tune.search import Rules
from tests.test_run import armbench
from tests.tune.test_outcome import engines, searched

(RESULT,) = Path(__file__).parents[1].glob("results/*/quick/*.json")
EVIL = '"><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">$x^$'


def a_result(**changes: str) -> Result:
    result = store.load(RESULT)
    result.price = prices.parse_price("0.1 USD/h")
    for path, value in changes.items():
        owner: Any = result
        *parents, last = path.split("__")
        for name in parents:
            owner = getattr(owner, name)
        setattr(owner, last, value)
    binding.derive(result)
    return result


def rendered(*results: Result) -> str:
    return page.render([(RESULT, result) for result in results])


@pytest.fixture(scope="module")
def text() -> str:
    return rendered(a_result())


def test_the_page_asks_the_network_for_nothing_and_holds_no_script(text: str) -> None:
    assert "<script" not in text
    found = re.findall(r'(?:src|href|xlink:href)="([^"]*)"', text)
    assert found
    assert [a for a in found if not a.startswith(("#", "data:application/gzip"))] == []
    assert "default-src 'none'" in text


def test_the_verdict_and_the_cost_come_before_any_table(text: str) -> None:
    body = text[text.index("<body") :]
    assert body.index("valid: all 4 cases") < body.index("<table")
    assert body.index("per M output tokens") < body.index("<table")


def test_every_figure_of_the_terminal_table_is_on_the_page(text: str) -> None:
    from harness.reports.sheet import run_sheet

    for row in run_sheet(a_result()).rows:
        for cell in row:
            assert f">{cell}</td>" in text


def test_the_raw_records_come_back_out_of_the_page(text: str) -> None:
    match = re.search(r"base64,([A-Za-z0-9+/=]+)", text)
    assert match
    inside = json.loads(gzip.decompress(base64.b64decode(match[1])))
    assert len(inside["trials"]) == len(a_result().trials)


def test_texts_of_a_hostile_result_stay_texts() -> None:
    result = a_result(model__name=EVIL, plan__name=EVIL, machine__cpu__product=EVIL)
    result.plan.notes.append(EVIL)
    result.plan.cases[0].variant.engine = EVIL
    for trial in result.trials:
        trial.invalid, trial.case = [EVIL], trial.case
    text = rendered(result)
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;") > 3


def test_two_results_are_set_beside_each_other_with_what_differs() -> None:
    text = rendered(a_result(), a_result(machine__cpu__product="AWS Graviton4"))
    assert "what differs between the environments" in text
    assert "AWS Graviton4" in text


def test_a_picture_is_svg_in_the_colours_of_the_page() -> None:
    plot = Plot(
        title=EVIL, about=EVIL, x="$", y="ms", lines=[Line(label=EVIL, x=[1, 2], y=[3, 4])] * 2
    )
    drawn = svg(plot)
    root = ET.fromstring(drawn)
    assert root.attrib["role"] == "img"
    assert "currentColor" in drawn
    assert "var(--s0)" in drawn
    assert not [e for e in root.iter() if e.tag.endswith(("script", "image", "foreignObject"))]


def test_logarithmic_axes_have_plain_numbers() -> None:
    line = Line(label="a", x=[0.5, 2000], y=[3, 400_000])
    for plot in (
        Plot(title="t", about="", x="", y="", lines=[line], log_x=True, log_y=True),
        Plot(title="t", about="", x="", y="", bars=[("a", 1.0, None, None)] * 2, log_x=True),
    ):
        texts = [e.text or "" for e in ET.fromstring(svg(plot)).iter() if e.tag.endswith("text")]
        assert "1" in texts
        assert not [text for text in texts if "$" in text]


def test_bars_of_one_name_stand_in_rows_of_their_own() -> None:
    bars = [("same", value, 0.9 * value, 1.1 * value) for value in (1.0, 2.0, 3.0)]
    root = ET.fromstring(svg(Plot(title="t", about="", x="", y="", bars=bars)))
    assert [e.text for e in root.iter() if e.tag.endswith("text")].count("same") == 3
    heights = {
        e.attrib["d"].split()[2]
        for e in root.iter()
        if e.tag.endswith("path") and "var(--s0)" in e.attrib.get("style", "")
    }
    assert len(heights) == 3


def test_cases_that_differ_in_their_lengths_alone_have_lines_and_bars_of_their_own() -> None:
    result = a_result()
    threads = []
    for number, case in enumerate(result.plan.cases):
        into, count = divmod(number, 2)
        variant = replace(case.variant, engine="torch", dtype="float32", threads=count + 1)
        load = replace(case.load, kind="single_stream", batch=1, input_tokens=128 * (into + 1))
        threads.append(replace(case, variant=variant, load=load))
    result.plan.cases = threads
    drawn = views.threads_plot(result)
    assert drawn is not None
    assert [line.x for line in drawn.lines] == [[1.0, 2.0], [1.0, 2.0]]
    assert len({views.short(case) for case in result.plan.cases}) == 4


def test_the_page_of_a_search_begins_with_its_answer() -> None:
    result = searched([[10, 11, 12]], engines(1))
    assert result.tune is not None
    result.tune.answer = outcome.draw(result, Rules())
    binding.derive(result)
    text = rendered(result)
    first = re.search(r"<table.*?<caption[^>]*>(.*?)</caption>", text, re.DOTALL)
    assert first
    assert "tuned for output throughput" in first[1]


def test_thinning_keeps_both_ends() -> None:
    assert thinned(range(10_000))[0] == 0
    assert thinned(range(10_000))[-1] == 9_999
    assert len(thinned(range(10_000))) <= 400


def test_a_hundred_thousand_requests_make_a_page_of_the_allowed_size() -> None:
    result = a_result()
    trial = result.trials[0]
    one = trial.records[0]
    trial.records = [
        RequestRecord(
            id=n,
            slot=0,
            due_ns=one.due_ns,
            sent_ns=one.sent_ns,
            input_tokens=4,
            token_ns=[one.due_ns + 10**6 * (n % 97), one.due_ns + 10**8],
        )
        for n in range(100_000)
    ]
    text = rendered(result)
    assert len(text.encode()) < page.MOST_BYTES
    assert "too many for this page" in text


def test_the_command_writes_the_page_and_refuses_what_it_cannot(tmp_path: Path) -> None:
    done = armbench("report", str(RESULT), "-o", str(tmp_path / "r.html"))
    assert done.returncode == Exit.FINE, done.stderr
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    refused = armbench("report", str(RESULT), "-o", str(tmp_path / "no" / "r.html"))
    assert refused.returncode == Exit.USER
    assert not (tmp_path / "no").exists()


def test_too_large_a_page_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    with pytest.raises(ArmbenchError, match="MB"):
        rendered(a_result())


# In Chromium

_FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
    *("disable-background-networking", "disable-component-update"),
)


class Browser:
    """One Chromium behind its driver, spoken to by the WebDriver protocol (W3C)."""

    def __init__(self, port: int, profile: str) -> None:
        self.base = f"http://127.0.0.1:{port}"
        options = {"args": [*(f"--{flag}" for flag in _FLAGS), f"--user-data-dir={profile}"]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self.base += f"/session/{self.ask('POST', '/session', wanted)['sessionId']}"

    def ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # the driver listens on this machine only
            self.base + path,
            data=data,
            method=method,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def run(self, script: str) -> Any:
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def open(self, file: Path, width: int) -> None:
        self.ask("POST", "/window/rect", {"width": width, "height": 900})
        self.ask("POST", "/url", {"url": file.as_uri()})

    def press(self, key: str) -> None:
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        keys = {"type": "key", "id": "keys", "actions": actions}
        self.ask("POST", "/actions", {"actions": [keys]})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        if os.environ.get("ARMBENCH_REQUIRE_BROWSER"):
            pytest.fail("chromium and chromium-driver are not installed")
        pytest.skip("chromium and chromium-driver are not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            started = _started(port, profile)
            yield started
            started.ask("DELETE", "")  # ends the browser; the driver alone would leave it
        finally:
            process.terminate()
            process.wait()


def _started(port: int, profile: str) -> Browser:
    for _ in range(100):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        time.sleep(0.1)
    return Browser(port, profile)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_a_desk_and_a_phone(
    browser: Browser, text: str, width: int, tmp_path: Path
) -> None:
    file = tmp_path / "r.html"
    file.write_text(text)
    browser.open(file, width)
    seen = browser.run(
        "const d = document.documentElement;"
        "return [d.scrollWidth - d.clientWidth, document.querySelectorAll('svg').length,"
        " [...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 200)]"
    )
    assert seen[0] <= 0, "the page scrolls sideways"
    assert seen[1] >= 4
    assert seen[2]


def test_the_keyboard_reaches_every_link_and_wide_table(
    browser: Browser, text: str, tmp_path: Path
) -> None:
    file = tmp_path / "r.html"
    file.write_text(text)
    browser.open(file, 1280)
    wanted = browser.run("return document.querySelectorAll('a[href], .wide, summary').length")
    reached = set()
    for _ in range(wanted + 2):
        browser.press("\ue004")  # tab
        reached.add(
            browser.run(
                "const all = [...document.querySelectorAll('a[href], .wide, summary')];"
                "return all.indexOf(document.activeElement)"
            )
        )
    assert reached - {-1} == set(range(wanted))


def test_a_hostile_result_runs_nothing_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "evil.html"
    result = a_result(model__name=EVIL, plan__name=EVIL, machine__cpu__product=EVIL)
    file.write_text(rendered(result))
    browser.open(file, 1280)
    assert browser.run("return document.title") != "owned"
    assert browser.run("return document.querySelectorAll('script, img').length") == 0


def test_dark_pages_have_light_ink(browser: Browser, text: str, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    file.write_text(text)
    browser.open(file, 1280)
    inks = []
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.ask(
            "POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": feature}
        )
        inks.append(
            browser.run(
                "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
            )
        )
    assert inks[0] != inks[1]
    assert inks[1][1] == "rgb(20, 23, 26)"
