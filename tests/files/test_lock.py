import subprocess
import sys

import pytest

from ranklens.files.lock import NAME, locked

HOLD = """
import pathlib, sys
from ranklens.files.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Unix")
def test_a_folder_is_locked_until_its_process_ends(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another process writes to"), locked(tmp_path):
            pass
        assert (tmp_path / NAME).exists()
        other.kill()
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
