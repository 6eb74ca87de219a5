"""State space models: gradient flow lowers the rank of their Hankel matrix, until one rightly labelled sequence."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ranklens import drawing, problems, seeds
from ranklens.dynamics import flow
from ranklens.dynamics.record import ignoring_early_stops
from ranklens.studies.kit import laws, records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding, theorem
from ranklens.tensors import measures
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.state_space import StateSpace

TITLE = "A state space model learns one state at a time, until one rightly labelled sequence undoes it"
EXPLANATION = (
    "A student with many states is trained by gradient flow from a small initialization on a sequence that a teacher "
    "labels. One state wins, so the Hankel matrix of what the student remembers has effective rank 1, and the student "
    "is right at delays that it never saw. A single further sequence, labelled by the same teacher, makes several "
    "states grow together and the student wrong there; one more sequence repairs it."
)
SOURCE = "Slutzky, Alexander, Razin, Cohen (2024), theorem on clean-label poisoning and its experiments"


@dataclass(frozen=True)
class Settings:
    """Students with diagonal transition A and B = C = 1, and the teacher A = diag(1, 0) with equal response at delay 0.

    All sequences have T time steps and the output at the last of them counts, so an impulse k steps before the end
    shows the impulse response at delay k.

    Attributes:
        states: numbers of states of the students.
        lengths: number T of time steps for each of them, odd.
        stds: the initial states are uniform between 0 and this number, for each number of states.
        gaps: difference between the two largest initial states, for each number of states.
        delays: number of delays at which student and teacher are compared.
        draws: number of random sequences of norm 1 with which the search begins, beside all impulses.
        steps: number of random changes that the search makes to the best sequence.
        search_seed: seed of the initial states on which the search is made, and of its random sequences.
        until_loss: training loss at which a flow ends.
        rtol: relative tolerance of the solver.
        until_evaluations: number of gradient evaluations at which a flow ends at the latest.
        seeds: seeds of the initial states.
    """

    states: tuple[int, ...] = (10, 20)
    lengths: tuple[int, ...] = (7, 9)
    stds: tuple[float, ...] = (1e-3, 5e-3)
    gaps: tuple[float, ...] = (1.53e-8, 5.06e-12)
    delays: int = 20
    draws: int = 16
    steps: int = 16
    search_seed: int = 100
    until_loss: float = 1e-16
    rtol: float = 1e-5
    until_evaluations: int = 6000
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(draws=200, steps=200, rtol=1e-6, until_evaluations=20_000, seeds=tuple(range(20))),
    "tiny": Settings(
        states=(3,),
        lengths=(5,),
        stds=(0.3,),
        gaps=(1e-2,),
        delays=8,
        draws=1,
        steps=1,
        until_loss=1e-5,
        rtol=1e-3,
        seeds=(0,),
    ),
}
MINUTES = {"laptop": 0.8, "paper": 15.0, "tiny": 0.02}
# What is trained on: the impulse at the first time step, with further sequences.
DATA = ("baseline", "special", "found", "special, repaired", "found, repaired")
# Those of them that show the delays 1, 2 and an even delay, which only the teacher's response fits.
REPAIRS = DATA[3:]
# Published mean extrapolation errors on baseline and special data, by the number of states of the student.
PUBLISHED = {10: (0.00127, 0.0501), 20: (0.00734, 0.0351)}
# Relative deviation from the published errors that counts as agreement: four other initializations were averaged there.
AGREES = 0.2
# Absolute error per step of the solver: far below the difference of the two largest initial states.
ATOL = 1e-20
# Share of the error on the baseline below which a student counts as repaired.
REPAIRED = 0.1
# Rows of a record from one evaluation of the ranks to the next.
EVERY = 5
# Number of gradient evaluations at which flows of the search end at the latest.
SEARCH_EVALUATIONS = 2000
# Largest training loss of a student that counts as fitted.
FITTED = 1e-8
# First step of the search, relative to the norm of the sequence, and its factors after a success and a failure.
STEP, LONGER, SHORTER = 0.5, 1.5, 0.85


@ignoring_early_stops()
def run(settings: Settings) -> xr.Dataset:
    """Return errors, ranks and losses of every student, the found sequences, and curves of the first seed."""
    return xr.concat(
        [_of_size(settings, k) for k in range(len(settings.states))], dim="states", join="outer"
    ).assign_coords(states=list(settings.states))


def _of_size(settings: Settings, k: int) -> xr.Dataset:
    """Return the record of the students of one size: the search, and flows on all data from all seeds."""
    found, one_hot = search(settings, k)
    rows = []
    for name in DATA:
        extra = sequences(settings.lengths[k], name, found)
        students = [_student(settings, k, extra, seed) for seed in settings.seeds]
        rows.append(xr.concat(students, dim="seed", join="outer"))
    record = xr.concat(rows, dim="data", join="outer").assign_coords(data=list(DATA), seed=list(settings.seeds))
    curves = [name for name in record if "row" in record[name].dims or "delay" in record[name].dims]
    record = record.assign({name: record[name].isel(seed=0) for name in curves})
    record["found"], record["one_hot"] = ("position", found), ("position", one_hot)
    record["share_of_bound"] = (("repair", "seed"), [_shares_of_bound(settings, k, record, data) for data in REPAIRS])
    return record.assign_coords(position=np.arange(1, len(found) + 1), repair=list(REPAIRS))


def _shares_of_bound(settings: Settings, k: int, record: xr.Dataset, data: str) -> list[float]:
    """Return the extrapolation error divided by `repaired_bound`, for every seed."""
    states, length = settings.states[k], settings.lengths[k]
    count = len(sequences(length, data, np.zeros(length)))
    at = record.sel(data=data)
    return [
        float(error) / repaired_bound(float(loss), count, states, length - 1, settings.delays)
        for error, loss in zip(at.error.values, at.training_loss.values, strict=True)
    ]


def start(settings: Settings, k: int, seed: int) -> StateSpace:
    """Return a student before training: uniform states, the largest first, the second just below the first.

    Args:
        settings: the settings.
        k: which of the sizes.
        seed: seed of the states.
    """
    drawn = torch.rand(settings.states[k], generator=seeds.stream(seed, "student"), dtype=torch.float64)
    A = (settings.stds[k] * drawn).sort(descending=True).values
    A[1] = A[0] - settings.gaps[k]
    return StateSpace(A)


def teacher(states: int) -> StateSpace:
    """Return the teacher of students with so many states: responses `states`, 1, 1, 1, ... at delays 0, 1, 2, ..."""
    return StateSpace([1.0, 0.0], B=[1.0, states - 1.0])


def sequences(length: int, data: str, found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the training sequences, one per row.

    Args:
        length: number of time steps.
        data: one of `DATA`.
        found: the sequence that the search found.
    """
    impulse = np.eye(length)[::-1]  # row k shows delay k
    further = {
        "baseline": [],
        "special": [impulse[1]],
        "found": [found],
        "special, repaired": [impulse[1], impulse[2]],
        "found, repaired": [found, *impulse[1:-1]],
    }
    return np.stack([impulse[-1], *further[data]])


