"""The page of the laboratory in a browser: what it shows for an address, and that it complains of nothing."""

import re
import shutil
import subprocess
import threading

import pytest

from ranklens.lab.server import Laboratory

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Time of the page in milliseconds, which runs ahead of the clock whenever the page awaits no answer.
PATIENCE = 60_000
OPTIONS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "enable-logging=stderr",
    f"virtual-time-budget={PATIENCE}",
    "dump-dom",
)
SMALL = "size=4&rank=1&start=0.1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the browser Chromium, which is not installed"),
]


@pytest.fixture(scope="module")
def address():
    laboratory = Laboratory(0)
    thread = threading.Thread(target=laboratory.serve_forever)
    thread.start()
    yield laboratory.address
    laboratory.shutdown()
    laboratory.server_close()
    thread.join()


@pytest.fixture
def look(address, tmp_path):
    def look(query):
        """Return the text of the page's document, after its runs have ended, if its console stayed empty."""
        command = [CHROMIUM, *(f"--{option}" for option in OPTIONS), f"--user-data-dir={tmp_path}", address + query]
        found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in found.stderr
        return found.stdout

    return look


def ends(document):
    return re.findall('data-ended="([a-z]+)"', document)


@pytest.mark.parametrize("knobs", [SMALL, f"{SMALL}&depth=2.5", "family=example&start=0.1", f"{SMALL}&optimizer=adam"])
def test_a_run_is_drawn(look, knobs):
    document = look(f"?{knobs}")
    assert ends(document) == ["loss"]
    assert "has been learned. The loss has reached its goal" in document
    assert document.count("<polyline") > 3


def test_two_runs_stand_side_by_side_and_the_address_keeps_the_tab(look):
    document = look(f"?{SMALL}&compare=start&with=0.01&tab=table")
    assert ends(document) == ["loss", "loss"]
    names = re.findall('class="run-name [ab]">([^<]*)<', document)
    assert names == ["start size: 0.1", "start size: 0.01"]
    assert re.search('id="tab-table"[^>]*aria-selected="true"', document)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("size=abc", "size is 'abc'; it must be a number"),
        ("size=", "size is ''; it must be a number"),
        ("depth=NaN&start=-1", "depth is NaN; it must be a number from 1 to 6"),
        ("family=%3Cb%3E", "family is '&lt;b&gt;'; it must be one of"),
        ("family=einsum&einsum=ab,bc", "needs exactly one"),
        (f"{SMALL}&compare=start&with=9e99", "start is 9e+99; it must be a number from"),
    ],
)
def test_nonsense_in_the_address_is_told_on_the_page(look, query, said):
    document = look(f"?{query}")
    assert "failed" in ends(document)
    assert said in document


@pytest.mark.parametrize("query", ["compare=family&with=cp", "compare=constructor", "__proto__=1&toString=2&tab=no"])
def test_names_that_are_no_knobs_are_ignored(look, query):
    assert ends(look(f"?{SMALL}&{query}")) == ["loss"]
