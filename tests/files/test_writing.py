import pytest

from ranklens.files.writing import atomic, tidy


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with atomic(path) as name:
            name.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path):
    others = [".a.txt", ".a.txt.abcdefgh.nc.txt", ".b.txt.abcdefgh.txt", ".a.txt.short.txt", "a.txt.abcdefgh.txt"]
    for name in [".a.txt.abcd_f9h.txt", *others]:
        (tmp_path / name).touch()
    (tmp_path / ".a.txt.folder01.txt").mkdir()
    with atomic(tmp_path / "a.txt") as written:
        tidy(tmp_path, ["a.txt"])
        assert {path.name for path in tmp_path.iterdir()} == {written.name, ".a.txt.folder01.txt", *others}
        written.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
