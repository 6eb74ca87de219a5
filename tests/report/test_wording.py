# ruff: noqa: RUF001  (letters and signs of formulas look like others)
import re
from importlib.resources import files

import pytest

from ranklens.report import wording
from ranklens.studies.kit.claim import Claim


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("d sigma / dt = K sigma^(2 - 2/K) gamma", "d σ / dt = K σ<sup>2 − 2/K</sup> γ"),
        ("t^(L / (2L + 2))", "t<sup>L / (2L + 2)</sup>"),
        ("alpha^N, eps^2", "α<sup>N</sup>, ε<sup>2</sup>"),
        ("w11 and W2^T W2", "w<sub>11</sub> and W<sub>2</sub><sup>T</sup> W<sub>2</sub>"),
        ("sigma_r of u_r", "σ<sub>r</sub> of u<sub>r</sub>"),
        ("a 2 x 2 matrix <= -1", "a 2 × 2 matrix ≤ −1"),
        ("1.2 × 10^-7", "1.2 × 10<sup>−7</sup>"),
        ("<b> & matrix_dynamics, float64-seed", "&lt;b&gt; &amp; matrix_dynamics, float64-seed"),
    ],
)
def test_formulas_are_set(text, html):
    assert str(wording.rich(text)) == html


def test_a_term_is_linked_once_in_any_number_and_case():
    linked = set()
    html = str(wording.rich("Singular values and a singular value of low rank; sigma", linked))
    assert re.findall(r'href="#([\w-]+)"', html) == ["term-singular-value", "term-low-rank", "symbol-sigma"]
    assert linked == {"term-singular-value", "term-low-rank", "symbol-sigma"}
    assert "<a" not in wording.rich("singular values", linked)


def test_the_glossary_has_every_entry_once_in_order_without_markup():
    terms = wording.glossary()
    text = (files("ranklens") / "templates" / "glossary.md").read_text(encoding="utf-8")
    assert len(terms) == len(re.findall(r"^    \S", text, re.MULTILINE))
    assert len({term.key for term in terms}) == len(terms)
    names = [term.name.lower() for term in terms if not term.symbol]
    assert names == sorted(names)
    for term in terms:
        assert term.definition.endswith(".")
        assert not re.search(r"[`\]\[]|\.md", term.definition), term.name


def test_numbers_are_short_and_bounds_exact():
    assert [wording.short(x) for x in (1.0, 0.12345, 1e-6, 2.5e-9, 12345.6, 3e9)] == [
        "1", "0.123", "10^-6", "2.5 × 10^-9", "12346", "3 × 10^9",
    ]  # fmt: skip
    assert wording.bound(Claim("finding", "", 1.0, "<=", 0.5, "own")) == "≤ 0.5"
    assert wording.bound(Claim("finding", "", 1.0, ">=", 0.9999999, "own")) == "≥ 0.9999999"
    assert wording.bound(Claim("finding", "", 1.0, "within", (0.5, 2.0), "own")) == "0.5 to 2"


def test_tallies_are_sentences():
    made = [Claim("finding", "", x, "<=", 1.0, "own") for x in (0.5, 2.0)]
    assert wording.tally(made, "finding") == "1 of 2 findings hold"
    assert wording.tally(made[:1], "finding") == "the one finding holds"
    assert wording.tally([made[0]] * 3, "finding") == "all 3 findings hold"
    assert wording.tally(made, "theorem") == ""
