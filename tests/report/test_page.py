import dataclasses
import json
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise

import pytest

import ranklens as rl
from ranklens import studies
from ranklens.report import entries, page
from ranklens.studies.kit.claim import Claim

NAMES = ("norms_to_infinity", "matrix_dynamics")
# Elements that have no end tag.
VOID = {"meta", "link", "input", "br", "hr", "img"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of two studies, one with a claim and a description that would break a page that does not escape them."""
    folder = tmp_path_factory.mktemp("report")
    made = []
    for name in NAMES:
        record = studies.perform(name, studies.preset(name, "tiny"))
        made.append(entries.entry(record, "tiny"))
        entries.keep(made[-1], record, folder)
    evil = Claim("finding", "<script>alert('x')</script> & more", 1.0, "<=", 0.5, "own <b>source</b>")
    made[0] = dataclasses.replace(made[0], claims=(*made[0].claims, evil), alt='a "<b>" & c')
    failed = entries.failure("depth", "ValueError: <i>no</i> entries", "tiny", details="Traceback <x>")
    assert page.write(made, folder, "tiny", failures=[failed]) == folder / "index.html"
    return folder


# Sizes of a window, in pixels: a desk, a tablet and a phone.
SIZES = ((1280, 800), (768, 1024), (390, 844))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# A script that uses the page, inside a frame, and tells the page around it what it found.
PROBE = """
addEventListener("load", () => setTimeout(() => {
  const get = selector => document.querySelector(selector), found = { width: innerWidth };
  const bottom = selector => get(selector).getBoundingClientRect().bottom;
  Object.assign(found, { scroll: document.documentElement.scrollWidth, lead: bottom(".lead"), trio: bottom(".trio") });
  found.paper = getComputedStyle(document.body).backgroundColor;
  const item = get(".legend li"), line = document.getElementById(item.dataset.ids.split(" ")[0]);
  get(".reader").focus();
  found.read = item.querySelector(".value").textContent;
  item.querySelector("button").click();
  found.hidden = getComputedStyle(line).display;
  get("a.term").focus();
  found.tip = get("#tip").hidden ? "" : get("#tip").textContent;
  const kind = get(".filters select");
  kind.value = "theorem";
  kind.dispatchEvent(new Event("input", { bubbles: true }));
  const rows = [...document.querySelectorAll(".verdicts tbody tr")].filter(row => row.offsetHeight);
  found.kinds = [...new Set(rows.map(row => row.dataset.kind))];
  get("#glossary").scrollIntoView();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    found.place = get(".toc [aria-current]")?.textContent;
    parent.postMessage(found, "*");
  }));
}, 100));
"""
# The page around the frames: one frame for each size, because a window of Chromium is at least 500 pixels wide. All are
# in view, because frames out of view draw nothing. When all have told it what they found, it sends that to an address.
AROUND = """<!DOCTYPE html><title>sizes</title><script>
const all = [];
addEventListener("message", event => {
  if (all.push(event.data) === COUNT) fetch("ADDRESS", { method: "POST", mode: "no-cors", body: JSON.stringify(all) });
});
</script>"""


class Desk(BaseHTTPRequestHandler):
    """Takes what a page found, as the attribute `found` of its server, whose event `done` is set then."""

    def do_POST(self):
        self.server.found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.done.set()

    def log_message(self, *_):
        """Stay silent."""


@contextmanager
def desk():
    """Yield a server of this machine that takes what a page found."""
    with HTTPServer(("127.0.0.1", 0), Desk) as server:
        server.found, server.done = [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Outline(HTMLParser):
    """The tags of a page, with the tags that each is inside."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.inside = [], [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append((tag, found.get("id", "")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for _, name in self.open:
            self.inside[name] = self.inside.get(name, "") + data

    def all(self, attribute):
        return [found[attribute] for _, found in self.tags if attribute in found]


@pytest.fixture(scope="module")
def outline(folder):
    return Outline((folder / "index.html").read_text(encoding="utf-8"))


def test_the_page_needs_no_network_and_links_to_what_is_there(folder, outline):
    assert outline.open == []
    ids = outline.all("id")
    assert len(ids) == len(set(ids))
    links = [*outline.all("href"), *outline.all("src"), *outline.all("xlink:href")]
    for link in links:
        assert link == "data:," or (link[1:] in ids if link.startswith("#") else (folder / link).is_file()), link
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert not re.search(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)\w+\.\w", text)


