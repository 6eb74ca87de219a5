"""The wheel and the source distribution: what is in them, and that they work outside of this folder."""

import subprocess
import sys
import tarfile
import textwrap
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ranklens"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# Bytes. The package is text; more than this means that data or figures have slipped in.
LARGEST_WHEEL = 950_000
LARGEST_SDIST = 5_000_000

CONSUMER = """
import torch
import ranklens as rl

target: torch.Tensor = rl.targets.low_rank_matrix((6, 6), rank=1)
task: rl.Completion = rl.Completion.sample(target, observed=20)
net: rl.TensorNetwork = rl.deep_matrix((6, 6), depth=3)
run = rl.gradient_flow(net, task, until_loss=1e-3, track={"s": lambda net: rl.singular_values(net.tensor())})
loss: float = float(run["loss"][-1])
sigma: torch.Tensor = net.component_norms("r1")
rank: torch.Tensor = rl.effective_rank(net.tensor().detach())
layer: torch.nn.Linear = torch.nn.Linear(4, 4)
deep: torch.nn.Linear = rl.nn.overparameterize(layer, depth=2)
plain: torch.nn.Linear = rl.nn.collapse(deep)
small = rl.nn.compress(plain, energy=0.9)
again: torch.nn.Module = small.model
rate: torch.Tensor = rl.theory.component_rate(net, task, "r1")
filled = rl.MatrixCompleter(max_steps=20).fit_transform(target.numpy())
assert net.shape == (6, 6) and loss < 1e-2 and filled.shape == (6, 6)
print("works", rl.__version__)
"""


def output(*command, cwd=ROOT):
    """Run a command, which must succeed, and return what it prints."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


def packages_of(python):
    """The folder into which a Python interpreter installs packages."""
    return output(python, "-c", "import site; print(site.getsitepackages()[0])")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Paths of a wheel and a source distribution, built without a network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_holds_the_package_and_nothing_else(built):
    wheel, _ = built
    assert wheel.name == f"ranklens-{VERSION}-py3-none-any.whl"
    assert wheel.stat().st_size <= LARGEST_WHEEL
    names = zipfile.ZipFile(wheel).namelist()
    own = {name for name in names if name.startswith("ranklens/")}
    described = {name for name in names if name.startswith(f"ranklens-{VERSION}.dist-info/")}
    files = {path for path in SOURCE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert own == {str(path.relative_to(SOURCE.parent)) for path in files}
    assert own | described == set(names)
    assert {
        "ranklens/py.typed",
        "ranklens/__init__.pyi",
        "ranklens/templates/report.html",
        "ranklens/templates/chapters.toml",
    } <= own


def test_the_source_distribution_builds_and_tests_itself(built):
    _, sdist = built
    assert sdist.stat().st_size <= LARGEST_SDIST
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/ranklens/__init__.py", "tests/conftest.py"} <= names
    unwanted = (".venv", "report/", "docs/_build", ".git/", ".stamp")
    assert not [name for name in names if name.startswith(unwanted)]


def test_version_is_the_same_everywhere():
    assert f"version: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def elsewhere(built, tmp_path_factory):
    """The python of an environment that has the wheel and, by a path file, the dependencies of this environment."""
    wheel, _ = built
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    output(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    # A plain line would also run the path files of the other environment, and with them its editable ranklens.
    line = f"import sys; sys.path.append({packages_of(sys.executable)!r})\n"
    (Path(packages_of(python)) / "dependencies.pth").write_text(line)
    return python


@pytest.mark.slow
def test_the_wheel_works_from_another_folder(elsewhere, tmp_path):
    (tmp_path / "consumer.py").write_text(CONSUMER)
    assert output(elsewhere, "consumer.py", cwd=tmp_path).split() == ["works", VERSION]
    where = output(elsewhere, "-c", "import ranklens; print(ranklens.__file__)", cwd=tmp_path)
    assert not Path(where).is_relative_to(ROOT)
    command = elsewhere.parent / "ranklens"
    output(command, "run", "matrix_dynamics", "--preset", "tiny", "--out", "report", cwd=tmp_path)
    assert (tmp_path / "report" / "matrix_dynamics.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("checker", [["mypy", "--strict"], ["basedpyright", "--level", "error"]], ids=lambda c: c[0])
def test_types_that_a_user_sees(checker, elsewhere, tmp_path):
    (tmp_path / "consumer.py").write_text(CONSUMER)
    settings = """
        [tool.mypy]
        ignore_missing_imports = true
        [tool.basedpyright]
        typeCheckingMode = "standard"
    """
    (tmp_path / "pyproject.toml").write_text(textwrap.dedent(settings))
    # mypy reads `ranklens` where it is installed without a path file; basedpyright reads the environment of `elsewhere`
    argument = ["--python-executable", sys.executable] if checker[0] == "mypy" else ["--pythonpath", elsewhere]
    script = Path(sys.executable).parent / checker[0]
    answer = subprocess.run(
        [script, *checker[1:], *argument, "consumer.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_source_files_on_the_path_work_without_an_installation(tmp_path):
    """Where nothing is installed, as on a machine to which the folder was copied, the version is unknown."""
    script = """
import importlib.metadata
def version(name, real=importlib.metadata.version):
    if name == "ranklens":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
import ranklens as rl
task = rl.Completion.sample(rl.targets.low_rank_matrix((4, 4), rank=1), observed=9)
run = rl.gradient_flow(rl.deep_matrix((4, 4), depth=2), task, until_time=1.0)
print(rl.__version__, run.attrs["versions"])
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert said.stdout.startswith("unknown ranklens unknown, torch ")
