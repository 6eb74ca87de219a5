"""The pages: every Python block runs, every internal link leads somewhere, and every command exists."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ranklens as rl
from ranklens.cli import app
from ranklens.studies import STUDIES
from ranklens.studies.outline import outline

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
# Python blocks that are no doctests, by a line that they contain, and why they cannot run here.
NOT_RUN = {
    "trainer = lightning.Trainer(": "neither lightning nor transformers is a dependency of ranklens",
    "output = self(x.requires_grad_(self.penalty.due))": "the body of a method of a lightning module",
    "def compute_loss(self, model, inputs, return_outputs=False, **_):": "a method of a Hugging Face Trainer",
}
BLOCK = re.compile(r"^```(\{?[\w-]*\}?)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# Words that the pages avoid, with the words to use.
AVOIDED = {
    r"\bpictures?\b": "image or figure",
    r"\blearnt\b": "learned, or trained on",
    r"\bwhat is seen\b": "observed entries",
    r"\bunseen\b": "unobserved, or test",
    r"\bnot seen\b": "unobserved",
}


def blocks(path):
    """Pairs (language, text) of the fenced blocks of a page."""
    return BLOCK.findall(path.read_text())


def prose(path):
    """The text of a page without its fenced blocks."""
    return BLOCK.sub("", path.read_text())


def anchors(path):
    """The anchors of a page's headings: lower case, spaces as hyphens, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands():
    """Pairs (page, command line) of every `ranklens ...` in a block or in a line of a page."""
    for path in PAGES:
        text = "\n".join(block for language, block in blocks(path) if not language)
        lines = [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("ranklens ")]
        lines += re.findall(r"`(ranklens [^`\n]+)`", prose(path))
        for line in lines:
            yield path, re.sub(r"\[(.*?)\]", r"\1", line) if "[--" in line else line


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_python_block_is_a_doctest(path):
    for language, block in blocks(path):
        if language in {"python", "pycon"} and ">>> " not in block:
            assert any(line in block for line in NOT_RUN), f"a Python block that no test runs:\n{block}"
            compile("def _():\n" + "".join(f"    {line}\n" for line in block.splitlines()), str(path), "exec")
        elif language not in {"python", "pycon"}:
            assert ">>> " not in block, f"a doctest in a block of language {language!r}:\n{block}"


def test_every_exception_is_still_needed():
    texts = [block for path in PAGES for _, block in blocks(path)]
    for line in NOT_RUN:
        assert any(line in text for text in texts), f"no page has {line!r} any more"


def test_pages_are_where_pytest_looks_for_doctests(pytestconfig):
    found = [ROOT / name for name in pytestconfig.getini("testpaths")]
    assert "--doctest-glob=*.md" in pytestconfig.getini("addopts")
    assert all(any(path == place or place in path.parents for place in found) for path in PAGES)


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_internal_links_and_anchors_lead_somewhere(path):
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        assert place.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(place), (
            f"{target}: {place.name} has the anchors {sorted(anchors(place))}"
        )


def test_every_page_is_in_a_table_of_contents():
    listed = {ROOT / "docs" / "index.md"}
    for path in PAGES:
        for language, block in blocks(path):
            if language == "{toctree}":
                names = [line for line in block.splitlines() if line and not line.startswith(":")]
                listed |= {(path.parent / f"{name}.md").resolve() for name in names}
    assert listed == {path for path in PAGES if path.name != "README.md"}


def test_the_api_pages_have_every_public_function_and_class():
    text = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"automodule:: (\S+)", text))
    public = {f"rl.{name}": getattr(rl, name) for name in rl.__all__}
    for room in (rl.nn, rl.data, rl.theory):
        public |= {f"{room.__name__}.{name}": getattr(room, name) for name in room.__all__}
    homes = {name: thing.__module__ for name, thing in public.items() if hasattr(thing, "__module__")}
    assert not {name: home for name, home in homes.items() if home not in documented}


def test_the_gallery_shows_every_figure_and_no_other():
    shown = set(re.findall(r"\(gallery/(\w+)\.png\)", (ROOT / "docs" / "gallery.md").read_text()))
    assert shown == set(STUDIES) == {path.stem for path in (ROOT / "docs" / "gallery").glob("*.png")}


def test_commands_of_the_pages_exist():
    helps = {}
    for path, line in commands():
        words = shlex.split(line)[1:]
        command, options = words[0], [word for word in words if word.startswith("--")]
        if command == "data":
            command = " ".join(words[:2])
        if command.startswith("-"):
            continue
        if command not in helps:
            answer = CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=200)
            assert answer.exit_code == 0, f"{path.name}: there is no command {line!r}"
            helps[command] = answer.output
        for option in options:
            assert option.split("=")[0] in helps[command], f"{path.name}: {line!r} has no option {option}"


def test_studies_presets_and_settings_of_the_pages_exist():
    for path, line in commands():
        words = shlex.split(line)
        if words[1] != "run" or not words[2].islower():
            continue
        found = outline(words[2])
        for option, value in pairwise(words):
            if option == "--preset" and value.islower():
                assert value in found.minutes, f"{path.name}: {line!r} has no such preset"
            if option == "--set" and "=" in value and value != "name=value":
                assert value.partition("=")[0] in found.settings, f"{path.name}: {line!r} has no such setting"


def test_readme_names_every_command():
    text = (ROOT / "README.md").read_text()
    script = Path(sys.executable).parent / "ranklens"
    answer = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    named = re.findall(r"^\W*([a-z]+)\s{2,}", answer.stdout.split("Commands")[1], re.MULTILINE)
    assert {"talk", "run", "list", "rank", "data"} <= set(named)
    for command in named:
        assert f"ranklens {command}" in text, f"the README does not name ranklens {command}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_the_usual_words(path):
    for pattern, better in AVOIDED.items():
        found = re.search(pattern, prose(path), re.IGNORECASE)
        assert not found, f"{path.name} says {found.group()!r}; write {better}"


def test_no_file_names_a_place_of_one_machine():
    pattern = r"/(root|home/[a-z]+|work)/[a-z]"
    arguments = ["git", "grep", "-nIE", pattern, "--", ":!tests/test_docs.py"]
    answer = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode > 1:
        pytest.skip("this copy is no git checkout")
    assert not answer.stdout