def train(
    settings: Settings, k: int, inputs: NDArray[np.float64], seed: int, *, searching: bool = False
) -> tuple[StateSpace, xr.Dataset]:
    """Return a student that was trained on sequences with the teacher's labels, and the record of its flow.

    Args:
        settings: the settings.
        k: which of the sizes.
        inputs: (m, time) sequences.
        seed: seed of the initial states.
        searching: whether the flow ends after `SEARCH_EVALUATIONS` at the latest, and nothing is tracked.
    """
    student = start(settings, k, seed)
    task = problems.Sequences.labelled(inputs, teacher(len(student)), student)
    net = student.network()

    def ranks(net: TensorNetwork) -> Tensor:
        """Return the effective ranks of what is remembered and of A, and whether the order of the states is kept."""
        model = task.trained(net)
        kept = (model.A.diff() <= settings.rtol * model.A.abs().max()).all().double()
        return torch.stack([memory_rank(model, settings.delays), diagonal_rank(model), kept])

    record = flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_loss,
        until_evaluations=SEARCH_EVALUATIONS if searching else settings.until_evaluations,
        rtol=settings.rtol,
        atol=ATOL,
        track=None if searching else {"ranks": laws.Sometimes(EVERY, ranks)},
    )
    return task.trained(net), record


