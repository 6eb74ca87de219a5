import dataclasses
import re
from html.parser import HTMLParser

import pytest
import xarray as xr

import ranklens as rl
from ranklens import report, studies
from ranklens.studies.kit.claim import Claim


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of two studies, one with a claim and a description that would break a page that does not escape them."""
    folder = tmp_path_factory.mktemp("report")
    entries = []
    for name in ("norms_to_infinity", "matrix_dynamics"):
        record = studies.perform(name, studies.preset(name, "tiny"))
        made = report.entry(record, "tiny")
        report.keep(made, record, folder)
        entries.append(made)
    evil = Claim("finding", "<script>alert('x')</script> & more", 1.0, "<=", 0.5, "own")
    entries[0] = dataclasses.replace(entries[0], claims=(*entries[0].claims, evil), alt='a "<b>" & c')
    assert report.write(entries, folder, "tiny") == folder / "index.html"
    return folder


class Outline(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.roles = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[x] for x in ("href", "src", "xlink:href") if x in found]
        self.roles.append((tag, found.get("role"), found.get("aria-label")))


def test_the_page_needs_no_network_and_links_to_what_is_there(folder):
    page = Outline()
    page.feed((folder / "index.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link == "data:," or (link[1:] in page.ids if link.startswith("#") else (folder / link).is_file()), link
    assert "script" not in page.tags


def test_what_is_printed_is_escaped(folder):
    text = (folder / "index.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert" in text
    assert 'aria-label="a &#34;&lt;b&gt;&#34; &amp; c"' in text


def test_figures_have_descriptions_and_small_screens_a_viewport(folder):
    page = Outline()
    text = (folder / "index.html").read_text()
    page.feed(text)
    figures = [label for tag, role, label in page.roles if tag == "svg" and role == "img"]
    assert len(figures) == 2
    assert figures[1] == studies.load("matrix_dynamics").alt(rl.load(folder / "matrix_dynamics.nc"))
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "ranklens run norms_to_infinity --preset tiny" in text


def test_verdicts_are_counted(folder):
    text = (folder / "index.html").read_text()
    records = [rl.load(folder / f"{name}.nc") for name in ("norms_to_infinity", "matrix_dynamics")]
    theorems = [claim for record in records for claim in studies.judge(record) if claim.kind == "theorem"]
    assert len(theorems) > 5
    held = sum(claim.holds for claim in theorems)
    assert f"<strong>{held} of {len(theorems)} theorem checks hold" in text
    assert re.search(r'class="fails">✗ no', text)


def test_records_and_figures_lie_beside(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"index.html"} | {
        f"{study}.{kind}" for study in ("norms_to_infinity", "matrix_dynamics") for kind in ("nc", "png", "pdf", "svg")
    }
    assert isinstance(rl.load(folder / "matrix_dynamics.nc"), xr.Dataset)


def test_clear_removes_reports_only(tmp_path):
    (tmp_path / "index.html").write_text("old")
    (tmp_path / "analogy.svg").write_text("old")
    (tmp_path / "matrix_dynamics.nc").write_text("of another run")
    (tmp_path / "mine.txt").write_text("kept")
    report.clear(tmp_path, ["analogy"])
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "matrix_dynamics.nc"}
    report.clear(tmp_path / "none", ["analogy"])


def test_bounds_are_read_as_they_are_meant():
    assert report.bound(Claim("finding", "", 1.0, "<=", 0.5, "own")) == "≤ 0.5"
    assert report.bound(Claim("finding", "", 1.0, ">=", 0.5, "own")) == "≥ 0.5"
    assert report.bound(Claim("finding", "", 1.0, "within", (0.5, 2.0), "own")) == "0.5 to 2"
