"""Why a completion has its rank: the errors of all sizes that were tried, when components rose, what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    import matplotlib.figure

# Share of its final value from which on a component counts as risen.
RISEN = 0.5
# Components that are listed and drawn, at most.
LISTED = 8


@dataclass(frozen=True)
class Rung:
    """A size that was tried, with the ridge that was best for it.

    Attributes:
        components: number of components at every bond, as text, such as "r: 3"; the rank of a matrix.
        ridge: the ridge, in units of the noise level.
        error: held-out root mean square error.
        chosen: whether this size was chosen.
    """

    components: str
    ridge: float
    error: float
    chosen: bool


@dataclass(frozen=True)
class Explanation:
    """The models that a fit tried, and the reasons for its choice. Its text is a report, and `rl.plot` draws it.

    Attributes:
        rmse: held-out root mean square errors of the stages of the fit.
        biases: share of the held-out mean square that the biases explain; 0 without biases.
        ladder: the sizes that were tried, from small to large.
        rises: for every leading component the step at which it had reached half of its final size.
        sizes: the final sizes of these components in the descent, in units of what the biases leave.
        coverage: {nominal share: share of held-out entries in the central interval}, of the posterior given the
            training set; empty if none was drawn.
        decisions: sentences that say what was decided, and by which numbers.
    """

    rmse: Mapping[str, float]
    biases: float
    ladder: tuple[Rung, ...]
    rises: tuple[int, ...]
    sizes: tuple[float, ...]
    coverage: Mapping[float, float]
    decisions: tuple[str, ...]

    def __str__(self) -> str:
        """Return the report."""
        parts = [*self.decisions, ""]
        if self.ladder:
            parts.append("components    ridge   held-out error")
            parts += [
                f"{rung.components:<12} {rung.ridge:>6g}   {rung.error:.6g}{'   <- chosen' if rung.chosen else ''}"
                for rung in self.ladder
            ]
            parts.append("")
        if self.rises:
            parts.append("component    size   risen at step")
            parts += [
                f"{k + 1:<9} {size:>7.3g}   {step}"
                for k, (size, step) in enumerate(zip(self.sizes, self.rises, strict=True))
            ]
            parts.append("")
        parts.append("held-out errors: " + ", ".join(f"{name} {error:.6g}" for name, error in self.rmse.items()))
        if self.coverage:
            said = ", ".join(f"{share:.0%}: {found:.1%}" for share, found in self.coverage.items())
            parts.append(f"held-out entries in the intervals of the posterior: {said}")
        return "\n".join(parts)

    __repr__ = __str__

    def draw(self) -> "matplotlib.figure.Figure":
        """Draw the ladder of sizes, the errors of the stages, the rise of the components, and the calibration."""
        from ranklens.drawing import figure, label, lines, style  # a fit that draws nothing needs no matplotlib

        made, (ladder, stages, rises, calibration) = figure(4)
        if self.ladder:
            places = np.arange(len(self.ladder))
            ladder.plot(places, [rung.error for rung in self.ladder], marker="o", **style(0))
            chosen = [k for k in places if self.ladder[k].chosen]
            ladder.plot(chosen, [self.ladder[k].error for k in chosen], "o", markersize=12, fillstyle="none", color="k")
            ladder.set_xticks(places, [rung.components for rung in self.ladder], rotation=90, fontsize=7)
        label(ladder, "sizes tried", "components", "held-out error")
        stages.bar(list(self.rmse), list(self.rmse.values()), color=style(0)["color"])
        label(stages, "stages of the fit", "", "held-out error")
        rises.plot(self.rises, self.sizes, "o", color=style(0)["color"])
        label(rises, "rise of the components", "step", "size at the end")
        shares = sorted(self.coverage)
        lines(calibration, [0.0, 1.0], [0.0, 1.0], ["nominal"])
        calibration.plot(shares, [self.coverage[share] for share in shares], "o", color=style(1)["color"])
        label(calibration, "calibration", "nominal share", "share of held-out entries")
        return made


class Explained:
    """The part of the completers that tells why a fit has its rank. A fit sets `_explanation`."""

    _explanation: Explanation

    def explain(self) -> Explanation:
        """Return why the fit has its rank: what was tried, and why it was decided as it was.

        Its text is a report, and `rl.plot` of the completer draws it: the held-out errors of all sizes that were tried,
        when the components rose, what was dropped and why, what the biases explain, and the calibration of intervals.
        """
        check_is_fitted(self)
        return self._explanation

    def draw(self) -> "matplotlib.figure.Figure":
        """Return the figure of `explain`; `rl.plot` calls it."""
        return self.explain().draw()


def rises(profile: xr.Dataset) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return when the leading components of a descent reached half of their final size, and these sizes.

    Args:
        profile: the record of a descent; of several bonds, the first counts.
    """
    name = next((str(name) for name in ("standing", "standing_0") if name in profile), None)
    if name is None:
        return (), ()
    standing, steps = profile[name].values, profile.step.values
    final = standing[-1]
    leading = [k for k in range(min(LISTED, len(final))) if final[k] > RISEN * 1e-2 * final[0] and final[k] > 0]
    risen = tuple(int(steps[np.argmax(standing[:, k] >= RISEN * final[k])]) for k in leading)
    return risen, tuple(float(final[k]) for k in leading)
