import pytest
import xarray as xr

import ranklens as rl
from ranklens.report import entries
from ranklens.studies.kit.claim import Claim


def _run():
    return xr.Dataset({"loss": ("time", [1.0, 0.1])}, coords={"time": [0.0, 1.0]})


def _entry(*claims):
    return entries.Entry("a", "A", "", "", claims, rl.plot(_run()), "", {}, 1.0, "", "")


def test_records_and_figures_lie_beside_each_other(tmp_path):
    entries.keep(_entry(), _run(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"a.{kind}" for kind in ("nc", "png", "pdf", "svg")}
    assert rl.load(tmp_path / "a.nc").loss.values.tolist() == [1.0, 0.1]


@pytest.mark.parametrize(("kind", "sound"), [("theorem", False), ("exactness", False), ("finding", True)])
def test_only_claims_that_must_hold_make_a_study_unsound(kind, sound):
    claim = Claim(kind, "too large", 2.0, "<=", 1.0, "own")
    assert _entry(claim).sound == sound


def test_a_failure_names_the_study_and_the_command_without_importing_it():
    made = entries.failure("analogy", "KeyError: 'x'", "paper and ink")
    assert made.title.startswith("Three factorizations")
    assert made.command == "ranklens run analogy --preset 'paper and ink'"


def test_clear_removes_reports_only(tmp_path):
    (tmp_path / "index.html").write_text("old")
    (tmp_path / "analogy.svg").write_text("old")
    (tmp_path / "matrix_dynamics.nc").write_text("of another run")
    (tmp_path / "mine.txt").write_text("kept")
    entries.clear(tmp_path, ["analogy"])
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "matrix_dynamics.nc"}
    entries.clear(tmp_path / "none", ["analogy"])