def test_labels_and_descriptions_are_there(outline):
    ids = set(outline.all("id"))
    for attribute in ("aria-labelledby", "aria-describedby"):
        assert set(outline.all(attribute)) <= ids
    plots = [found for tag, found in outline.tags if tag == "div" and found.get("class") == "plot"]
    assert len(plots) >= 4
    assert all(found["role"] == "img" and found["aria-label"].startswith("Panel ") for found in plots)
    headings = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_what_is_printed_is_escaped(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "a &#34;&lt;b&gt;&#34; &amp; c" in text
    assert "own &lt;b&gt;source" in text
    assert "ValueError: &lt;i&gt;no" in text


def test_chapters_and_studies_are_in_the_order_of_the_talk(outline):
    sections = [found["id"] for tag, found in outline.tags if tag == "section"]
    assert sections == ["failed", "matrices", "verdicts", "glossary", "about"]
    articles = [found["id"] for tag, found in outline.tags if tag == "article"]
    assert articles == ["matrix_dynamics", "norms_to_infinity", "depth"]
    inside = [link for link in outline.all("href") if link.startswith("#")]
    assert {f"#{name}" for name in [*sections, *articles]} <= set(inside)


def test_what_does_not_hold_is_at_the_top_and_in_its_place(outline):
    assert "depth: ValueError: <i>no</i> entries" in outline.inside["failed"]
    assert "alert('x')" in outline.inside["failed"]
    assert "This study could not be run" in outline.inside["depth"]
    assert "Traceback <x>" in outline.inside["depth"]
    assert "ranklens run depth --preset tiny" in outline.inside["depth"]


def test_verdicts_are_counted(folder, outline):
    text = (folder / "index.html").read_text(encoding="utf-8")
    claims = [claim for name in NAMES for claim in studies.judge(rl.load(folder / f"{name}.nc"))]
    theorems = [claim for claim in claims if claim.kind == "theorem"]
    assert len(theorems) > 5
    assert all(claim.holds for claim in theorems)
    assert f"All {len(theorems)} theorem checks hold;" in text
    assert "1 study could not be run." in text
    rows = [found for tag, found in outline.tags if tag == "tr" and found.get("id", "").startswith("claim-")]
    assert len(rows) == len(claims) + 1
    held = [found["data-result"] == "holds" for found in rows]
    assert sum(held) == sum(claim.holds for claim in claims)
    assert {found["data-kind"] for found in rows} == {claim.kind for claim in claims}


def test_every_colour_of_a_figure_has_a_light_and_a_dark_value(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--c-[0-9a-f]{6})\)", text))
    light, dark = re.findall(r":root\{([^}]*)\}", text)[:2]
    assert len(used) > 5
    for block in (light, dark):
        assert used <= set(re.findall(r"(--c-[0-9a-f]{6}):#[0-9a-f]{6}", block))
    assert "--c-000000:#000000" in light
    assert "--c-000000:#e8e8e8" in dark


def test_the_picture_that_opens_the_page_comes_before_everything_else(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert 0 < text.index("<h1>") < text.index("<polyline") < text.index("<main")
    assert "Matrix factorization: 2 singular values rise from zero" in text


def test_a_page_of_studies_that_all_failed_is_written(tmp_path):
    failed = [entries.failure(name, "RuntimeError: the worker ended", "tiny") for name in ("analogy", "depth")]
    text = page.write([], tmp_path, "tiny", failures=failed).read_text(encoding="utf-8")
    assert "No claim was checked. 2 studies could not be run." in text
    assert "<polyline" not in text
    Outline(text)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser Chromium, which is not installed")
@pytest.mark.parametrize(("scheme", "paper"), [(1, "rgb(255, 255, 255)"), (0, "rgb(22, 24, 27)")])
def test_the_page_works_in_a_browser_at_every_width(folder, tmp_path, scheme, paper):
    """No message on the console, no request, no sideways scroll; picture and sentence are on the first screen."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    frames = "".join(f'<iframe src="page.html" width="{w}" height="{h}"></iframe>' for w, h in SIZES)
    options = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync"]
    options += ["disable-component-update", "hide-scrollbars", "window-size=2700,1200", "remote-debugging-port=0"]
    options += [f"user-data-dir={tmp_path / 'profile'}", "enable-logging=stderr"]
    options += [f"blink-settings=preferredColorScheme={scheme}"]
    log = tmp_path / "log.txt"
    with desk() as server, log.open("w") as lines:
        around = AROUND.replace("COUNT", str(len(SIZES))).replace("ADDRESS", f"http://127.0.0.1:{server.server_port}")
        (tmp_path / "around.html").write_text(around + frames, encoding="utf-8")
        command = [CHROMIUM, *(f"--{option}" for option in options), (tmp_path / "around.html").as_uri()]
        with subprocess.Popen(command, stderr=lines) as browser:
            in_time = server.done.wait(timeout=300)  # however slow the machine is
            browser.terminate()
        assert in_time
    assert not re.findall(r"CONSOLE.*", log.read_text())
    found = {each["width"]: each for each in server.found}
    assert sorted(found) == sorted(width for width, _ in SIZES)
    for width, height in SIZES:
        each = found[width]
        assert each["scroll"] <= width
        assert each["lead"] < each["trio"] < height
        assert each["paper"] == paper
        assert float(each["read"].split()[0]) >= 0
        assert each["hidden"] == "none"
        assert each["tip"].startswith("component")
        assert each["kinds"] == ["theorem"]
        assert each["place"] == "Glossary"
