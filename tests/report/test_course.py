import dataclasses
import os
import signal

import pytest
import xarray as xr

from ranklens import studies
from ranklens.report import course
from ranklens.report.entries import Failure
from ranklens.report.terminal import Board

# Studies whose tiny preset takes well below a second.
NAMES = ["penalty_trap", "matrix_dynamics"]


def test_studies_run_in_the_given_order_and_are_marked():
    board = Board(NAMES)
    settings = {name: studies.preset(name, "tiny") for name in NAMES}
    found = course.records(settings, "tiny", 1, board)
    first = next(found)
    assert first.attrs["study"] == NAMES[0]
    assert [row.state for row in board.rows.values()] == ["running", "waiting"]
    assert [record.attrs["study"] for record in found] == NAMES[1:]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_that_fails_leaves_the_others(jobs, monkeypatch):
    """The second study raises in this process; in another one its process is killed."""
    board = Board(NAMES)
    settings = {name: studies.preset(name, "tiny") for name in NAMES}
    broken = dataclasses.replace(settings[NAMES[1]], seeds=())
    found = list(course.records({**settings, NAMES[1]: broken}, "tiny", jobs, board))
    failures = [each for each in found if isinstance(each, Failure)]
    assert [each.name for each in failures] == [NAMES[1]]
    assert "Error: " in failures[0].error
    assert "Traceback" in failures[0].details
    assert [each.attrs["study"] for each in found if not isinstance(each, Failure)] == [NAMES[0]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_kept_records_are_yielded_while_studies_run(jobs):
    board = Board(NAMES[:1])
    kept = [xr.Dataset(attrs={"study": name}) for name in ("depth", "analogy")]
    found = course.records({NAMES[0]: studies.preset(NAMES[0], "tiny")}, "tiny", jobs, board, kept)
    assert next(found) is kept[0]
    assert board.rows[NAMES[0]].state == ("waiting" if jobs == 1 else "running")
    assert sorted(record.attrs["study"] for record in found) == ["analogy", NAMES[0]]
    assert [*course.records({}, "tiny", jobs, Board([]), kept)] == kept


def test_a_study_whose_process_dies_is_named(monkeypatch):
    monkeypatch.setattr(course.studies, "perform", dies_or_answers)
    settings = {name: studies.preset(name, "tiny") for name in NAMES}
    found = list(course.records(settings, "tiny", 2, Board(NAMES)))
    assert {each.name for each in found if isinstance(each, Failure)} == {NAMES[1]}
    assert "WorkerDied: its process died" in next(each.error for each in found if isinstance(each, Failure))
    assert NAMES[0] in found


def dies_or_answers(name, settings):
    if name == NAMES[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def test_lines_are_written_where_there_is_no_terminal(capsys):
    board = Board(["penalty_trap"])
    with course.following(board, plain=False) as tell:
        tell("penalty_trap")
    assert capsys.readouterr().out == "0/1 penalty_trap: waiting\n"
