"""The outline read from the source of a study against the study itself, imported."""

import dataclasses

import pytest

from ranklens import studies
from ranklens.studies.outline import outline


@pytest.mark.parametrize("name", studies.STUDIES)
def test_the_outline_is_what_the_imported_study_says(name):
    found, study = outline(name), studies.load(name)
    assert found.title == study.TITLE
    assert found.explanation == study.EXPLANATION
    assert list(found.minutes.items()) == [(preset, study.MINUTES[preset]) for preset in study.PRESETS]
    assert list(found.settings.items()) == list(dataclasses.asdict(study.PRESETS["laptop"]).items())


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study_has_the_names_of_the_protocol(name):
    study = studies.load(name)
    assert isinstance(study, studies.Study)
    for settings in study.PRESETS.values():
        assert isinstance(settings, studies.Settings)


def test_an_outline_of_nothing_is_refused():
    with pytest.raises(ValueError, match="there is no study 'nothing'; choose one of"):
        outline("nothing")
