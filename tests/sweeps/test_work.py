import functools

import pytest

from ranklens.sweeps.work import key_of, work_of


def f(a, b=2, *, c="x"):
    return a, b, c


def test_settings_of_a_function_are_its_arguments_with_their_defaults():
    work = work_of(f, "laptop")
    assert work.settings({"a": 1}) == {"a": 1, "b": 2, "c": "x"}
    assert work.run(work.settings({"a": 1, "b": 5})) == (1, 5, "x")
    assert work.name.endswith("test_work.f")


def test_a_default_and_the_same_value_are_one_run():
    work = work_of(f, "laptop")
    assert key_of(work, work.settings({"a": 1})) == key_of(work, work.settings({"a": 1, "b": 2}))
    assert key_of(work, work.settings({"a": 1})) != key_of(work, work.settings({"a": 1.0}))


def test_keys_tell_functions_apart():
    one, other = work_of(f, "laptop"), work_of(functools.partial(f, c="y"), "laptop")
    assert key_of(one, {"a": 1}) != key_of(other, {"a": 1})


def test_settings_of_a_study_are_those_of_its_preset():
    work = work_of("matrix_dynamics", "tiny")
    settings = work.settings({"depth": 2, "seed": 7, "size": 6, "rank": 1, "observed": 30})
    assert settings["depth"] == 2
    assert settings["seeds"] == (7,)
    assert settings["rtol"] == 1e-6
    record = work.run(settings)
    assert record.attrs["study"] == "matrix_dynamics"
    assert record.seed.values.tolist() == [7]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [({"z": 1, "a": 1}, "has no argument 'z'"), ({}, "needs 'a'; sweep over it, or give its value in `fixed`")],
)
def test_arguments_that_do_not_fit_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        work_of(f, "laptop").settings(chosen)


def test_studies_presets_and_settings_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="there is no study 'matrix'"):
        work_of("matrix", "tiny")
    with pytest.raises(ValueError, match="no preset 'huge'"):
        work_of("matrix_dynamics", "huge")
    with pytest.raises(ValueError, match="no setting 'width'"):
        work_of("matrix_dynamics", "tiny").settings({"width": 2})