def memory_rank(model: StateSpace, delays: int) -> Tensor:
    """Return the effective rank of the Hankel matrix of the responses at delays 1, 2, ..., without the immediate one.

    Args:
        model: a state space model.
        delays: number of delays, with delay 0.
    """
    return measures.effective_rank(measures.hankel(model.impulse_response(delays)[1:]))


def diagonal_rank(model: StateSpace) -> Tensor:
    """Return the effective rank of the matrix A, whose singular values are the absolute values of its diagonal."""
    return measures.effective_rank_of(model.A.abs())


def _student(settings: Settings, k: int, inputs: NDArray[np.float64], seed: int) -> xr.Dataset:
    """Return what is measured of one student, at the end of its flow and along it."""
    model, record = train(settings, k, inputs, seed)
    before, right = start(settings, k, seed), teacher(settings.states[k])
    response = model.impulse_response(max(settings.delays, 2 * len(model) + 2))
    row = np.arange(len(record.time))[::EVERY]
    ranks = record["ranks"].values[row]
    return xr.Dataset(
        {
            "error": float(model.extrapolation_error(right, settings.delays)),
            "training_loss": float(record.loss[-1]),
            "solver_steps": float(record.attrs["steps"]),
            "memory_rank": float(memory_rank(model, settings.delays)),
            "diagonal_rank": float(diagonal_rank(model)),
            "hankel_rank": float(measures.hankel_rank(response)),
            "order_kept": reduce.least(ranks[:, 2]),
            "drift": drift(before, model, settings.lengths[k] - 1),
            "curve_rank": ("row", ranks[:, 0]),
            "response": ("delay", response[: settings.delays].numpy()),
        },
        coords={"row": row},
    )


def drift(before: StateSpace, after: StateSpace, delay: int) -> float:
    """Return the largest relative change of A_1^-p - A_r^-p over all states r > 1, with p = delay - 2.

    A flow that fits the response at one delay has dA_r/dt = c(t) A_r^(delay - 1) for all states r, so all A_r^-p fall
    by one common amount, and their differences are conserved.

    Args:
        before: the student before training, with positive states.
        after: the student after training.
        delay: the delay that is fitted.
    """
    power = 2 - delay
    first, last = (model.A.detach().abs() ** power for model in (before, after))
    first, last = first - first[0], last - last[0]
    return float((last[1:] / first[1:] - 1).abs().max())


