"""Where the progress of a run is reported."""

import pytest

from ranklens import progress


def test_runs_report_to_what_surrounds_them_unless_told_otherwise():
    outer, own = [], []
    with progress.reporting_to(outer.append):
        with progress.reporter(None) as report:
            report("a")
        with progress.reporter(False) as report:
            report("b")
        with progress.reporter(own.append) as report:
            report("c")
    with progress.reporter(None) as report:
        report("d")
    assert (outer, own) == (["a"], ["c"])


def test_the_innermost_report_is_used_and_the_outer_one_restored():
    outer, inner = [], []
    with progress.reporting_to(outer.append):
        with progress.reporting_to(inner.append), progress.reporter(None) as report:
            report("a")
        with pytest.raises(RuntimeError, match="inside"), progress.reporting_to(inner.append):
            raise RuntimeError("inside")
        with progress.reporter(None) as report:
            report("b")
    assert (outer, inner) == (["b"], ["a"])
