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
