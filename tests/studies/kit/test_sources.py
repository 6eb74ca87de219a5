"""Every source is named once, in words, and is the source of a claim."""

import re
from pathlib import Path

import ranklens.studies
from ranklens.studies.kit import sources

NAMES = {name: text for name, text in vars(sources).items() if name.isupper()}


def test_sources_differ_and_name_a_result():
    assert len(set(NAMES.values())) == len(NAMES)
    named = re.compile(r"\(.*\d{4}\)|^(own|classical|weak duality)\b")
    assert not [name for name, text in NAMES.items() if not named.search(text)]


def test_every_source_is_that_of_a_claim():
    text = "".join(path.read_text() for path in Path(ranklens.studies.__file__).parent.rglob("*.py"))
    assert not [name for name in NAMES if f"sources.{name}" not in text]
