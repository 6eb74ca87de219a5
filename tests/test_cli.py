import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ranklens as rl
from ranklens import studies
from ranklens.cli import app
from ranklens.studies.kit.claim import Claim

COMMAND = Path(sys.executable).parent / "ranklens"


def call(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_help_and_a_command_that_is_installed():
    answer = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=True)
    for command in ("talk", "run", "list"):
        assert command in answer.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"]])
def test_answers_without_computation_import_nothing_slow(arguments):
    code = f"import sys; sys.argv = {['ranklens', *arguments]}\nfrom ranklens.cli import main\ntry: main()\n"
    code += "except SystemExit: print({'torch', 'xarray', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "set()"


def test_list_names_every_study_with_its_minutes_and_settings():
    answer = call("list")
    assert answer.exit_code == 0
    joined = " ".join(answer.stdout.split())
    for name in studies.STUDIES:
        assert f"{name} {studies.load(name).TITLE} " in joined
    assert "seeds=(0, 1, 2, 3, 4)" in joined
    assert "presets: laptop" in joined
    assert max(map(len, answer.stdout.splitlines())) <= 80


def test_the_version_is_that_of_the_package():
    answer = call("--version")
    assert answer.exit_code == 0
    assert answer.stdout == f"ranklens {rl.__version__}\n"


def test_talk_writes_the_report(tmp_path):
    answer = call("talk", "--preset", "tiny", "--only", "matrix_dynamics", "--out", str(tmp_path / "r"))
    assert answer.exit_code == 0, answer.output
    assert "report: " in answer.stdout
    assert "1/1 matrix_dynamics: " in answer.stdout
    assert max(map(len, answer.stdout.split("report: ")[0].splitlines())) <= 80
    assert (tmp_path / "r" / "index.html").is_file()


