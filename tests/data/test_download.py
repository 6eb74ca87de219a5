"""Downloads from servers on this machine that never end."""

import http.server
import threading

import pytest

from ranklens.data import download


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Endless(Quiet):
    """Sends zeros for ever, without saying how many; or one byte now and then."""

    pause = 0.0

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.over.is_set():
                self.wfile.write(bytes(1 if self.pause else 2**16))
                self.server.over.wait(self.pause)
        except OSError:
            pass  # the client has gone


@pytest.mark.parametrize(
    ("pause", "message"), [(0.0, "has more than 1000000 bytes"), (0.05, "came at less than 5000 bytes per second")]
)
def test_a_server_that_never_ends_is_left(tmp_path, monkeypatch, pause, message):
    monkeypatch.setattr(download, "LARGEST_DOWNLOAD", 1_000_000)
    monkeypatch.setattr(download, "PATIENCE", 0.1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = type("Handler", (Endless,), {"pause": pause})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.over = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(OSError, match=message):
            download.download(f"http://127.0.0.1:{server.server_port}", tmp_path / "a.gz", lambda _: None)
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