def search(settings: Settings, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the worst sequence found beside the baseline, and the errors after each impulse.

    A sequence of norm 1 is added to the baseline with the label of the teacher, a student is trained on both from the
    initial states of `search_seed`, and its extrapolation error counts if it fits both. The search takes the worst of
    all impulses and of some random sequences, and then changes it at random as long as that makes it worse.

    Args:
        settings: the settings.
        k: which of the sizes.

    Returns:
        The sequence, and one error per time step of an impulse, from the first time step to the last.
    """
    length = settings.lengths[k]
    drawn = seeds.stream(settings.search_seed, f"search of {length} steps")

    def unit() -> NDArray[np.float64]:
        u = torch.randn(length, generator=drawn, dtype=torch.float64)
        return (u / u.norm()).numpy()

    def error(u: NDArray[np.float64]) -> float:
        inputs = np.stack([np.eye(length)[0], u])
        model, record = train(settings, k, inputs, settings.search_seed, searching=True)
        if not float(record.loss[-1]) <= max(FITTED, settings.until_loss):
            return -np.inf
        return float(model.extrapolation_error(teacher(len(model)), settings.delays))

    one_hot = np.array([error(u) for u in np.eye(length)])
    tried = [*np.eye(length), *(unit() for _ in range(settings.draws))]
    errors = [*one_hot, *(error(u) for u in tried[length:])]
    best, worst, step = tried[int(np.argmax(errors))], max(errors), STEP
    for _ in range(settings.steps):
        changed = best + step * unit()
        changed = changed / np.linalg.norm(changed)
        found = error(changed)
        better = found > worst
        step *= LONGER if better else SHORTER
        best, worst = (changed, found) if better else (best, worst)
    return best, one_hot


def repaired_bound(loss: float, count: int, states: int, delay: int, delays: int) -> float:
    """Return the largest extrapolation error of a student that fits the delays 1, 2 and an even `delay` to some loss.

    With q_r = A_r^2, m = delay / 2 and residuals e of at most sqrt(count * loss), sum q <= 1 + e and sum q^m >= 1 - e.
    Because sum q^m <= max(q)^(m - 1) sum q, one q is at least ((1 - e) / (1 + e))^(1 / (m - 1)); all others share what
    is left, h, and the sum of their |A_r| is at most sqrt((states - 1) h). This sum bounds what they add to any delay,
    and the response at delay 1 excludes that the large A_r is negative.

    Args:
        loss: mean squared error over the training sequences.
        count: number of training sequences, among them impulses that show the three delays.
        states: number of states, with B = C = 1.
        delay: the even delay, at least 4.
        delays: number of delays that are compared, at which the teacher responds with `states`, 1, 1, ...
    """
    e, m = min(1.0, (count * loss) ** 0.5), delay // 2
    largest = ((1 - e) / (1 + e)) ** (1 / (m - 1))
    others = ((states - 1) * (1 + e - largest)) ** 0.5
    own = max(1 - largest ** ((delays - 1) / 2), (1 + e) ** ((delays - 1) / 2) - 1)
    return (own + others) / states


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: laws along the flow, published errors, ranks, what the search found, and the repair."""
    return [*_laws(record), *_published(record), *_found(record), *_repaired(record)]


def _laws(record: xr.Dataset) -> list[Claim]:
    """Return what must hold along every flow."""
    settings = records.settings_of(record, Settings)
    steps, delay = reduce.largest(record.solver_steps.sel(data="baseline")), max(settings.lengths) - 1
    return [
        theorem(
            "On the baseline, where only one delay k is shown, all A_r^-(k - 2) fall by a common amount: relative "
            "change of their differences from that of the largest state, largest of all states, sizes and "
            f"{reduce.count(record.seed)}. The bound is rtol times the steps of the longest flow ({steps:.0f}), times "
            f"k - 1 = {delay - 1}, because a relative error e of a small difference becomes one of (k - 1) e",
            reduce.largest(record.drift.sel(data="baseline")),
            at_most=settings.rtol * steps * (delay - 1),
            source=sources.OWN_DERIVATION,
        ),
        theorem(
            "States never overtake each other, because two equal states would stay equal: 1 if at all recorded times "
            "no state exceeds one that began larger by more than rtol times the largest state, least of all flows",
            reduce.least(record.order_kept),
            at_least=1.0,
            source=sources.OWN_DERIVATION,
        ),
        exactness(
            "The Hankel matrix of a model with d states has rank at most d: numerical rank of the matrix of 2 d + 2 "
            "delays or more, divided by d, largest of all students after training",
            reduce.largest(record.hankel_rank / record.states),
            at_most=1.0,
            source=sources.HANKEL,
        ),
    ]


def _published(record: xr.Dataset) -> list[Claim]:
    """Return the comparison with the published errors, and the ranks that go with them."""
    sizes = [int(states) for states in record.states.values if int(states) in PUBLISHED]
    compared = [
        finding(
            f"Student of {states} states, {data} data: extrapolation error (largest difference from the teacher's "
            f"impulse response at {records.settings_of(record, Settings).delays} delays, divided by the largest "
            f"response), mean of {reduce.count(record.seed)}, divided by the published {PUBLISHED[states][k]}",
            reduce.mean(record.error.sel(states=states, data=data)) / PUBLISHED[states][k],
            within=(1 - AGREES, 1 + AGREES),
            source=sources.STATE_SPACE,
        )
        for states in sizes
        for k, data in enumerate(DATA[:2])
    ]
    memory, diagonal = (_ratios(record, name, "special") for name in ("memory_rank", "diagonal_rank"))
    return [
        *compared,
        finding(
            "One special sequence (an impulse one step before the end) keeps the flow from lowering the rank: "
            "effective rank of the Hankel matrix at delays 1, 2, ..., with it divided by without it, least of all "
            f"sizes and {reduce.count(record.seed)}",
            reduce.least(memory),
            at_least=1.15,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "One special sequence raises the effective rank of the transition matrix A: with it divided by without "
            f"it, least of all sizes and {reduce.count(record.seed)}",
            reduce.least(diagonal),
            at_least=3.0,
            source=sources.STATE_SPACE,
        ),
    ]


def _ratios(record: xr.Dataset, name: str, data: str) -> NDArray[np.float64]:
    """Return a variable on some data divided by the same variable on the baseline, for all sizes and seeds."""
    return (record[name].sel(data=data) / record[name].sel(data="baseline")).values


def _found(record: xr.Dataset) -> list[Claim]:
    """Return what the search found."""
    settings = records.settings_of(record, Settings)
    shares = []
    for states, length in zip(settings.states, settings.lengths, strict=True):
        errors = record.one_hot.sel(states=states).values[:length]
        special = errors[-2]
        shares.append(reduce.largest(np.delete(errors, -2)) / special)
    worse = record.error.sel(data="found").median("seed", skipna=False) / record.error.sel(data="special").median(
        "seed", skipna=False
    )
    return [
        finding(
            "Of all impulses, only the one a step before the end poisons: extrapolation error with any other impulse "
            "as the second sequence, divided by the error with this one, largest of all positions and sizes",
            reduce.largest(shares),
            at_most=0.4,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "A search finds a sequence that poisons more than the special one, also from initial states that it never "
            f"saw: extrapolation error with the found sequence divided by that with the special one, medians of "
            f"{reduce.count(record.seed)}, least of all sizes",
            reduce.least(worse),
            at_least=3.0,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "Students are wrong although they fit: training loss at the end on the baseline, with the special and "
            "with the found sequence, largest of all flows",
            reduce.largest(record.training_loss.sel(data=list(DATA[:3]))),
            at_most=FITTED,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _repaired(record: xr.Dataset) -> list[Claim]:
    """Return that further impulses repair both poisoned data sets."""
    baseline = record.error.sel(data="baseline").min("seed", skipna=False)
    ratios = record.error.sel(data=list(REPAIRS)) / baseline
    return [
        theorem(
            "Impulses that show the delays 1, 2 and an even delay leave one student only, that of rank 1: "
            "extrapolation error divided by its bound by the training loss, largest of all repaired students",
            reduce.largest(record.share_of_bound),
            at_most=1.0,
            source=sources.OWN_DERIVATION,
        ),
        finding(
            "One more impulse, which shows delay 2, repairs the data with the special sequence: share of the students "
            f"whose extrapolation error with it is less than {REPAIRED:g} of the least on the baseline, of all sizes "
            "and seeds. A student that is not repaired is stuck at a training loss that is not small",
            reduce.share(ratios.sel(data=REPAIRS[0]).values, lambda x: x < REPAIRED),
            at_least=1.0,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "Impulses that show all delays repair the data with the found sequence: share of the students whose "
            f"extrapolation error with them is less than {REPAIRED:g} of the least on the baseline, of all sizes and "
            "seeds",
            reduce.share(ratios.sel(data=REPAIRS[1]).values, lambda x: x < REPAIRED),
            at_least=1.0,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: rank along the flow, errors by data, errors by impulse, and impulse responses."""
    made, (ranks, errors, impulses, responses) = drawing.figure(2, 2)
    first = record.isel(states=0)
    for k, data in enumerate(DATA[:3]):
        at = first.sel(data=data)
        name = f"{data}: {('one sequence', 'one more, published', 'one more, searched')[k]}"
        ranks.plot(record.row, at.curve_rank, label=name, **drawing.style(k))
        responses.plot(at.response, label=name, **drawing.style(k))
    right = teacher(int(first.states)).impulse_response(len(first.response[0]))
    responses.plot(right.numpy(), label="teacher", **drawing.THEORY)
    responses.set_xlim(1, None)
    shown = first.response.sel(data=list(DATA[:3])).values[:, 1:]
    responses.set_ylim(min(0.0, float(shown.min())) - 0.2, 1.4 * max(1.0, float(shown.max())))  # space for the legend
    ranks.set_ylim(0.9, 1.3 * float(first.curve_rank.sel(data=list(DATA[:3])).max()))  # space for the legend
    _draw_errors(errors, record)
    _draw_impulses(impulses, record)
    drawing.label(ranks, "Poison keeps the rank up", "steps of the solver", "effective number of states")
    drawing.label(responses, f"What {int(first.states)} states remember", "delay", "impulse response")
    drawing.note(ranks, "one more sequence:\nmore states grow", 0.97, 0.5)
    drawing.note(errors, "special, found: wrong\nrepaired: right", 0.97, 0.4)
    drawing.note(impulses, "only delay 1 misleads", 0.97, 0.1)
    drawing.note(responses, "found: nothing like the teacher", 0.97, 0.15)
    ranks.legend(fontsize=7, loc="upper left")
    responses.legend(fontsize=7, loc="upper right")
    impulses.legend(fontsize=7, loc="upper right")
    return made


def _draw_errors(axes: Axes, record: xr.Dataset) -> None:
    """Draw the extrapolation error of every seed by data and size, with the published means."""
    for k, states in enumerate(record.states.values):
        at = record.error.sel(states=states)
        place = np.arange(len(DATA)) + 0.3 * k
        axes.plot(place, at.transpose("data", "seed"), "o", color=drawing.COLOURS[k], markersize=4, alpha=0.6)
        axes.lines[-1].set_label(f"{int(states)} states")
        published = PUBLISHED.get(int(states), ())
        axes.plot(place[: len(published)], published, "k_", markersize=10, label=None if k else "published")
    axes.set_yscale("log")
    axes.set_xticks(np.arange(len(DATA)), [name.replace(", ", ",\n") for name in DATA], fontsize=7)
    axes.legend(fontsize=7, loc="lower left")
    drawing.label(axes, "One sequence poisons, another repairs", "training data", "extrapolation error (log scale)")


def _draw_impulses(axes: Axes, record: xr.Dataset) -> None:
    """Draw the extrapolation error with one more impulse, by the delay that the impulse shows."""
    settings = records.settings_of(record, Settings)
    for k, (states, length) in enumerate(zip(settings.states, settings.lengths, strict=True)):
        errors = record.one_hot.sel(states=states).values[:length]
        axes.plot(np.arange(length)[::-1], errors, marker="o", label=f"{states} states", **drawing.style(k))
    axes.set_yscale("log")
    drawing.label(
        axes, "Only delay 1 poisons", "delay that the second impulse shows", "extrapolation error (log scale)"
    )


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    parts = [
        f"{int(states)} states: "
        + ", ".join(f"{data} {float(record.error.sel(states=states, data=data).median()):.2g}" for data in DATA)
        for states in record.states.values
    ]
    first = record.isel(states=0)
    ranks = ", ".join(f"{data} {float(first.memory_rank.sel(data=data).median()):.2f}" for data in DATA[:3])
    return (
        f"Upper left: effective rank of the Hankel matrix along the flow, at its end {ranks}. Upper right: "
        f"extrapolation errors by training data, medians of the seeds: {'; '.join(parts)}. Lower left: of all "
        f"impulses as second sequence, that of delay 1 makes the largest error. Lower right: impulse responses of the "
        f"students and of the teacher, whose response is 1."
    )
