"""Settings of the documentation site. Everything is built from this checkout; nothing is fetched."""

import re
from importlib import import_module
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
napoleon_attr_annotations = False  # the shapes in annotations, such as "*batch", are no reStructuredText

nitpicky = True
# Names that start with another package's name, or that are typing constructs or type variables, are not looked up:
# their pages are in inventories that lie on other sites, and this build asks no other site for anything.
# The pattern excludes this package, whose names are checked: see _resolve_internal for those that have no page.
nitpick_ignore_regex = [("py:.*", r"(?!ranklens\.).*")]

_MARKUP = re.compile(r"(``.+?``|`[^`]+`|(?<![\w*])\*\w(?:[\w -]*\w)?\*(?![\w*]))", re.DOTALL)
_SECTION = re.compile(r"\s*(Args|Returns|Raises|Yields|Attributes|Source|Example|Note)s?:\s*$")


def _escape(text: str) -> str:
    """Escape what is markup in reStructuredText and plain text in our docstrings."""
    text = text.replace("\\", "\\\\")
    text = re.sub(r"([*|])", r"\\\1", text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def _inline(lines: list[str]) -> list[str]:
    """Turn `code` into ``code``, which may span lines, keep *emphasis*, and escape all other text."""
    parts = _MARKUP.split("\n".join(lines))
    for k, part in enumerate(parts):
        is_code = part.startswith("`")
        parts[k] = f"``{part.strip('`')}``" if is_code else part if k % 2 else _escape(part)
    # the plural of a `name`s
    return re.sub(r"(?<=[^\s`]``)(?=\w)", r"\\ ", "".join(parts)).split("\n")


def _process(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make a docstring valid reStructuredText: code literal, indented formulas literal blocks, doctests as they are."""
    made: list[str] = []
    paragraph: list[str] = []
    section = verbatim = False

    def finish() -> None:
        made.extend(_inline(paragraph) if paragraph else [])
        paragraph.clear()

    if what == "property" and lines:
        lines[0] = lines[0].replace(": ", " \u2013 ")  # napoleon reads what stands before a colon as a type
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            finish()
            verbatim = False
            made.append(line)
        elif verbatim:
            made.append(line)
        elif line.lstrip().startswith(">>>"):
            finish()
            verbatim = True
            made.append(line)
        elif _SECTION.match(line):
            finish()
            section = True
            made.append(line)
        elif indent >= 4 and not section and not paragraph and made:
            verbatim = True
            made += ["::", "", line]
        else:
            section = section and indent > 0
            paragraph.append(line)
    finish()
    lines[:] = made


def _resolve_internal(app: object, env: object, node: dict[str, str], text: object) -> object | None:
    """Show a name of this package as plain text if it exists but has no page: private names, type variables, internals.

    Returns:
        The text; None for a name that does not exist at all, which stays unresolved and fails the build.
    """
    module, _, name = node.get("reftarget", "").rpartition(".")
    if not module.startswith("ranklens."):
        return None
    try:
        return text if hasattr(import_module(module), name) else None
    except ModuleNotFoundError:
        return None


def setup(app: object) -> None:
    """Register the step that runs before napoleon reads a docstring, and the one for names without a page."""
    app.connect("autodoc-process-docstring", _process, priority=400)  # type: ignore[attr-defined]
    app.connect("missing-reference", _resolve_internal)  # type: ignore[attr-defined]
