"""The Python that makes a run of the laboratory: the same numbers without the page."""

from ranklens.lab.experiment import EVERY, MOST_EVALUATIONS, RTOL, STEPS, UNTIL_LOSS
from ranklens.lab.knobs import Knobs

MAKERS = {
    "matrix": "rl.deep_matrix(({size}, {size}), {depth:.0f}{width}, std={start}, seed={seed})",
    "cp": "rl.cp({shape}{width}, std={start}, seed={seed})",
    "hierarchical": "rl.hierarchical({shape}{width}, std={start}, seed={seed})",
    "train": "rl.tensor_train({shape}, {bond}, std={start}, seed={seed})",
}


def script(knobs: Knobs) -> str:
    """Return a program whose variable `run` is the record of the run that the knobs describe."""
    return "\n".join(["import math", "import torch", "import ranklens as rl", "", *_problem(knobs), *_run(knobs), ""])


def _problem(knobs: Knobs) -> list[str]:
    """Return the lines that make the target and the problem."""
    if knobs.family == "example":
        return ["task = rl.Completion.counterexample()"]
    order = 2 if knobs.family == "matrix" else int(knobs.depth)
    if knobs.family == "einsum":
        order = len(knobs.einsum.replace(" ", "").partition("->")[2])
    shape = f"({knobs.size},) * {order}"
    if knobs.family == "hierarchical" and knobs.depth > 2:
        target = f"rl.targets.hierarchical({shape}, rank={knobs.rank}, seed={knobs.seed})"
    elif order == 2:
        target = f"rl.targets.low_rank_matrix({shape}, rank={knobs.rank}, seed={knobs.seed})"
    else:
        target = f"rl.targets.cp({shape}, rank={knobs.rank}, seed={knobs.seed})"
    count = f"max(1, round({knobs.observed} * target.numel()))"
    return [
        f"target = {target}",
        f"task = rl.Completion.sample(target, observed={count}, seed={knobs.seed}, noise={knobs.noise})",
    ]


def _run(knobs: Knobs) -> list[str]:
    """Return the lines that make the network, and run it."""
    ends, flows = f"until_loss={UNTIL_LOSS}", f"until_evaluations={MOST_EVALUATIONS}, rtol={RTOL}"
    if knobs.is_fraction:
        track = 'track={"sigma": rl.singular_values}'
        return [
            *_end_start(knobs),
            f"run = rl.end_matrix_flow(start, task, depth={knobs.depth}, {ends}, {flows}, {track})",
        ]
    lines = _network(knobs)
    single = "," not in knobs.einsum if knobs.family == "einsum" else knobs.depth == 1
    if knobs.imbalance and not single:
        lines += [
            "with torch.no_grad():",
            f"    net.nodes[0].mul_(math.exp({knobs.imbalance}))",
            f"    net.nodes[-1].mul_(math.exp({-knobs.imbalance}))",
        ]
    lines.append("bond = net.bonds[len(net.bonds) // 2] if net.bonds else None")
    lines.append("sizes = lambda net: rl.singular_values(net()) if len(net.shape) == 2 else net.component_norms(bond)")
    if knobs.optimizer == "flow":
        call = f"rl.gradient_flow(net, task, {ends}, {flows}"
    else:
        kind = {"descent": "torch.optim.SGD", "adam": "torch.optim.Adam", "spectral": "rl.optim.Spectral"}
        lines.append(f"optimizer = {kind[knobs.optimizer]}(net.parameters(), lr={knobs.rate})")
        call = f"rl.gradient_descent(net, task, optimizer, steps={STEPS}, every={EVERY}, {ends}"
    return [*lines, f'run = {call}, track={{"sigma": sizes}})']


def _end_start(knobs: Knobs) -> list[str]:
    """Return the line that makes the start of a flow of the end matrix."""
    if knobs.family == "example":
        return [f"start = {knobs.start} * torch.eye(2, dtype=torch.float64)"]
    scale = f"{knobs.start} ** {knobs.depth} * {knobs.size} ** {(knobs.depth - 1) / 2}"
    drawn = f"rl.deep_matrix(({knobs.size}, {knobs.size}), 1, std=1.0, seed={knobs.seed})().detach()"
    return [f"start = {scale} * {drawn}"]


def _network(knobs: Knobs) -> list[str]:
    """Return the lines that make the network at its start, without imbalance."""
    if knobs.family == "example":
        product = f"{knobs.start} * torch.eye(2, dtype=torch.float64)"
        return [f"net = rl.init.product_(rl.deep_matrix((2, 2), {knobs.depth:.0f}), {product})"]
    if knobs.family == "einsum":
        inside, _, out = knobs.einsum.replace(" ", "").partition("->")
        width = knobs.width or knobs.size
        shapes = [tuple(knobs.size if x in out else width for x in node) for node in inside.split(",")]
        return [
            f"nodes = [torch.zeros(shape, dtype=torch.float64) for shape in {shapes}]",
            f"net = rl.init.normal_(rl.TensorNetwork({knobs.einsum!r}, nodes), std={knobs.start}, seed={knobs.seed})",
        ]
    made = MAKERS[knobs.family].format(
        size=knobs.size,
        depth=knobs.depth,
        shape=f"({knobs.size},) * {int(knobs.depth)}",
        width=f", {knobs.width}" if knobs.width else "",
        bond=knobs.width or knobs.size,
        start=knobs.start,
        seed=knobs.seed,
    )
    return [f"net = {made}"]
