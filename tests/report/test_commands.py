import signal
import threading

import pytest
import typer

from ranklens import studies
from ranklens.report import commands, course, page
from ranklens.report.terminal import Board


def test_a_file_is_no_folder(tmp_path):
    commands.check_folder(tmp_path / "new")
    (tmp_path / "a").touch()
    with pytest.raises(ValueError, match=r"--out .* is a file; give a folder"):
        commands.check_folder(tmp_path / "a")


def test_sigterm_becomes_an_exception_inside_the_block_only():
    before = signal.getsignal(signal.SIGTERM)
    with commands._terminable(), pytest.raises(commands._Terminated):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_signals_are_left_alone():
    found = []

    def run():
        with commands._terminable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def terminate(*_, **__):
    signal.raise_signal(signal.SIGTERM)


def test_sigterm_is_no_failure_of_the_study_that_runs_in_this_process(monkeypatch):
    monkeypatch.setattr(studies, "perform", terminate)
    with commands._terminable(), pytest.raises(commands._Terminated):
        list(course.records({"depth": studies.preset("depth", "tiny")}, "tiny", 1, Board(["depth"])))


@pytest.mark.parametrize(("home", "name"), [(studies, "preset"), (page, "write")], ids=["before", "after"])
def test_sigterm_before_the_first_study_and_while_the_page_is_written_has_its_exit_code(
    home, name, monkeypatch, tmp_path, capsys
):
    def raising(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(studies, "perform", raising)
    monkeypatch.setattr(home, name, terminate)
    with pytest.raises(typer.Exit) as ended:
        commands.talk(out=tmp_path / "report", preset="tiny", only=["depth"], jobs=1, plain=True)
    assert ended.value.exit_code == commands.TERMINATED_CODE
    assert "--resume goes on" in capsys.readouterr().err
    assert not list((tmp_path / "report").iterdir())
