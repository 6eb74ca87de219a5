import html.parser
import http.client
import json
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save
from typer.testing import CliRunner

from ranklens.cli import app
from ranklens.lab.server import HOST, Laboratory, page


@pytest.fixture(scope="module")
def server():
    laboratory = Laboratory(0)
    thread = threading.Thread(target=laboratory.serve_forever)
    thread.start()
    yield laboratory
    laboratory.shutdown()
    laboratory.server_close()
    thread.join()


def ask(server, path, *, method="GET", body=None, host=None, token=True):
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=60)
    prefix = f"/{server.token}/" if token else "/"
    connection.putrequest(method, prefix + path, skip_host=True)
    connection.putheader("Host", host or f"{HOST}:{server.server_port}")
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def messages(content):
    for block in content.decode().strip().split("\n\n"):
        kind, data = block.split("\n")
        yield kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


SMALL = "run?size=4&rank=1&start=0.1"


def test_the_page_needs_the_token_and_this_machine(server):
    answer, content = ask(server, "")
    assert answer.status == 200
    assert b"The laboratory" in content
    assert "default-src 'none'" in answer.getheader("Content-Security-Policy")
    for given in ({"token": False}, {"host": "evil.example"}, {"host": f"evil.example:{server.server_port}"}):
        assert ask(server, "", **given)[0].status == 404
    for path in ("../../etc/passwd", "nothing", "%2e%2e/", "run/"):
        assert ask(server, path)[0].status == 404


def test_the_page_loads_nothing_from_elsewhere():
    found = []

    class Links(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.extend(value for name, value in attrs if name in ("src", "href") and value not in ("#", "data:,"))

    Links().feed(page("n"))
    assert not found


def test_a_run_is_streamed_and_exported(server, tolerance):
    answer, content = ask(server, SMALL)
    assert answer.getheader("Content-Type") == "text/event-stream"
    kinds = dict(messages(content))
    assert kinds["end"]["stopped"] == "loss"
    answer, content = ask(server, SMALL.replace("run", "record"))
    assert answer.status == 200
    record = xr.open_dataset(__import__("io").BytesIO(content), engine="h5netcdf")
    losses = [x for kind, found in messages(ask(server, SMALL)[1]) if kind == "rows" for x in found["loss"]]
    np.testing.assert_allclose(losses, record.loss, rtol=tolerance["float32"])
    assert b"<svg" in ask(server, SMALL.replace("run", "figure"))[1]
    assert b"rl.deep_matrix((4, 4), 3" in ask(server, SMALL.replace("run", "script"))[1]


@pytest.mark.parametrize("path", ["size=1000", "start=nan", "family=%3Cscript%3E", "depth=x"])
def test_nonsense_is_answered_by_a_message(server, path):
    """A run tells it as an event, because a browser writes every refused request into its console."""
    kinds = dict(messages(ask(server, f"run?{path}")[1]))
    assert list(kinds) == ["failed"]
    assert "it must be" in kinds["failed"]["why"]
    for export in ("record", "figure", "script"):
        answer, content = ask(server, f"{export}?{path}")
        assert answer.status == 400
        assert b"it must be" in content
        assert answer.getheader("Content-Type").startswith("text/plain")


def test_an_einsum_that_is_no_network_fails_with_its_reason(server):
    kinds = dict(messages(ask(server, "run?family=einsum&einsum=ab,bc&size=3")[1]))
    assert "needs exactly one '->'" in kinds["failed"]["why"]


def test_uploads_are_bounded(server, monkeypatch):
    monkeypatch.setattr("ranklens.lab.server.LONGEST_TABLE", 10)
    answer, content = ask(server, "table", method="POST", body=b"1,2\n3,4\n5,6")
    assert (answer.status, b"at most 10 are taken" in content) == (400, True)
    monkeypatch.setattr("ranklens.lab.server.MOST_IGNORED", 5)
    assert ask(server, "table", method="POST", body=b"1,2\n3,4\n5,6")[0].status == 400
    answer, content = ask(server, "table", method="POST")
    assert (answer.status, b"an unknown number of bytes" in content) == (400, True)


def test_uploads_are_answered_by_events(server):
    for path, why in (("checkpoint", "no safetensors file"), ("table", "the table is 0 x 1")):
        kinds = dict(messages(ask(server, path, method="POST", body=b"nonsense")[1]))
        assert why in kinds["failed"]["why"]
    weights = save({"weight": torch.eye(4)})
    kinds = dict(messages(ask(server, "checkpoint", method="POST", body=weights)[1]))
    assert [layer["name"] for layer in kinds["found"]["layers"]] == ["weight"]
    assert not list(Path(tempfile.gettempdir()).glob("*/checkpoint.safetensors"))


def test_a_page_that_has_gone_frees_its_place(server):
    """Four runs are begun and left; if they went on, a fifth would wait for them."""
    for seed in range(4):
        connection = http.client.HTTPConnection(HOST, server.server_port, timeout=60)
        connection.request("GET", f"/{server.token}/run?size=48&width=48&start=1e-5&rank=8&seed={seed}")
        connection.getresponse().read1(10)
        connection.close()
    kinds = dict(messages(ask(server, SMALL + "&seed=7")[1]))
    assert kinds["end"]["stopped"] == "loss"


def test_what_waits_for_its_turn_does_not_begin_when_its_page_has_gone(server, monkeypatch):
    """Four checkpoints are sent while the place is taken, and their pages are closed: none of them is measured."""
    measured = []
    found = {"layers": [], "skipped": {}}
    monkeypatch.setattr("ranklens.lab.tables.profile", lambda path: measured.append(path.read_bytes()) or found)
    before = set(threading.enumerate())
    with server.checkpoints:
        for _ in range(4):
            connection = http.client.HTTPConnection(HOST, server.server_port, timeout=60)
            connection.request("POST", f"/{server.token}/checkpoint", body=b"gone")
            connection.getresponse().close()
            connection.close()
    assert "found" in dict(messages(ask(server, "checkpoint", method="POST", body=b"there")[1]))
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
    assert measured == [b"there"]


def test_a_port_in_use_is_told(server):
    answer = CliRunner().invoke(app, ["lab", "--port", str(server.server_port)])
    assert answer.exit_code == 2
    assert "cannot be used" in answer.output
