"""Sequences: fit the last outputs of a diagonal linear state space model on given input sequences."""

import torch
from torch import Tensor

from ranklens.problems.losses import AnyLoss
from ranklens.problems.problem import Observations, check_values
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked
from ranklens.tensors.checks import check_finite
from ranklens.tensors.convert import TensorLike, as_floating
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.state_space import StateSpace, impulse_response


class Sequences(Observations):
    """The problem of fitting a diagonal linear state space model to its last output on each of m input sequences.

    The prediction for a sequence u of T time steps is y_T = sum_l h_l u_(T-l), a linear function of the impulse
    response h_l = sum_r C_r A_r^l B_r at the delays l = 0 .. T - 1. What is trained is the diagonal A alone, or A, B
    and C: see `rl.StateSpace.network`.

    Args:
        inputs: (m, time) input sequences of one length: floating-point numbers.
        values: (m,) outputs at the last time step.
        model: the model before training. Its B and C are kept if only A is trained.
        everything: whether B and C are trained too. The problem is then about tensors of shape (3, states) with the
            rows A, B and C, and otherwise about tensors of shape (states,), A.
        loss: "mse" (mean squared error), "half_sse" (half the sum of squares), "huber", "l1" (mean absolute error), a
            `rl.losses.Loss`, or a callable (predictions, values) -> one number per sequence, averaged over sequences.

    Attributes:
        inputs: (m, time) float64 input sequences.
        model: the model before training.
        everything: whether B and C are trained too.

    Raises:
        ValueError: for inputs that are not finite or do not fit the values.

    Source: Slutzky, Alexander, Razin, Cohen (2024), section 2.

    >>> import ranklens as rl
    >>> student, teacher = rl.StateSpace([0.2, 0.1]), rl.StateSpace([0.9, 0.0])
    >>> task = rl.problems.Sequences.labelled([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], teacher, student)
    >>> [round(x, 12) for x in task.values.tolist()]  # the teacher's response at delays 2 and 1
    [0.81, 0.9]
    >>> [round(x, 12) for x in task.predict(student.network()).tolist()]
    [0.05, 0.3]
    """

    @checked
    def __init__(
        self,
        inputs: TensorLike,
        values: TensorLike,
        model: StateSpace,
        *,
        everything: bool = False,
        loss: AnyLoss = "mse",
    ) -> None:
        states = len(arguments.instance("model", model, StateSpace))
        super().__init__(values, (3, states) if everything else (states,), None, loss)
        self.inputs = _check_inputs(inputs, len(check_values(values)))
        self.model, self.everything = model, everything
        self.reversed = self.inputs.flip(1)  # column l multiplies the response at delay l
        self.weights = (model.B * model.C).detach().double()

    @classmethod
    def labelled(
        cls,
        inputs: TensorLike,
        teacher: StateSpace,
        model: StateSpace,
        *,
        everything: bool = False,
        loss: AnyLoss = "mse",
    ) -> "Sequences":
        """Return the problem whose values are the outputs of a teacher, so that every sequence has its right label.

        Args:
            inputs: (m, time) input sequences.
            teacher: the model that labels them.
            model: the model before training.
            everything: whether B and C are trained too.
            loss: as for the class.
        """
        sequences = _check_inputs(inputs)
        values = arguments.instance("teacher", teacher, StateSpace).outputs(sequences)[:, -1]
        return cls(sequences, values.detach(), model, everything=everything, loss=loss)

    def trained(self, tensor: TensorNetwork | Tensor) -> StateSpace:
        """Return the model whose trained weights a network or a tensor holds, without an autograd graph.

        Args:
            tensor: a network or a tensor, of the problem's shape.
        """
        self.check_shape(tensor)
        whole = (tensor.tensor() if isinstance(tensor, TensorNetwork) else tensor).detach()
        return StateSpace(*whole.unbind()) if self.everything else StateSpace(whole, self.model.B, self.model.C)

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        whole = tensor.tensor() if isinstance(tensor, TensorNetwork) else tensor
        A, weights = (whole[0], whole[1] * whole[2]) if self.everything else (whole, self._like("weights", whole))
        return self._like("reversed", whole) @ impulse_response(A, weights, self.inputs.shape[1])

    def subset(self, rows: Tensor) -> "Sequences":
        """Return the problem made of some of the sequences, with their model and loss unchanged.

        Args:
            rows: integer positions of the sequences to keep, in the order wanted.
        """
        inputs, values = self.inputs[rows], self.values[rows]
        return Sequences(inputs, values, self.model, everything=self.everything, loss=self.objective)


def _check_inputs(inputs: TensorLike, count: int | None = None) -> Tensor:
    """Return input sequences as a float64 tensor.

    Args:
        inputs: the sequences.
        count: how many there must be; None for any number.

    Raises:
        ValueError: for a wrong shape or number, or inputs that are not finite.
    """
    found = check_finite("inputs", as_floating("inputs", inputs)).detach()
    if found.ndim != 2 or 0 in found.shape or (count is not None and len(found) != count):
        wanted = "m" if count is None else count
        raise ValueError(f"inputs have shape {tuple(found.shape)}; expected ({wanted}, time), at least one time step")
    return found.to(torch.float64, copy=True)
