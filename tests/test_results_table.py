"""The tables of README.md and docs/reproductions.md are those that docs/results_table.py makes from kept results."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest

from ranklens import studies

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("results_table", ROOT / "docs" / "results_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_what_the_script_makes(script):
    made = script.blocks(script.kept())
    for path in script.PAGES:
        page = path.read_text()
        assert page == script.filled(page, made), "run `make results`"
        assert "<!-- results: " in page


def test_every_row_of_results_names_a_preset_and_a_command(script):
    front = script.blocks(script.kept())["front"].splitlines()[2:]
    assert len(front) >= 8
    for line in front:
        preset, command = re.findall(r"`([^`]+)`", line)[-2:]
        if command.startswith("ranklens run "):
            name, *options = command.removeprefix("ranklens run ").split(" --preset ")
            assert preset in studies.load(name).PRESETS
            assert options == ([] if preset == "laptop" else [preset])
        else:
            assert command == f"python benchmarks/completion.py {preset}"


def test_every_row_is_of_a_study_and_a_preset(script):
    rows = script.rows()
    assert all(row.preset in studies.load(row.study).PRESETS for row in rows)
    assert all(row.measured.count("{") == len(row.phrases) for row in rows)
    assert len({(row.text, row.study, row.preset) for row in rows}) == len(rows)


def test_results_of_other_settings_are_left_out_and_numbers_are_those_of_the_claims(script):
    [row] = [row for row in script.rows() if row.study == "rank_one"]
    claim = {"kind": "finding", "statement": f"x {row.phrases[0]} y", "measured": 2.5, "bound": "", "holds": False}
    settings = json.loads(json.dumps(dataclasses.asdict(studies.preset("rank_one", "laptop")), sort_keys=True))
    results = {"rank_one, laptop": {"settings": settings, "claims": [claim]}}
    assert "| F | " in script.table(results, [row])
    assert "| 2.50 (does not meet its bound) | `laptop` | `ranklens run rank_one` |" in script.table(results, [row])
    assert script.current(results) == results
    results["rank_one, laptop"]["settings"] = {**settings, "order": 7}
    assert script.current(results) == {}
    assert "not measured with the present settings" in script.table({}, [row])
    twice = {"rank_one, laptop": {"claims": [claim, claim]}}
    with pytest.raises(ValueError, match="2 claims of rank_one, laptop contain"):
        script.table(twice, [row])


def test_failed_findings_are_listed(script):
    failed = {"kind": "finding", "statement": "a | b", "measured": 1e-5, "bound": "at least 1", "holds": False}
    held = {**failed, "kind": "theorem", "holds": True}
    text = script.verdicts({"depth, laptop": {"claims": [failed, held]}})
    assert "1 of 1 theorems, 0 of 0 exactness checks and 0 of 1 findings hold" in text
    assert r"| `depth` | a \| b | 1e-5 | at least 1 |" in text
    assert "not measured with the present settings: linear_regression" in text
    assert "Other presets" not in text


def test_presets_other_than_laptop_are_counted_too(script):
    failed = {"kind": "finding", "statement": "a", "measured": 1.0, "bound": "at least 2", "holds": False}
    kept = {"tensor_dynamics, order 4, rank 3": {"claims": [failed, {**failed, "holds": True}]}}
    line = (
        '| `tensor_dynamics` | `order 4, rank 3` | 1 of 2 | `ranklens run tensor_dynamics --preset "order 4, rank 3"` |'
    )
    assert line in script.verdicts(kept)


def test_errors_of_natural_images_stand_beside_published_ones(script):
    row = {"family": "CP", "data": "true", "rank": 5, "training": 0.01, "training deviation": 0.002}
    results = {"natural_images, paper-ten": {"errors": [{**row, "test": 0.02, "test deviation": 0.0}]}}
    table = script.published(results, "paper-ten", "CP")
    assert "| true | 5 | 0.0100 ± 0.0020 | 0.0080 (+0.0020) | 0.0200 | 0.0220 (-0.0020) |" in table
    assert (
        script.published({}, "paper-ten", "CP")
        == "Not measured yet with these settings: `ranklens run natural_images --preset paper-ten`."
    )
