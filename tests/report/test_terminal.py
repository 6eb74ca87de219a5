import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from rich.console import Console

import ranklens as rl
from ranklens import studies
from ranklens.report import entries, terminal
from ranklens.studies.kit.claim import Claim

# The command of a talk that takes a second.
TALK = [sys.executable, "-c", "from ranklens.cli import main; main()", "talk"]
TALK += ["--preset", "tiny", "--only", "linear_regression"]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def made(name, *claims):
    run = rl.gradient_flow(rl.deep_matrix((2, 2), 2), rl.Completion.counterexample(), until_time=0.1)
    return entries.Entry(name, "A title", "", "", claims, rl.plot(run), "", {}, 2.25, "", "")


def claim(kind, holds):
    return Claim(kind, "The gap is small.", 0.5 if holds else 2.0, "<=", 1.0, "own")


def printed(shown, **options):
    console = Console(file=io.StringIO(), width=80, **options)
    console.print(shown)
    return console.file.getvalue()


def test_the_table_says_state_seconds_and_verdict_in_the_given_order():
    board = terminal.Board(["c", "a", "b", "d", "e"])
    board.end(made("a", claim("theorem", True), claim("finding", False)))
    board.end(made("b", claim("exactness", False)))
    board.end(made("c", claim("finding", True)))
    board.fail(entries.Failure("d", "", "ValueError", "", ""))
    lines = [line.split() for line in printed(board.final()).splitlines()[3:] if line.strip()]
    assert lines == [
        ["c", "holds", "2.2", "1", "of", "1"],
        ["a", "finding", "fails", "2.2", "1", "of", "1", "0", "of", "1"],
        ["b", "FAILS", "2.2", "0", "of", "1"],
        ["d", "ERROR"],
        ["e", "waiting"],
    ]
    assert board.line("a") == "4/5 a: finding fails, 2.2 s, must hold 1 of 1, findings 0 of 1"


def test_the_live_table_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("LINES", "20")
    monkeypatch.setenv("COLUMNS", "80")
    board = terminal.Board(studies.STUDIES)
    for name in studies.STUDIES[:9]:
        board.begin(name)
        board.end(made(name, claim("finding", True)))
    board.begin(studies.STUDIES[9])
    board.progress = "step 3 " * 40
    lines = printed(board).splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80
    assert any("running" in line and studies.STUDIES[9] in line for line in lines)
    assert any("more are waiting" in line for line in lines)


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_without_colour_there_are_no_escapes(environment):
    board = terminal.Board(["a"])
    board.fail(entries.Failure("a", "", "ValueError", "", ""))
    text = printed(board.final(), force_terminal=bool(environment), _environ=environment | {"TERM": "xterm"})
    assert "\x1b[31m" not in text
    assert "ERROR" in text


def test_claims_fit_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    long = Claim("theorem", "words " * 40, 1e-12, ">=", 1.0, "own")
    lines = terminal.claim_lines(long).splitlines()
    assert lines[0] == "  FAILS  theorem: measured 1e-12, expected ≥ 1"
    assert max(map(len, lines)) <= 60


def test_columns_stay_where_they_are_while_studies_run_and_end(monkeypatch):
    monkeypatch.setenv("LINES", "10")
    board = terminal.Board(studies.STUDIES)
    heads = []
    for name in studies.STUDIES[:6]:
        board.begin(name)
        heads.append(printed(board).splitlines()[1])
        board.end(made(name, claim("finding", False)))
        heads.append(printed(board).splitlines()[1])
    assert len(set(heads)) == 1


def test_a_study_is_named_once_above_its_claims_that_do_not_hold(capsys):
    board, entry = terminal.Board(["a"]), made("a", *(claim("finding", held) for held in (False, True, False)))
    board.end(entry)
    terminal.summarize(board, [entry])
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("a") == 1
    assert sum(line.startswith("  no") for line in lines) == 2


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["colour", "NO_COLOR"])
def test_a_talk_fits_a_terminal_of_80_columns(environment, tmp_path):
    """Without colours only the cursor is moved, and words are bold or dim."""
    left = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [*TALK, "--out", str(tmp_path / "report")]
    process = subprocess.Popen(
        command, stdin=end, stdout=end, stderr=end, env=left | {"TERM": "xterm-256color"} | environment
    )
    os.close(end)
    text = b"".join(iter(lambda: _read(screen), b"")).decode()
    os.close(screen)
    assert process.wait() == 0
    *lines, last = ESCAPE.sub("", text).splitlines()
    assert max(len(part) for line in lines for part in line.split("\r")) <= 80
    assert last == f"report: {tmp_path / 'report' / 'index.html'}"
    assert ("\x1b[32m" in text) is not bool(environment)
    assert set(ESCAPE.findall(text)) - {"\x1b[32m", "\x1b[33m", "\x1b[36m"} <= {
        f"\x1b[{code}" for code in ("0m", "1m", "2m", "2K", "1A", "?25l", "?25h")
    }


@pytest.mark.slow
def test_a_talk_in_a_pipe_writes_short_lines_without_escapes(tmp_path):
    command = [*TALK, "--out", str(tmp_path / "report")]
    left = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=left)
    *lines, last = done.stdout.splitlines()
    assert lines[0].startswith("1/1 linear_regression: ")
    assert "\x1b" not in done.stdout
    assert max(map(len, lines)) <= 80
    assert last == f"report: {tmp_path / 'report' / 'index.html'}"
    assert done.stderr == ""


def _read(screen):
    """Return what a pseudo terminal shows next, and b"" after its process has ended."""
    try:
        return os.read(screen, 65536)
    except OSError:  # what Linux answers at the end of a pseudo terminal
        return b""
