import pytest
import xarray as xr

import ranklens as rl
from ranklens import studies
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


@pytest.fixture(scope="module")
def record():
    return studies.perform("penalty_trap", studies.preset("penalty_trap", "tiny"))


def test_records_of_the_same_settings_and_version_are_kept(record, tmp_path):
    settings = {name: studies.preset(name, "tiny") for name in ("penalty_trap", "analogy", "depth")}
    assert entries.kept(tmp_path, settings) == {}
    rl.save(record, tmp_path / "penalty_trap.nc")
    rl.save(record, tmp_path / "analogy.nc")  # a record of another study
    (tmp_path / "depth.nc").write_bytes(b"damaged")
    assert [*entries.kept(tmp_path, settings)] == ["penalty_trap"]
    assert entries.kept(tmp_path, {"penalty_trap": studies.preset("penalty_trap", "laptop")}) == {}
    rl.save(record.assign_attrs(versions="ranklens 0.0"), tmp_path / "penalty_trap.nc")
    assert entries.kept(tmp_path, settings) == {}


def test_a_study_whose_files_cannot_be_written_is_a_failure(record, tmp_path):
    made = entries.made(record, "tiny", tmp_path / "r")
    assert isinstance(made, entries.Entry)
    assert (tmp_path / "r" / "penalty_trap.svg").is_file()
    (tmp_path / "r" / "penalty_trap.nc").write_text("it is there")
    assert isinstance(entries.made(record, "tiny", tmp_path / "r", has=["penalty_trap"]), entries.Entry)
    assert (tmp_path / "r" / "penalty_trap.nc").read_text() == "it is there"
    (tmp_path / "full").write_text("a file in the way of the folder")
    failed = entries.made(record, "tiny", tmp_path / "full")
    assert isinstance(failed, entries.Failure)
    assert "Error: " in failed.error
    assert entries.made(failed, "tiny", tmp_path) is failed
