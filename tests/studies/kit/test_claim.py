"""A claim computes its verdict, and takes exactly one bound."""

import math

import pytest

from ranklens.studies.kit.claim import Claim, exactness, finding, theorem


def test_claims_compute_their_verdict():
    assert Claim("theorem", "", 1.0, "<=", 1.0, "own").holds
    assert not Claim("theorem", "", 1.1, "<=", 1.0, "own").holds
    assert Claim("finding", "", 0.5, "within", (0.0, 1.0), "own").holds
    assert not Claim("finding", "", -0.5, "within", (0.0, 1.0), "own").holds
    assert not Claim("finding", "", math.inf, ">=", 1.0, "own").holds
    assert not Claim("finding", "", math.nan, "within", (0.0, 1.0), "own").holds
    with pytest.raises(ValueError, match="does not go with the bound"):
        Claim("finding", "", 1.0, "within", 1.0, "own")


MAKERS = [(theorem, "theorem"), (exactness, "exactness"), (finding, "finding")]


def test_findings_alone_may_fail():
    assert [make("x", 1.0, at_most=2.0, source="own").must_hold for make, _ in MAKERS] == [True, True, False]


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source_is_refused(source):
    with pytest.raises(ValueError, match="source is empty"):
        Claim("finding", "x", 1.0, "<=", 1.0, source)


@pytest.mark.parametrize(("make", "kind"), MAKERS)
def test_the_keyword_of_the_bound_is_the_relation(make, kind):
    assert make("x", 1.0, at_most=2.0, source="own") == Claim(kind, "x", 1.0, "<=", 2.0, "own")
    assert make("x", 1.0, at_least=2.0, source="own") == Claim(kind, "x", 1.0, ">=", 2.0, "own")
    assert make("x", 1.0, within=(0.0, 2.0), source="own") == Claim(kind, "x", 1.0, "within", (0.0, 2.0), "own")


@pytest.mark.parametrize("bound", [{}, {"below": 1.0}, {"at_most": 1.0, "at_least": 0.0}])
def test_no_bound_two_bounds_and_an_unknown_one_are_refused(bound):
    with pytest.raises(TypeError, match="exactly one of at_most, at_least, within"):
        finding("x", 1.0, source="own", **bound)
