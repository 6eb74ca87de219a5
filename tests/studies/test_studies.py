"""Every study's smallest preset is run once; its numbers are checked against what is known, not against snapshots."""

import dataclasses
import json
import math

import numpy as np
import pytest
import xarray as xr

import ranklens as rl
from ranklens import studies, theory
from ranklens.studies.kit import records


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study(name, tmp_path):
    """All that is asked of its record in one test, so that no other worker runs the study again."""
    record = studies.perform(name, studies.preset(name, "tiny"))
    for check in (
        theorems_hold,
        spoilt_records_fail,
        figures_are_labelled,
        seeds_are_listed,
        one_nan_of_two_runs_fails,
    ):
        check(record)
    records_last(record, tmp_path)


def test_every_study_says_what_it_is():
    for name in studies.STUDIES:
        study = studies.load(name)
        assert study.TITLE
        assert study.SOURCE
        assert 1 <= study.EXPLANATION.count(". ") <= 2
        assert {"laptop", "paper", "tiny"} <= set(study.PRESETS)
        assert set(study.MINUTES) == set(study.PRESETS)
        assert dataclasses.is_dataclass(study.Settings)
        assert study.Settings.__dataclass_params__.frozen
    of_one_core = sum(studies.load(name).MINUTES["laptop"] for name in studies.chosen([]))
    assert of_one_core / 2 <= 7.5  # `talk` runs two at a time on two cores; most of these numbers are rounded up


def test_studies_beyond_the_talk_run_only_when_asked_for():
    beyond = {name for name in studies.STUDIES if studies.CHAPTER[name] == studies.BEYOND}
    assert set(studies.chosen([])) == set(studies.STUDIES) - beyond
    assert set(studies.chosen(["beyond"])) == beyond
    assert set(studies.chosen(["beyond", "depth"])) == beyond | {"depth"}
    with pytest.raises(ValueError, match="there is no study 'depht'"):
        studies.chosen(["depht"])
    for name in beyond:
        assert studies.load(name).MINUTES["laptop"] <= 1


def theorems_hold(record):
    claims = studies.judge(record)
    assert all(claim.holds for claim in claims if claim.must_hold)
    assert any(claim.kind == "finding" for claim in claims) or record.attrs["study"] == "analogy"


def records_last(record, tmp_path):
    again = rl.load(rl.save(record, tmp_path / "record.nc"))
    xr.testing.assert_identical(again, record)
    assert studies.judge(again) == studies.judge(record)
    assert studies.load(record.attrs["study"]).alt(again)


def spoilt_records_fail(record):
    """Spoil what was measured, up or down, and every theorem's claim must notice one or the other."""
    survived = set.intersection(*({c.statement for c in _theorems(spoil(record)) if c.holds} for spoil in (_up, _down)))
    assert not survived


def _up(record):
    return _spoilt(record, lambda x: 1.5 * x + 3.0)


def _down(record):
    return _spoilt(record, lambda x: 0.01 * x)


def _spoilt(record, how):
    """Every measured number but what it is drawn against, and every sign turned."""
    spoilt = record.copy(deep=True)
    for name, values in record.data_vars.items():
        if values.dtype.kind == "f" and name not in ("loss", "time", "step"):
            spoilt[name] = -values if name == "sign" else how(values)
    return spoilt


def _theorems(record):
    return [claim for claim in studies.judge(record) if claim.must_hold]


@pytest.mark.parametrize("name", ["matrix_dynamics", "tensor_dynamics", "hierarchical_dynamics"])
@pytest.mark.parametrize("factor", [1.001, math.nan])
def test_a_law_that_is_off_by_a_thousandth_or_not_a_number_fails(name, factor, monkeypatch):
    for law in ("alignment", "singular_value_rate"):
        true = getattr(theory, law)
        monkeypatch.setattr(theory, law, lambda *args, true=true, **how: factor * true(*args, **how))
    record = studies.perform(name, studies.preset(name, "tiny"))
    law = studies.judge(record)[0]
    assert law.kind == "exactness"
    assert not law.holds


