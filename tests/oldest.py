"""Build .venv-oldest from the oldest versions that pyproject.toml declares, and run the tests of the library in it.

`make test-oldest` runs this file. It takes some minutes and several GB: the package index has torch for CUDA only.
"""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-oldest"
# What is imported by the tests that run here. Their versions are free: only what a user installs is held at its floor.
TOOLS = (
    "pytest>=8",
    "hypothesis>=6.100",
    "beartype>=0.18",
    "cvxpy>=1.5",
    "onnx>=1.16",
    "onnxruntime>=1.18",
    "onnxscript>=0.3",
)
# Old versions of other packages use what newer versions of their own dependencies have deprecated.
OLD_WARNINGS = ("-W", "ignore::DeprecationWarning")
# Everything but studies, whose full runs are long, and files that need tools of development.
PARTS = ("tensors", "problems", "dynamics", "theory", "completers", "nn", "data")


def floors() -> list[str]:
    """Return each dependency at its declared floor: ``torch>=2.6`` becomes ``torch==2.6.*``."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [re.sub(r">=(.+)", r"==\1.*", requirement) for requirement in declared]


def main() -> int:
    """Install, then test; return pytest's exit code."""
    venv.create(FOLDER, with_pip=True)
    python = FOLDER / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *floors(), *TOOLS], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "-e", ROOT], check=True)
    chosen = sys.argv[1:] or [*(f"tests/{part}" for part in PARTS), "tests/test_cli.py"]
    return subprocess.run(
        [python, "-m", "pytest", "-q", "-m", "not slow", *OLD_WARNINGS, *chosen], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
