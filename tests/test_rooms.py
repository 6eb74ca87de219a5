"""The house: imports go one way, only contract.py contracts families, and the front door is lazy and complete."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ranklens as rl

SOURCE = Path(rl.__file__).parent
ROOMS = [
    {"seeds", "trees", "log_product"},
    {"contract", "measures"},
    {"network", "losses"},
    {"families"},
    {"init", "problems", "targets", "truncation"},
    {"progress", "record", "optim", "files", "drawing"},
    {"solver", "convex"},
    {"flow", "descent", "theory", "end_matrix"},
    {"nn", "completers", "data"},
    {"studies"},
    {"report"},
    {"cli"},
]
FLOOR = {name: level for level, names in enumerate(ROOMS) for name in names}


def modules():
    return sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE)


def imports(path):
    """Rooms of the package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ranklens":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("ranklens."), "write: from ranklens import room"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    parts = path.relative_to(SOURCE).parts
    room = parts[0].removesuffix(".py")
    for other in imports(path):
        if other in FLOOR and other != room:
            assert FLOOR[other] <= FLOOR[room], f"{room} imports {other}, which stands above it"
    assert room in FLOOR


def test_only_contract_contracts():
    for name in ("families", "network", "trees", "init"):
        assert "einsum(" not in (SOURCE / f"{name}.py").read_text()


def test_front_door():
    for name in rl.__all__:
        assert getattr(rl, name) is not None
    assert sorted(dir(rl)) == sorted(rl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rl.nothing  # noqa: B018
    stub = (SOURCE / "__init__.pyi").read_text()
    promised = {alias.asname for n in ast.walk(ast.parse(stub)) if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert promised >= set(rl.__all__) - {"__version__"}


def test_importing_the_package_does_not_import_torch():
    code = "import sys, ranklens; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_nothing_is_unpickled_and_nothing_unseeded():
    for path in modules():
        text = path.read_text()
        assert not re.search(
            r"import pickle|torch\.load\((?![^)]*weights_only=True)|np\.random\.|torch\.manual_seed", text
        ), path
