"""The study's parts: saturation against a flow of layers in numpy, and what spoils its points."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import ranklens as rl
from ranklens import studies
from ranklens.studies.laws import when_the_law_fails as study

SETTINGS = study.PRESETS["tiny"]


@pytest.fixture(scope="module")
def record():
    return studies.perform("when_the_law_fails", SETTINGS)


def stops_at(imbalance, alpha=1e-3):
    """|w11| at the end of an explicit flow of the two factors from alpha I, W2^T W2 - W1 W1^T = lambda I."""
    large = np.sqrt(imbalance / 2 + np.sqrt(imbalance**2 / 4 + alpha**2))
    start = np.concatenate([large * np.eye(2).reshape(-1), alpha / large * np.eye(2).reshape(-1)])

    def field(_, y):
        A, B = y[:4].reshape(2, 2), y[4:].reshape(2, 2)
        W = A @ B
        G = np.array([[0.0, W[0, 1] - 1], [W[1, 0] - 1, W[1, 1]]])
        return -np.concatenate([(G @ B.T).reshape(-1), (A.T @ G).reshape(-1)])

    y = solve_ivp(field, (0, 100), start, rtol=1e-10, atol=1e-13, method="LSODA").y[:, -1]
    return abs((y[:4].reshape(2, 2) @ y[4:].reshape(2, 2))[0, 0])


def test_the_entry_stops_where_layers_in_numpy_do(record, tolerance):
    for imbalance, end in zip(record.imbalance_lambda.values, study.saturated(record), strict=True):
        assert end == pytest.approx(stops_at(imbalance), rel=tolerance["flow"])


@pytest.mark.parametrize("imbalance", [1e-3, 1e-5])
def test_it_stops_later_for_less_imbalance(imbalance, tolerance):
    net = rl.theory.lambda_balanced_(rl.deep_matrix((2, 2), 2), 1e-3 * torch.eye(2, dtype=torch.float64), imbalance)
    rl.gradient_flow(net, rl.Completion.counterexample(), until_loss=1e-13, rtol=1e-8)
    assert abs(float(net.tensor().detach()[0, 0])) == pytest.approx(stops_at(imbalance), rel=tolerance["flow"])
    assert stops_at(imbalance) > 3 * stops_at(100 * imbalance)


def test_points_are_rates_between_their_bounds(record):
    for family in study.FAMILIES:
        x, ratio = study.ratios(record, family)
        assert len(x) >= 3
        assert (ratio >= 1 - study.ROUNDING).all()
        assert (ratio <= (1 + x) ** (study.order(record, family) - 1) * (1 + study.ROUNDING)).all()


def test_orders_are_those_of_the_bonds(record):
    cp = study.network(SETTINGS, "CP", 0.5, 0)
    tree = study.network(SETTINGS, "hierarchical", 0.5, 0)
    assert {cp.order(b) for b in cp.bonds} == {study.order(record, "CP")}
    assert {tree.order(b) for b in tree.bonds} == {study.order(record, "hierarchical")}