def test_talk_opens_the_report_if_asked(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    answer = call("talk", "--preset", "tiny", "--only", "penalty_trap", "--out", str(tmp_path), "--open", "--plain")
    assert answer.exit_code == 0, answer.output
    assert opened == [(tmp_path / "index.html").resolve().as_uri()]


def test_studies_side_by_side_stand_in_the_talks_order(tmp_path):
    names = ["tensor_completion", "matrix_dynamics"]  # the talk has them the other way round
    only = [word for name in names for word in ("--only", name)]
    answer = call("talk", "--preset", "tiny", *only, "--jobs", "2", "--out", str(tmp_path))
    assert answer.exit_code == 0, answer.output
    table = answer.stdout[answer.stdout.index("study ") :]  # after the lines of the course
    assert "2/2 " not in table
    assert table.index("matrix_dynamics") < table.index("tensor_completion")
    page = (tmp_path / "index.html").read_text()
    assert page.index('id="matrix_dynamics"') < page.index('id="tensor_completion"')
    for name in names:
        assert rl.load(tmp_path / f"{name}.nc").attrs["study"] == name


def test_a_talk_with_a_study_that_raises_shows_the_others_and_can_be_resumed(tmp_path, monkeypatch):
    perform, only = studies.perform, ["--only", "penalty_trap", "--only", "linear_regression"]

    def fails(name, settings):
        if name == "linear_regression":
            raise RuntimeError("no luck <today>")
        return perform(name, settings)

    monkeypatch.setattr(studies, "perform", fails)
    (tmp_path / "mine.txt").write_text("kept")
    talk = ["talk", "--preset", "tiny", "--out", str(tmp_path), "--jobs", "1"]
    answer = call(*talk, *only)
    assert answer.exit_code == 3, answer.output
    assert "linear_regression could not be run: RuntimeError: no luck <today>" in answer.output
    page = (tmp_path / "index.html").read_text()
    assert "no luck &lt;today&gt;" in page
    assert 'id="penalty_trap"' in page
    made = (tmp_path / "penalty_trap.nc").stat().st_mtime_ns
    (tmp_path / ".penalty_trap.pdf.abcdefgh.pdf").touch()  # of a talk that was killed

    monkeypatch.setattr(studies, "perform", lambda name, how: perform(name, how) if name != "penalty_trap" else None)
    answer = call(*talk, *only, "--resume")
    assert answer.exit_code in (0, 1), answer.output
    assert 'id="linear_regression"' in (tmp_path / "index.html").read_text()
    assert made == (tmp_path / "penalty_trap.nc").stat().st_mtime_ns
    assert (tmp_path / "mine.txt").read_text() == "kept"

    answer = call(*talk, "--only", "linear_regression", "--resume")  # the page keeps the studies of the earlier talk
    assert 'id="penalty_trap"' in (tmp_path / "index.html").read_text()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
def test_a_talk_that_is_told_to_end_leaves_whole_files(number, code, tmp_path):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("Ctrl-C is switched off, as for background jobs of a shell")
    command = [COMMAND, "talk", "--preset", "tiny", "--out", tmp_path, "--plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout.readline().startswith("1/")  # one study has ended
        running.send_signal(number)
        said = running.stdout.read()
    assert running.returncode == code, said
    assert "ranklens talk --resume goes on" in (tmp_path / "index.html").read_text()
    for path in tmp_path.glob("*.nc"):
        assert rl.load(path).attrs["study"] == path.stem
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_run_changes_settings(tmp_path):
    answer = call("run", "matrix_dynamics", "--preset", "tiny", "--set", "size=10", "--out", str(tmp_path))
    assert answer.exit_code == 0, answer.output
    assert '"size": 10' in rl.load(tmp_path / "matrix_dynamics.nc").attrs["settings"]
    assert (tmp_path / "matrix_dynamics.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "there is no study 'nothing'"),
        (["run", "analogy", "--preset", "huge"], "no preset 'huge'"),
        (["run", "analogy", "--set", "deep=3"], "there is no setting 'deep'"),
        (["run", "matrix_dynamics", "--preset", "tiny", "--set", "depth=0"], "depth is 0; it must be at least 1"),
        (["run", "analogy", "--set", "seeds=[]"], "setting seeds is empty"),
        (["run", "matrix_dynamics", "--preset", "tiny", "--set", "rank=70"], "ranklens: "),
        (["run", "natural_images", "--set", "classes=11"], "class is 11; "),
        (["run", "natural_images", "--set", "train=5000"], "train is 5000; "),
        (["run", "natural_images", "--set", "every=0"], "multiple of every"),
        (["run", "analogy", "--out", __file__], "is a file; give a folder"),
        (["talk", "--only", "nothing"], "there is no study 'nothing'"),
        (["talk", "--nothing"], "No such option"),
    ],
)
def test_bad_usage_is_exit_code_2(arguments, message, tmp_path):
    answer = call(*arguments)
    assert answer.exit_code == 2
    assert message in answer.output


def test_a_failed_theorem_is_exit_code_1(tmp_path, monkeypatch):
    failed = Claim("theorem", "does not hold", 2.0, "<=", 1.0, "own")
    monkeypatch.setattr(studies.load("matrix_dynamics"), "claims", lambda record: [failed])
    answer = call("run", "matrix_dynamics", "--preset", "tiny", "--out", str(tmp_path))
    assert answer.exit_code == 1
    assert "FAILS  theorem: measured 2, expected ≤ 1\n         does not hold [own]" in answer.stdout


@pytest.mark.slow
def test_a_killed_talk_leaves_no_half_written_file(tmp_path):
    process = subprocess.Popen([COMMAND, "talk", "--preset", "tiny", "--out", tmp_path / "r"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()  # the first study's verdicts: the second is on its way
    process.kill()
    process.wait()
    process.stdout.close()
    for path in (tmp_path / "r").glob("*.nc"):
        assert "study" in rl.load(path).attrs
    assert not (tmp_path / "r" / "index.html").exists()
