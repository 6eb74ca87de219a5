import json

import numpy as np
import pytest

from ranklens.dynamics import checkpoint
from ranklens.lab.experiment import Experiment
from ranklens.lab.knobs import Knobs
from ranklens.lab.stream import Stream, message, stream

pytestmark = pytest.mark.filterwarnings("ignore::ranklens.dynamics.record.StoppedEarly")


@pytest.mark.parametrize(
    "knobs", [Knobs(size=5, rank=1, start=0.05), Knobs(size=5, rank=1, depth=2.5, start=0.05)], ids=["3", "2.5"]
)
def test_the_messages_hold_the_whole_record(knobs, tolerance):
    sent = []
    record = stream(
        knobs, lambda kind, content: sent.append((kind, json.loads(message(kind, content).split(b"data: ")[1])))
    )
    kinds = [kind for kind, _ in sent]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert set(kinds) <= {"start", "rows", "state", "beat", "end"}
    at = [x for kind, content in sent if kind == "rows" for x in content["at"]]
    np.testing.assert_allclose(at, record.time, rtol=tolerance["float32"])
    losses = [x for kind, content in sent if kind == "rows" for x in content["loss"]]
    np.testing.assert_allclose(losses, record.loss, rtol=tolerance["float32"])
    assert sent[-1][1]["stopped"] == "loss"


def test_what_send_raises_ends_the_run():
    calls = []

    def gone(kind, _):
        calls.append(kind)
        if len(calls) > 2:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        stream(Knobs(size=16), gone)
    assert len(calls) == 3


def test_numbers_that_json_lacks_become_none():
    sent = {}
    stream(Knobs(size=4, rank=1, start=0.1), lambda kind, found: sent.update({kind: found}))
    rates = np.array(sent["rows"]["rate"], dtype=object)
    assert (rates == None).any()  # noqa: E711  (between the rows at which the law is evaluated)
    message("rows", sent["rows"])


@pytest.mark.parametrize("depth", [2.0, 2.5])
def test_rows_are_sent_while_a_run_goes_on(depth):
    """Also those of an end matrix, which keeps no checkpoints."""
    kinds = []
    experiment = Experiment(Knobs(size=5, rank=1, depth=depth, start=0.1))
    with checkpoint.keeping(Stream(experiment, lambda kind, _: kinds.append(kind), 0.0, 0.0)):
        record = experiment.run(lambda _: None)
    assert 3 < kinds.count("rows") <= len(record.time)


def test_curves_begin_sooner_than_they_are_continued():
    experiment = Experiment(Knobs(size=5, rank=1, start=0.1))
    sender = Stream(experiment, lambda *_: None)
    before = sender.seconds
    with checkpoint.keeping(sender):
        sender.rows(experiment.run(lambda _: None))
    assert 0 < before < sender.seconds
