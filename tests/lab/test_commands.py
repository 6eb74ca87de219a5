import pytest
from typer.testing import CliRunner

from ranklens.cli import app
from ranklens.lab import server


def test_the_command_prints_the_address_and_opens_it(monkeypatch):
    served, opened = [], []
    monkeypatch.setattr(
        server, "serve", lambda laboratory: (served.append(laboratory.address), laboratory.server_close())
    )
    monkeypatch.setattr("webbrowser.open", opened.append)
    answer = CliRunner().invoke(app, ["lab", "--port", "0", "--open"])
    assert answer.exit_code == 0, answer.output
    assert served[0] in answer.output
    assert opened == served
    assert "open that address yourself" in answer.output


@pytest.mark.parametrize("port", ["-1", "70000", "many"])
def test_wrong_ports(port):
    assert CliRunner().invoke(app, ["lab", "--port", port]).exit_code == 2
