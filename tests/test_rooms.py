"""The layout of the package: imports go one way, there are few parts, and the front door is lazy and complete."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ranklens as rl

SOURCE = Path(rl.__file__).parent
# Top-level folders and files, lowest first. A part may import parts of the lines above its own, and of its own line
# only itself.
ORDER = [
    {"seeds", "threads", "progress", "drawing"},
    {"tensors"},
    {"problems"},
    {"files"},
    {"dynamics"},
    {"theory"},
    {"data", "nn", "completers"},
    {"training"},
    {"studies"},
    {"sweeps"},
    {"report", "lab"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
MOST_PARTS, MOST_ARROWS = 20, 72
STUDIES_MAY_BE_IMPORTED_BY = {"sweeps", "report", "cli", "studies"}
# Chapters of studies, and within each folder the files that nothing in the folder may import.
LEAVES = re.compile(r"ranklens\.studies\.(laws|matrices|cp|hierarchies|layers|beyond)\.")


def modules():
    return sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE)


def imported(path):
    """Full names of the modules of the package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ranklens":
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("ranklens."), "write: from ranklens.part import module"


def part_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def arrows():
    """Pairs (part, part that it imports)."""
    return {(part_of(path), name.split(".")[1]) for path in modules() for name in imported(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    part = part_of(path)
    assert part in LEVEL, f"{part} has no place in ORDER"
    for name in imported(path):
        other = name.split(".")[1]
        if other in LEVEL and other != part:
            assert LEVEL[other] < LEVEL[part], f"{part} imports {other}, which does not stand below it"


def test_there_are_few_parts_and_few_arrows():
    parts = {part_of(path) for path in modules()} | {"__init__"}
    between = {(a, b) for a, b in arrows() if a != b and b in LEVEL}
    assert len(parts) <= MOST_PARTS
    assert len(between) <= MOST_ARROWS, sorted(between)


def test_no_module_takes_part_in_a_cycle():
    names = {".".join(("ranklens", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in modules()}
    known = {name.removesuffix(".__init__"): path for name, path in names.items()}
    ahead = {
        name: {full if full in known else full.rpartition(".")[0] for full in imported(path)} & set(known) - {name}
        for name, path in known.items()
    }
    # importing `ranklens.nn.x` runs `ranklens/nn/__init__.py` first, which is not an import that anybody wrote
    done, open_ = set(), []

    def visit(name):
        if name in done:
            return
        assert name not in open_, " -> ".join([*open_[open_.index(name) :], name])
        open_.append(name)
        for other in sorted(ahead[name]):
            visit(other)
        open_.pop()
        done.add(name)

    for name in sorted(known):
        visit(name)


def test_only_the_surface_imports_studies():
    outside = [*modules(), *(SOURCE.parents[1] / "benchmarks").glob("*.py")]
    for path in outside:
        part = part_of(path) if path.is_relative_to(SOURCE) else "benchmarks"
        if part not in STUDIES_MAY_BE_IMPORTED_BY:
            assert not [name for name in imported(path) if name.startswith("ranklens.studies")], path


def test_studies_do_not_import_each_other():
    """What two studies need is in studies/kit, or in the library."""
    for path in (SOURCE / "studies").rglob("*.py"):
        assert not [name for name in imported(path) if LEAVES.match(name)], path


def test_einsum_is_called_by_the_contraction_only():
    for name in ("families", "network", "trees", "init", "layout"):
        assert "einsum(" not in (SOURCE / "tensors" / f"{name}.py").read_text()


def test_nothing_calls_what_imports_sympy():
    """Checks of torch import it, which takes half a second in every process of a sweep."""
    for path in modules():
        assert not re.search(r"torch\.(unravel_index|_check\w*)\(", path.read_text()), path


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
