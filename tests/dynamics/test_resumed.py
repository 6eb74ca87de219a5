import numpy as np
import pytest

import ranklens as rl


def problem():
    return rl.Completion.sample(np.outer(np.arange(1.0, 4.0), np.ones(3)), observed=6)


def flow(resume=None, **bounds):
    return rl.gradient_flow(rl.deep_matrix((3, 3), std=0.1), problem(), resume=resume, **({"until_loss": 0.5} | bounds))


@pytest.fixture(scope="module")
def whole():
    return flow()


def without(record, name):
    record.attrs = {key: value for key, value in record.attrs.items() if key != name}
    return record


EDITS = {
    "no state": (lambda record: record.drop_vars("state"), ValueError, "resume has no variable 'state'"),
    "no rows": (lambda record: record.isel(time=slice(0, 0)), ValueError, "resume has no numbers in 'time'"),
    "a state that is not finite": (
        lambda record: record.assign(state=(record.state * np.nan).assign_attrs(record.state.attrs)),
        ValueError,
        "resume has values in 'state' that are not finite",
    ),
    "a negative atol": (lambda record: record.assign(atol=-record.atol), ValueError, "atol that is not positive"),
    "a short atol": (lambda record: record.isel(atol_0=slice(1, None)), ValueError, "no atol for every parameter"),
    "no solver": (lambda record: without(record, "solver"), ValueError, "lost its attribute 'solver'"),
    "no evaluations": (lambda record: without(record, "evaluations"), ValueError, "None for the attribute 'evaluat"),
    "negative seconds": (lambda record: record.assign_attrs(seconds=-1.0), ValueError, r"-1.0 for the attribute 'sec"),
    "an rtol of text": (
        lambda record: record.assign_attrs(rtol="small"),
        TypeError,
        "the rtol of the record to resume",
    ),
    "texts": (
        lambda record: record.assign(loss=("time", ["a"] * record.sizes["time"])),
        ValueError,
        "no numbers in 'loss'",
    ),
    "reversed time": (lambda record: record.isel(time=slice(None, None, -1)), ValueError, "rows that are not in order"),
    "another shape": (lambda record: record.expand_dims("member"), ValueError, "other dimensions"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_record_that_was_damaged_is_refused(name, whole):
    edit, error, message = EDITS[name]
    net = rl.deep_matrix((3, 3), std=0.1)
    before = [node.detach().clone() for node in net.nodes]
    with pytest.raises(error, match=message):
        rl.gradient_flow(net, problem(), resume=edit(whole.copy(deep=True)), until_loss=0.1)
    assert all((a == b).all() for a, b in zip(before, net.nodes, strict=True))


def test_a_whole_record_is_gone_on_from(whole):
    assert flow(whole, until_loss=0.1).sizes["time"] > whole.sizes["time"]


def test_descents_refuse_them_too():
    import torch

    net = rl.deep_matrix((3, 3), std=0.1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    run = rl.gradient_descent(net, problem(), optimizer, steps=3)
    for damaged in (run.assign(state=run.state * np.nan), without(run.copy(), "solver"), run.drop_vars("loss")):
        with pytest.raises(ValueError, match=r"^resume has"):
            rl.gradient_descent(net, problem(), optimizer, steps=5, resume=damaged)
