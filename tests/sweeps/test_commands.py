import json

import pytest
import xarray as xr
from typer.testing import CliRunner

import ranklens as rl
from ranklens.cli import app
from ranklens.sweeps.commands import value_of, values_of

SMALL = ["--preset", "tiny", "--jobs", 1, "--set", "size=6", "--set", "rank=1", "--set", "observed=30"]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of four runs of a study, one of which stops early, and a run of a function that failed."""
    path = tmp_path_factory.mktemp("store") / "s"
    answer = call("sweep", "matrix_dynamics", "depth=2,3", "seed=0:2", "--store", path, *SMALL)
    assert answer.exit_code == 0, answer.output
    assert "4 of 4 runs" in answer.stderr
    assert f"4 runs in {path}" in answer.stdout

    def broken(a):
        raise ArithmeticError("lost")

    with pytest.warns(UserWarning, match="1 of 1 runs failed"):
        rl.sweep(broken, over={"a": [7]}, store=path, jobs=1)
    return path


def test_values_are_ranges_lists_or_words():
    assert values_of("0:3") == [0, 1, 2]
    assert values_of("6:0:-2") == [6, 4, 2]
    assert values_of("1e-3,0.1") == [1e-3, 0.1]
    assert values_of("adam,2,null") == ["adam", 2, None]
    assert values_of("[8,8],[9,9]") == [[8, 8], [9, 9]]
    assert value_of("a b") == "a b"
    with pytest.raises(ValueError, match="has step 0"):
        values_of("0:3:0")


def test_the_same_command_goes_on(store):
    answer = call("sweep", "matrix_dynamics", "depth=2", "seed=0:2", "--store", store, *SMALL)
    assert answer.exit_code == 0
    assert "2 of 2 runs, 2 of them from the store" in answer.stderr


def test_results_are_written_to_files(store, tmp_path):
    for suffix in ("nc", "csv", "png"):
        answer = call("runs", "--store", store, "--what", "matrix_dynamics", "--out", tmp_path / f"a.{suffix}")
        assert answer.exit_code == 0, answer.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "singular" in (tmp_path / "a.csv").read_text().splitlines()[0]
    data = rl.load(tmp_path / "a.nc")
    assert isinstance(data, xr.Dataset)
    assert data.loss.dims == ("depth", "seed", "row")
    assert data.attrs["swept"] == ["depth", "seed"]


def lines(*arguments):
    return call("runs", *arguments).stdout.strip().splitlines()


def test_runs_are_listed_and_chosen(store):
    assert len(lines("--store", store)) == 5
    assert len(lines("--store", store, "--what", "matrix_dynamics")) == 4
    assert len(lines("--store", store, "--where", "depth=2")) == 2
    assert len(lines("--store", store, "--where", "depth=2", "--where", "seed=1")) == 1
    assert len(lines("--store", store, "--state", "done")) == 4
    assert not lines("--store", store, "--state", "early")
    [failed] = lines("--store", store, "--state", "failed")
    assert failed.endswith("ArithmeticError: lost")
    assert "a=7" in failed
    assert lines("--store", store, "--key", failed[:8]) == [failed]


def test_a_run_is_opened_with_all_that_is_known(store):
    text = call("runs", "--store", store, "--state", "failed", "--open").stdout
    assert "Traceback" in text
    assert "in broken" in text
    text = call("runs", "--store", store, "--where", "depth=3", "--where", "seed=0", "--open").stdout
    assert "variable singular" in text
    assert ".nc" in text


def test_runs_are_removed_after_a_question(tmp_path):
    rl.sweep(lambda a: a, over={"a": [1, 2, 3]}, store=tmp_path / "s", jobs=1)
    no = CliRunner().invoke(app, ["runs", "--store", str(tmp_path / "s"), "--where", "a=1", "--delete"], input="n\n")
    assert no.exit_code == 0
    assert len(lines("--store", tmp_path / "s")) == 3
    assert call("runs", "--store", tmp_path / "s", "--where", "a=1", "--delete", "--yes").exit_code == 0
    assert len(lines("--store", tmp_path / "s")) == 2
    assert not [
        path for path in (tmp_path / "s").glob("runs/*/*") if json.loads(path.read_text())["settings"]["a"] == 1
    ]


def test_damaged_entries_are_named(tmp_path):
    rl.sweep(lambda a: a, over={"a": [1]}, store=tmp_path / "s", jobs=1)
    next((tmp_path / "s").glob("runs/*/*.json")).write_text("{")
    answer = call("runs", "--store", tmp_path / "s")
    assert "damaged: " in answer.stderr
    assert "0 runs" in answer.stderr


def test_a_failed_run_is_exit_code_3(tmp_path):
    """A tolerance of 1 is refused by the flow when it runs."""
    answer = call("sweep", "matrix_dynamics", "rtol=1,1e-6", "--store", tmp_path / "s", *SMALL)
    assert answer.exit_code == 3
    assert "1 of 2 runs failed: rtol=1" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "matrix", "depth=2"], "there is no study 'matrix'"),
        (["sweep", "matrix_dynamics", "depth"], "'depth' is no setting; write name=value"),
        (["sweep", "matrix_dynamics", "depth=2", "depth=3"], "names a setting twice"),
        (["sweep", "matrix_dynamics", "width=2", "--preset", "tiny"], "there is no setting 'width'"),
        (["sweep", "matrix_dynamics", "depth=2", "--out", "a.txt"], "end it in one of .png"),
        (["sweep", "matrix_dynamics", "depth=2", "--executor", "slurm"], "choose 'local' or 'ray'"),
        (["runs", "--store", "none"], "there is no store none"),
        (["runs", "--state", "lost"], "none of done, failed and early"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(*arguments)
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.output


def test_ctrl_c_is_exit_code_130(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ranklens.studies.perform", interrupted)
    arguments = ["sweep", "matrix_dynamics", "seed=1,2", "--preset", "tiny", "--store", tmp_path / "s", "--jobs", 1]
    answer = call(*arguments)
    assert answer.exit_code == 130
    assert "the same call goes on with the others" in answer.stderr
