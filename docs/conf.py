"""Settings of the documentation site. Everything is built from this checkout; nothing is fetched."""

import re
from importlib.metadata import version as installed

project = "ranklens"
author = "The ranklens developers"
project_copyright = "the ranklens developers"
release = version = installed("ranklens")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"ranklens {release}"
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3  # headings down to this level can be linked to, as on a page of the repository

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_rtype = False

nitpicky = True
# Names that start with another package's name, or that are typing constructs or type variables, are not looked up:
# their pages are in inventories that lie on other sites, and this build asks no other site for anything.
nitpick_ignore_regex = [("py:.*", r"(?!ranklens\.).*")]

_LITERAL = re.compile(r"(``.+?``|`[^`\n]+`)")
_SECTION = re.compile(r"\s*(Args|Returns|Raises|Yields|Attributes|Source|Example|Note)s?:\s*$")


def _escape(text: str) -> str:
    """Escape what is markup in reStructuredText and plain text in our docstrings."""
    text = text.replace("\\", "\\\\")
    text = re.sub(r"([*|])", r"\\\1", text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def _inline(line: str) -> str:
    """Turn `code` into ``code`` and escape the rest of a line."""
    parts = _LITERAL.split(line)
    return "".join(f"``{part.strip('`')}``" if k % 2 else _escape(part) for k, part in enumerate(parts))


def _process(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make a docstring valid reStructuredText: code literal, indented formulas literal blocks, doctests as they are."""
    made: list[str] = []
    section, literal, doctest = False, False, False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            literal = doctest = False
            made.append(line)
        elif literal or doctest:
            made.append(line)
        elif line.lstrip().startswith(">>>"):
            doctest = True
            made.append(line)
        elif _SECTION.match(line):
            section = True
            made.append(line)
        elif indent >= 4 and not section and made and not made[-1].strip():
            literal = True
            made += ["::", "", line]
        else:
            section = section and indent > 0
            made.append(_inline(line))
    lines[:] = made


def setup(app: object) -> None:
    """Register the step that runs before napoleon reads the sections of a docstring."""
    app.connect("autodoc-process-docstring", _process, priority=400)  # type: ignore[attr-defined]
