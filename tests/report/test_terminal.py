import io

import pytest
from rich.console import Console

import ranklens as rl
from ranklens import studies
from ranklens.report import entries, terminal
from ranklens.studies.kit.claim import Claim


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
