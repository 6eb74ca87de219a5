from ranklens import studies
from ranklens.report import course
from ranklens.report.terminal import Board

# Studies whose tiny preset takes well below a second.
NAMES = ["penalty_trap", "linear_regression"]


def test_studies_run_in_the_given_order_and_are_marked():
    board = Board(NAMES)
    settings = {name: studies.preset(name, "tiny") for name in NAMES}
    found = course.records(settings, "tiny", 1, board)
    first = next(found)
    assert first.attrs["study"] == NAMES[0]
    assert [row.state for row in board.rows.values()] == ["running", "waiting"]
    assert [record.attrs["study"] for record in found] == NAMES[1:]


def test_lines_are_written_where_there_is_no_terminal(capsys):
    board = Board(["penalty_trap"])
    with course.following(board, plain=False) as tell:
        tell("penalty_trap")
    assert capsys.readouterr().out == "0/1 penalty_trap: waiting\n"
