"""The rule that ends a descent on observed entries: when neither the data nor the components promise any more."""

import math
from dataclasses import dataclass, field

from torch import Tensor

# An improvement of the held-out loss resets patience only if it is at least 1% of the loss ...
BETTER = 0.99
# ... and at least this share of the initial held-out loss. The polish refines further than a descent would.
GAIN = 1e-3
# Training loss, relative to the initial one, at which the data count as fitted and the descent ends.
FITTED = 1e-6
# Training loss, relative to the initial one, above which the plateau of the initialization has not been left.
ESCAPED = 0.98
# Steps that the descent waits for at least, after the plateau and after every improvement.
WAIT = 100
# Held-out loss of a matrix, relative to the least one, above which the descent overfits. Tensors have no such bound:
# their held-out loss may rise by a quarter while components compete, and fall again.
OVERFITTED = 1.02
# Factor by which a component grows within `WAIT` steps if it is on its way.
GROWS = 1.1


@dataclass(frozen=True)
class Evaluation:
    """The state of a descent at a step.

    Attributes:
        step: the step.
        train_loss: mean squared error of the training entries, averaged over the steps since the last evaluation.
        held_out_loss: mean squared error of the held-out entries.
        spectra: what `spectra` returns for the network: vectors of component sizes in descending order.
    """

    step: int
    train_loss: float
    held_out_loss: float
    spectra: list[Tensor]

    def grows_since(self, before: "Evaluation") -> bool:
        """Return whether a component is larger, by more than the factor `GROWS`, than the one of its place before."""
        return any(
            bool((now[: len(then)] > GROWS * then[: len(now)]).any())
            for now, then in zip(self.spectra, before.spectra, strict=True)
        )


@dataclass
class StoppingRule:
    r"""The rule that ends a descent.

    A small initialization is a plateau, and further plateaus follow, one per component. On a plateau no loss changes,
    so a patience counted in steps would end the run there. Let s_0 be the step at which the training loss had left its
    initial plateau, and s* the step at which the held-out loss last improved by enough. The rule stops no descent
    before s_0, nor within the `WAIT` steps after max(s*, s_0). Later it stops the descent

    - as "worse", if the held-out loss exceeds the least one so far by the factor `overfitted`;
    - as "settled", if no component has grown by the factor `GROWS` within the last `WAIT` steps. A component that is
      still to come would have: a small one of three factors grows as (1 - s / s_1)^-3 until the step s_1 at which it
      has formed, which is more than a factor of 1.1 per 100 steps if s_1 is less than 3,000 steps away;
    - as "held-out", after the step patience * max(s*, s_0) + `WAIT`.

    Attributes:
        patience: the factor in the last line.
        overfitted: the factor in the first line.
        history: the evaluations so far.
        improved: the last evaluation at which the held-out loss improved by enough.
        escape: the step s_0, or None before the plateau is left.
    """

    patience: float
    overfitted: float = math.inf
    history: list[Evaluation] = field(default_factory=list)
    improved: Evaluation | None = None
    escape: int | None = None

    def reason(self, now: Evaluation) -> str | None:
        """Return why the descent should stop after an evaluation, in one word; None if it should go on.

        Args:
            now: the evaluation; successive calls get the evaluations in the order of their steps.

        Returns:
            "worse", "settled" or "held-out", as explained above; "fitted" if the training loss has vanished.
        """
        self.history.append(now)
        first, improved = self.history[0], self.improved or now
        least = improved.held_out_loss
        if now.held_out_loss < min(BETTER * least, least - GAIN * first.held_out_loss):
            improved = now
        self.improved = improved
        if self.escape is None and now.train_loss < ESCAPED * first.train_loss:
            self.escape = now.step
        if now.train_loss < FITTED * first.train_loss:
            return "fitted"
        if self.escape is None:
            return None
        last = max(improved.step, self.escape)
        if now.step <= last + WAIT:
            return None
        if now.held_out_loss > self.overfitted * min(past.held_out_loss for past in self.history):
            return "worse"
        if not now.grows_since([past for past in self.history if past.step <= now.step - WAIT][-1]):
            return "settled"
        return "held-out" if now.step > self.patience * last + WAIT else None
