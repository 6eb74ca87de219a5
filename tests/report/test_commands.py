import signal
import threading

import pytest

from ranklens.report import commands


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
