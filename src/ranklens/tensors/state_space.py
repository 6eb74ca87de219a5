"""Diagonal linear state space models: impulse response, outputs, and the networks that hold or describe them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy.linalg import helmert
from torch import Tensor

from ranklens.tensors import arguments
from ranklens.tensors.checks import check_finite
from ranklens.tensors.convert import TensorLike, as_floating
from ranklens.tensors.network import TensorNetwork


class StateSpace:
    """A diagonal linear state space model with one input and one output per time step.

        x_t = A x_(t-1) + B u_t,    y_t = C x_t,    x_0 = 0

    A is diagonal, so its states x evolve independently of each other, and the output is the convolution of the input
    with the impulse response h_l = sum_r C_r A_r^l B_r. The Hankel matrix H_ij = h_(i+j) has at most as many non-zero
    singular values as there are states: state r adds the rank-one matrix C_r B_r v v^T, v_i = A_r^i. The rank of a
    state space model is therefore the rank of this matrix, `rl.measures.hankel_rank`.

    Args:
        A: (states,) diagonal of the transition matrix: floating-point numbers.
        B: (states,) weights of the input; None for ones.
        C: (states,) weights of the output; None for ones.

    Attributes:
        A: the diagonal of the transition matrix.
        B: the input weights.
        C: the output weights.

    Raises:
        TypeError: for complex numbers, or tensors that are not floating-point.
        ValueError: if the three are not vectors of one length with at least one entry, or if an entry is not finite.

    Source: Slutzky, Alexander, Razin, Cohen (2024), section 2; Gu, Goel, Ré (ICLR 2022) for such layers in networks.

    >>> import ranklens as rl
    >>> model = rl.StateSpace([0.5, 0.0], B=[1.0, 3.0])
    >>> model.impulse_response(4).tolist()  # 0.5^l, and 3 more at delay 0
    [4.0, 0.5, 0.25, 0.125]
    >>> [round(y, 12) for y in model.outputs([1.0, 0.0, 2.0]).tolist()]
    [4.0, 0.5, 8.25]
    """

    def __init__(self, A: TensorLike, B: TensorLike | None = None, C: TensorLike | None = None) -> None:
        self.A = check_finite("A", as_floating("A", A))
        if self.A.ndim != 1 or len(self.A) == 0:
            raise ValueError(f"A has shape {tuple(self.A.shape)}; pass the diagonal, (states,) with at least one state")
        self.B, self.C = self._weights("B", B), self._weights("C", C)

    def __len__(self) -> int:
        """Return the number of states."""
        return len(self.A)

    def __repr__(self) -> str:
        return f"StateSpace of {len(self)} states"

    def impulse_response(self, length: int) -> Float[Tensor, "delays"]:
        """Return h_l = sum_r C_r A_r^l B_r for the delays l = 0 .. length - 1, which is differentiable.

        Args:
            length: number of delays, at least 1.
        """
        return impulse_response(self.A, self.B * self.C, arguments.count("length", length))

    def outputs(self, inputs: TensorLike) -> Float[Tensor, "*batch time"]:
        """Return the outputs y_t = sum_(s <= t) h_(t-s) u_s at all times.

        The convolution is computed by the fast Fourier transform, in O(time log time) operations per sequence.

        Args:
            inputs: (*batch, time) sequences of floating-point numbers, with at least one time step.

        Raises:
            ValueError: if there is no time step, or an input is not finite.
        """
        u = check_finite("inputs", as_floating("inputs", inputs)).to(self.A)
        if u.ndim == 0 or u.shape[-1] == 0:
            raise ValueError(f"inputs have shape {tuple(u.shape)}; pass (*batch, time) with at least one time step")
        length = u.shape[-1]
        padded = 2 * length  # without padding the convolution would be circular
        spectrum = torch.fft.rfft(u, padded) * torch.fft.rfft(self.impulse_response(length), padded)
        return torch.fft.irfft(spectrum, padded)[..., :length]

    def extrapolation_error(self, teacher: "StateSpace", length: int) -> Float[Tensor, ""]:
        """Return max_l |h_l - h*_l| / max_l |h*_l|, the distance of the impulse response h from a teacher's h*.

        A model is trained on sequences of some length; at larger delays, up to `length` - 1, nothing was observed.

        Args:
            teacher: the model whose response h* is the right one.
            length: number of delays that are compared.

        Raises:
            ValueError: if the teacher's response is zero at all these delays.

        Source: Slutzky, Alexander, Razin, Cohen (2024), the error of their experiments.

        >>> import ranklens as rl
        >>> round(float(rl.StateSpace([0.5]).extrapolation_error(rl.StateSpace([0.6]), 3)), 6)  # 0.36 - 0.25
        0.11
        """
        right = arguments.instance("teacher", teacher, StateSpace).impulse_response(length)
        scale = right.abs().max()
        if not bool(scale > 0):
            raise ValueError("the teacher's response is zero, so there is no relative error; choose another teacher")
        return (self.impulse_response(length) - right.to(self.A)).abs().max() / scale

    def network(self, train: str = "A") -> TensorNetwork:
        r"""Return a network whose end tensor is what is trained of this model, to be passed to `rl.gradient_flow`.

        The end tensor is Q theta, with a frozen orthogonal matrix Q and trained coordinates theta. Orthogonal
        coordinates leave gradient flow unchanged: d(Q theta)/dt = -Q Q^T grad = -grad. The columns of Q are the mean of
        all states, and for k = 1, 2, ... the difference between the mean of the k largest states and the next. Two
        states that begin nearly equal decide by their difference which one wins, and the difference is one of the
        coordinates, so a relative error of a step is relative to it and not to the states themselves.

        Args:
            train: "A": only the transition is trained, and the end tensor is A, of shape (states,); "ABC": A, B and C
                are trained, and the end tensor has them as its three rows.

        Returns:
            The network, with the bond "k". Pass a small `atol`, such as 1e-20, to the flow to resolve differences.

        Raises:
            ValueError: for another `train`.

        Source: own derivation.

        >>> import torch, ranklens as rl
        >>> net = rl.StateSpace([0.1, 0.3, 0.2]).network()
        >>> net.equation, [round(x, 12) for x in net.tensor().tolist()]
        ('ak,k->a', [0.1, 0.3, 0.2])
        """
        if train not in ("A", "ABC"):
            raise ValueError(f"train is {arguments.told(train)}; it must be 'A' or 'ABC'")
        Q = torch.empty(len(self), len(self), dtype=self.A.dtype, device=self.A.device)
        basis = torch.from_numpy(helmert(len(self), full=True).T.copy()) if len(self) > 1 else torch.ones(1, 1)
        Q[self.A.detach().argsort(descending=True)] = basis.to(Q)
        if train == "A":
            net = TensorNetwork("ak,k->a", [Q, Q.T @ self.A.detach()])
        else:
            rows = torch.stack([self.A, self.B, self.C]).detach()
            net = TensorNetwork("ak,pk->pa", [Q, rows @ Q])
        net.freeze(0)
        return net

    def hankel_network(self, shape: Sequence[int]) -> TensorNetwork:
        """Return the CP factorization of the Hankel tensor T[k_1, ..., k_N] = h_(k_1 + ... + k_N).

        Node n is the matrix A_r^k (k = 0 .. shape[n] - 1), and C_r B_r is a factor of the first. Each state is one
        component, so ranks of matricizations of T are at most the number of states.

        Args:
            shape: sizes of the N >= 2 modes. (n, m) gives the Hankel matrix.

        Raises:
            ValueError: for fewer than two modes.

        >>> import ranklens as rl
        >>> model = rl.StateSpace([0.5, -1.0])
        >>> [round(x, 12) for x in model.hankel_network((2, 3)).tensor()[1].tolist()]  # h_1, h_2, h_3
        [-0.5, 1.25, -0.875]
        """
        sizes = [arguments.count(f"shape[{n}]", size) for n, size in enumerate(arguments.sequence("shape", shape))]
        if len(sizes) < 2:
            raise ValueError(f"shape is {tuple(sizes)}; a Hankel tensor has at least two modes")
        nodes = [powers(self.A.detach(), size) for size in sizes]
        nodes[0] = nodes[0] * (self.B * self.C).detach()
        return TensorNetwork(([(n, "r") for n in range(len(sizes))], range(len(sizes))), nodes)

    def _weights(self, name: str, value: TensorLike | None) -> Tensor:
        """Return the input or output weights with the dtype and on the device of A; ones for None."""
        if value is None:
            return torch.ones_like(self.A.detach())
        weights = check_finite(name, as_floating(name, value))
        if weights.shape != self.A.shape:
            raise ValueError(f"{name} has shape {tuple(weights.shape)}, A {tuple(self.A.shape)}; pass equal lengths")
        return weights.to(self.A)


def powers(A: Float[Tensor, "states"], length: int) -> Float[Tensor, "length states"]:
    """Return the matrix A_r^l with rows l = 0 .. length - 1 (a Vandermonde matrix), which is differentiable.

    Args:
        A: (states,) numbers.
        length: number of rows.
    """
    return A.unsqueeze(0).pow(torch.arange(length, dtype=A.dtype, device=A.device).unsqueeze(1))


def impulse_response(
    A: Float[Tensor, "states"], weights: Float[Tensor, "states"], length: int
) -> Float[Tensor, "delays"]:
    """Return sum_r weights_r A_r^l for the delays l = 0 .. length - 1, which is differentiable.

    Args:
        A: (states,) diagonal of the transition matrix.
        weights: (states,) products of input and output weights.
        length: number of delays.
    """
    return powers(A, length) @ weights
