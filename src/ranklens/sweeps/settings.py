"""Settings of a run: what JSON holds."""

import numpy as np

# A value of a setting: what JSON holds. Lists become tuples.
Setting = bool | int | float | str | None | tuple["Setting", ...]


def is_setting(value: object) -> bool:
    """Return whether a value can be a setting."""
    if isinstance(value, list | tuple):
        return all(is_setting(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str | np.bool_ | np.integer | np.floating)


def setting(name: str, value: object) -> Setting:
    """Return a value as a setting: numbers of numpy become those of Python, and lists and arrays become tuples.

    Args:
        name: name of the setting, for the message.
        value: a number, a text, True, False, None, or a list, tuple or array of these.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return tuple(setting(name, item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"setting {name!r} is a {type(value).__name__}; sweep over numbers, texts, True, False, None, or tuples of "
        f"these, and make other objects from them inside the function"
    )
