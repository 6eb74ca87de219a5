"""The rules of CONTRIBUTING.md that can be checked."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, TESTS = ROOT / "src" / "ranklens", ROOT / "tests"
COMPARISONS = ("allclose", "approx", "assert_close", "isclose")
# Tolerances written as bare numbers in calls of COMPARISONS. Lower this number whenever fewer are left.
BARE_TOLERANCES = 76


def test_every_source_file_has_a_test_file_of_its_name():
    files = (path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
    assert not [str(path) for path in files if not (TESTS / path.parent / f"test_{path.name}").exists()]


def test_oracles_import_nothing_of_the_package():
    tree = ast.parse((TESTS / "oracles.py").read_text())
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in modules if name.split(".")[0] in {"ranklens", "torch"}]


def bare_tolerances(path):
    """Lines of a test file where a comparison gets its tolerance as a number other than zero."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(COMPARISONS):
            for keyword in node.keywords:
                given = keyword.value.value if isinstance(keyword.value, ast.Constant) else 0
                if keyword.arg in {"atol", "rtol", "rel", "abs"} and given:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_the_number_of_bare_tolerances_only_falls():
    found = [line for path in sorted(TESTS.rglob("*.py")) for line in bare_tolerances(path)]
    assert len(found) <= BARE_TOLERANCES, "\n".join(found)


def test_no_test_reads_a_clock():
    for path in TESTS.rglob("test_*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & {"perf_counter", "monotonic", "process_time"}, path


def test_warnings_are_errors(pytestconfig):
    assert pytestconfig.getini("filterwarnings") == ["error"]


def test_every_dependency_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in tomllib.loads(text)["project"]["dependencies"]:
        assert re.search(rf'"{re.escape(requirement)}",? +# \w', text), f"{requirement} has no reason beside it"
