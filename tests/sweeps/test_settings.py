import numpy as np

from ranklens.sweeps.settings import is_setting, setting


def test_settings_are_what_json_holds():
    assert setting("a", np.float32(0.5)) == 0.5
    assert type(setting("a", np.int64(3))) is int
    assert setting("a", np.array([1, 2])) == (1, 2)
    assert setting("a", [None, ["x", True]]) == (None, ("x", True))
    assert not is_setting(object())