def one_nan_of_two_runs_fails(record):
    """Whatever a claim is computed from: if it is NaN in one of two runs, the claim must not hold.

    The second run is a copy of the first one. A claim is computed from a variable if other values of the variable
    change its number. A variable without a dimension of seeds is poisoned in the first and in the last value of every
    case, which its first dimension counts.
    """
    two = twice(record)
    clean = studies.judge(two)
    for name in measured(two):
        others = [studies.judge(_with(two, name, values)) for values in (1.5 * two[name] + 3.0, 0.01 * two[name])]
        poisoned = studies.judge(poison(two, name))
        stated = {claim.statement: claim for claim in poisoned}
        for known, up, down, same in zip(clean, *others, poisoned, strict=False):
            if {up.measured, down.measured} != {known.measured}:
                spoilt = stated.get(known.statement, same)  # a poisoned record can have more claims
                assert not spoilt.holds, (name, spoilt)


RUNS = ("seed", "psd_seed", "parts_seed")  # dimensions that count runs
# Variables that are no measurements: they say which row, time or step a value belongs to.
POSITIONS = ("time", "step", "monitor_time")


def measured(record):
    """Names of the variables that hold measurements."""
    return [str(name) for name, x in record.data_vars.items() if x.dtype.kind == "f" and name not in POSITIONS]


def twice(record):
    """A record of two seeds, the second a copy of the first."""
    dims = [dim for dim in RUNS if dim in record.dims]
    for dim in dims:
        record = xr.concat([record, record.assign_coords({dim: [1]})], dim=dim, data_vars="minimal")
    settings = json.loads(record.attrs["settings"])
    return record.assign_attrs(settings=json.dumps(settings | ({"seeds": [0, 1]} if dims else {})))


def poison(record, name):
    """NaN in all values of the second run; without runs, in the first and the last finite value of every case."""
    values = record[name].copy(deep=True)
    dims = [dim for dim in RUNS if dim in values.dims]
    if dims:
        values.loc[{dims[0]: 1}] = np.nan
    else:
        cases = values.values if values.ndim > 1 else values.values.reshape(1, -1)
        for case in cases:
            finite = np.argwhere(np.isfinite(case))
            for place in (finite[0], finite[-1]):
                case[tuple(place)] = np.nan
    return _with(record, name, values)


def _with(record, name, values):
    return record.assign({name: values.astype(record[name].dtype)})


def figures_are_labelled(record):
    made = studies.load(record.attrs["study"]).draw(record)
    for axes in made.axes:
        assert axes.get_title(loc="left")
        assert axes.get_xlabel()
        assert axes.lines or axes.patches  # curves, or bars


def seeds_are_listed(record):
    settings = studies.preset(record.attrs["study"], "tiny")
    assert records.settings_of(record, type(settings)) == settings
    assert settings.seeds == (0,)


def test_unknown_names_and_settings_are_named():
    with pytest.raises(ValueError, match="there is no study 'nothing'; choose one of"):
        studies.load("nothing")
    with pytest.raises(ValueError, match="no preset 'huge'; choose one of laptop"):
        studies.preset("analogy", "huge")
    settings = studies.preset("analogy", "tiny")
    with pytest.raises(ValueError, match="there is no setting 'deep'; write name=value with one of depth"):
        studies.override(settings, ["deep=3"])
    with pytest.raises(ValueError, match="setting depth has no value; write depth=value, like depth=4"):
        studies.override(settings, ["depth"])
    with pytest.raises(ValueError, match="setting depth is 'three'; it must be like 4"):
        studies.override(settings, ["depth=three"])
    with pytest.raises(ValueError, match=r"setting seeds is '0,1'; it must be like \[0"):
        studies.override(settings, ["seeds=0,1"])
    with pytest.raises(ValueError, match=r"setting seeds is '\[0.5\]'; it must be like"):
        studies.override(settings, ["seeds=[0.5]"])
    assert studies.override(settings, ["rtol=1", "seeds=3"]).rtol == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", studies.STUDIES)
def test_laptop_presets_hold_every_theorem(name):
    claims = studies.judge(studies.perform(name, studies.preset(name, "laptop")))
    assert all(claim.holds for claim in claims if claim.must_hold)
