import dataclasses
import json
import signal
import threading

import pytest
import typer
import xarray as xr

import ranklens as rl
from ranklens import studies
from ranklens.dynamics.record import versions
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


def test_a_page_that_cannot_be_written_ends_no_talk(monkeypatch, tmp_path, capsys):
    """The table and the failures are printed, as on a full disk."""

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(page, "write", full)
    with pytest.raises(typer.Exit) as ended:
        commands.talk(out=tmp_path, preset="tiny", only=["penalty_trap"], jobs=1, plain=True)
    said = capsys.readouterr()
    assert ended.value.exit_code == commands.FAILED_CODE
    assert "penalty_trap" in said.out
    assert "the page cannot be written: No space left on device; ranklens talk --resume goes on" in said.err
    assert (tmp_path / "penalty_trap.nc").is_file()


def test_a_record_that_bears_no_claims_is_a_failure_beside_a_talk_of_other_studies(tmp_path, capsys):
    settings = json.dumps(dataclasses.asdict(studies.preset("depth", "tiny")))
    rl.save(xr.Dataset(attrs={"study": "depth", "settings": settings, "versions": versions()}), tmp_path / "depth.nc")
    with pytest.raises(typer.Exit) as ended:
        commands.talk(out=tmp_path, preset="tiny", only=["penalty_trap"], jobs=1, plain=True)
    assert ended.value.exit_code == commands.FAILED_CODE
    assert "depth could not be run" in capsys.readouterr().err
    assert 'id="depth"' in (tmp_path / "index.html").read_text()
