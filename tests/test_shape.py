"""The shape of the code: how long functions and files are, and that public signatures and docstrings say enough."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

import ranklens as rl

SOURCE = Path(rl.__file__).parent
# Lines of code, without the docstring, from which a function counts as long, and how many functions may be long.
LONG_FUNCTION, LONG_FUNCTIONS = 40, 10
# Lines from which a file counts as long, and below which it needs no reason any more.
LONG_FILE, SHORT_FILE = 350, 300
# Occurrences of `Any` per 100 lines of code.
MOST_ANY = 0.7
# Public functions with `Any` in their signature.
MAY_TAKE_ANYTHING = {
    "dynamics/optim.py": {"GroupRMSprop.__init__"},  # torch types groups of parameters as dict[str, Any]
    "tensors/network.py": {"TensorNetwork.__setstate__"},  # torch pickles modules as dict[str, Any]
    "training/resumable.py": {"Devices.setup", "Devices.all_reduce"},  # the signatures of lightning-fabric
}
# Files longer than LONG_FILE lines, each with the reason why it is not divided.
LONG_FILES = {
    "completers/candidates.py": "one elimination, whose least squares weigh components and decide which leave",
    "completers/matrix.py": "one estimator, whose methods are those that scikit-learn prescribes",
    "completers/regressor.py": "one estimator, whose methods are those that scikit-learn prescribes",
    "data/pathfinder.py": "one image: its strokes share the canvas that they are drawn on",
    "dynamics/end_matrix.py": "one flow in two coordinate systems, which hand over to each other",
    "dynamics/record.py": "the record of a run and how it ended, which every record states",
    "dynamics/solver.py": "one integration: stepping, ending and recording change one state",
    "nn/circuits.py": "one mapping of networks to modules and back; each direction is checked by the other",
    "studies/beyond/attention.py": "one study: settings, run, claims and figure read each other's variables",
    "studies/beyond/volume.py": "one study: settings, run, claims and figure read each other's variables",
    "studies/beyond/graph_interactions.py": "one study: exact ranks, a task on vertices, and pairs of images",
    "studies/beyond/next_component.py": "one study: two predictions, their measures, and the cases where both fail",
    "studies/beyond/state_space.py": "one study: flows, a search, a proved bound, and the published numbers beside",
    "studies/beyond/weight_decay.py": "one study: training, random updates, slopes, claims and figure",
    "studies/cp/natural_images.py": "one study, with the published numbers and presets that it is compared at",
    "studies/hierarchies/data_entanglement.py": "one study, with entropies, bounds, networks and fits of three orders",
    "studies/hierarchies/long_range.py": "one study, with checks of truncation and of the circuit at the end of runs",
    "studies/laws/optimizers.py": "one study: settings, run, claims and figure read each other's variables",
    "studies/laws/when_the_law_fails.py": "one study: settings, run, claims and figure read each other's variables",
    "studies/layers/autoencoder.py": "one study, with its controls: frozen layers, mean codes, few labels",
    "studies/layers/compressible_layers.py": "one study: kinds of layers, pruning, bounds and figure",
    "studies/layers/countering_locality.py": "one study, with a figure of six panels",
    "studies/matrices/norms_to_infinity.py": "one study, with the published numbers that it is compared with",
    "studies/matrices/nuclear_norm.py": "one study: settings, run, claims and figure read each other's variables",
    "studies/matrices/perturbed_norms.py": "one study: settings, run, claims and figure read each other's variables",
    "tensors/contract.py": "a plan and its execution walk the same tree, and would each repeat the other's cases",
    "tensors/families.py": "one constructor per family, mostly docstrings",
    "tensors/measures.py": "one function per measure, mostly docstrings",
    "tensors/network.py": "one class, whose methods are short and mostly docstrings",
    "training/resumable.py": "one training loop, its plan, and the checkpoint that continues it",
}


@dataclass(frozen=True)
class Definition:
    """A function or class of the package."""

    path: str
    name: str
    node: ast.FunctionDef | ast.ClassDef
    public: bool

    @property
    def place(self):
        return f"{self.path}:{self.node.lineno} {self.name}"

    @property
    def docstring(self):
        return ast.get_docstring(self.node) or ""

    @property
    def code_lines(self):
        """Number of lines from the first statement after the docstring to the end."""
        body = self.node.body[1:] if self.docstring else self.node.body
        return self.node.end_lineno - body[0].lineno + 1 if body else 0


def trees():
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), ast.parse(path.read_text())


def definitions(path, node, prefix="", public=True):
    """Yield the functions and classes inside a node. Those in a function, or of a private class, are private."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = child.name
            seen = public and (not name.startswith("_") or name.endswith("__"))
            yield Definition(path, prefix + name, child, seen)
            yield from definitions(path, child, f"{prefix}{name}.", seen and isinstance(child, ast.ClassDef))
        elif not isinstance(child, ast.expr):
            yield from definitions(path, child, prefix, public)


EVERYTHING = [found for path, tree in trees() for found in definitions(path, tree)]
FUNCTIONS = [found for found in EVERYTHING if isinstance(found.node, ast.FunctionDef)]


def mentions_any(*annotations):
    names = [node for given in annotations if given is not None for node in ast.walk(given)]
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in names)


def annotations(function):
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [function.returns, *(argument.annotation for argument in every if argument is not None)]


def test_public_signatures_have_types():
    found = {}
    for function in FUNCTIONS:
        if function.public and mentions_any(*annotations(function.node)):
            found.setdefault(function.path, set()).add(function.name)
    assert found == MAY_TAKE_ANYTHING


def test_any_is_rare():
    lines = sum(len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py"))
    uses = sum(mentions_any(node) for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Name))
    assert uses <= MOST_ANY * lines / 100


def test_few_functions_are_long_and_each_says_why():
    found = [function for function in FUNCTIONS if function.code_lines > LONG_FUNCTION]
    assert len(found) <= LONG_FUNCTIONS, [function.place for function in found]
    assert not [function.place for function in found if not function.docstring]


def test_long_files_have_a_reason():
    lines = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert {path for path, count in lines.items() if count > LONG_FILE} <= set(LONG_FILES)
    assert set(LONG_FILES) <= {path for path, count in lines.items() if count > SHORT_FILE}


@pytest.mark.parametrize("kind", [ast.FunctionDef, ast.ClassDef])
def test_public_docstrings_begin_with_a_sentence(kind):
    """Magic methods need none, and a setter has that of its property."""
    for found in EVERYTHING:
        magic = found.name.endswith("__")
        setter = any(ast.unparse(decorator).endswith(".setter") for decorator in found.node.decorator_list)
        if isinstance(found.node, kind) and found.public and not (magic or setter):
            summary = found.docstring.split("\n\n")[0].strip()
            assert summary.endswith("."), f"{found.place}: {summary!r}"
