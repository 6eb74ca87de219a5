"""Write the tables of results in the pages of `PAGES`: python docs/results_table.py [FOLDER ...].

Each FOLDER holds records that `ranklens talk` or `ranklens run` wrote. The claims of every record whose settings are
those of a preset go to docs/results.json, and the tables are made from that file. Without a folder they are made from
the file as it is.
"""

import dataclasses
import itertools
import json
import math
import re
import statistics
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

import ranklens as rl
from ranklens import studies
from ranklens.files import writing
from ranklens.report import chapters
from ranklens.studies.cp import natural_images
from ranklens.studies.kit.claim import Claim as Judged
from ranklens.studies.kit.predictors import CP, HIERARCHICAL

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "results.json"
BENCHMARK = ROOT / "benchmarks" / "completion_results.jsonl"
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "reproductions.md",
    ROOT / "docs" / "natural_images.md",
    ROOT / "docs" / "concepts" / "notions_of_rank.md",
)
LETTER = {"theorem": "T", "exactness": "E", "finding": "F"}

Claim = dict[str, str | float | bool]
# Presets of the study natural_images with a table on their page.
TABLES = (
    "paper-ten",
    "paper-fashion-ten",
    "paper-hierarchical-ten",
    "paper-fashion-hierarchical-ten",
    "recipe",
)
# Methods of the benchmark of MovieLens as its results name them, and in words.
MOVIELENS = {
    "ranklens": "ranklens",
    "ranklens, without implicit feedback": "ranklens without implicit feedback",
    "myFM, rank 10, 200 iterations": "myFM",
    "Surprise SVD, tuned": "tuned SVD",
    "biases + soft-impute (nuclear norm)": "soft-impute",
    "biases alone": "biases alone",
}

# Command, settings, versions and claims of a record, by "study, preset".
Results = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        section: the table that the row belongs to.
        text: the claim in short; "{seeds}" stands for the number of seeds.
        measured: the numbers, a format for each phrase.
        study: name of the study.
        phrases: for each number, words that one claim of the study contains and no other.
        preset: name of the preset.
        front: whether the row is in the README too.
    """

    section: str
    text: str
    measured: str
    study: str
    phrases: tuple[str, ...]
    preset: str = "laptop"
    front: bool = False


def rows() -> list[Row]:
    """Return the rows of all tables, in the order of docs/results.toml."""
    found = tomllib.loads((ROOT / "docs" / "results.toml").read_text(encoding="utf-8"))["row"]
    return [Row(**{**row, "phrases": tuple(row["phrases"])}) for row in found]


def kept() -> Results:
    """Return the results that are kept."""
    found: Results = json.loads(KEPT.read_text(encoding="utf-8"))
    return found


def collect(folders: list[Path]) -> Results:
    """Return the results that are kept, with those of all records in the folders; say which records are left out."""
    found = kept()
    for path in sorted(path for folder in folders for path in folder.glob("*.nc")):
        record = rl.load(path)
        name = record.attrs.get("study")
        preset = _preset(name, json.loads(record.attrs["settings"])) if name in studies.STUDIES else None
        if preset is None:
            print(f"left out: {path}: its settings are those of no preset")
            continue
        try:
            judged = studies.judge(record)
        except (AttributeError, KeyError, ValueError) as error:
            print(f"left out: {path}: the present claims need what it does not hold: {error}")
            continue
        found[f"{name}, {preset}"] = {
            "command": _command(name, preset),
            "settings": json.loads(record.attrs["settings"]),
            "versions": record.attrs["versions"],
            "claims": [_kept(claim) for claim in judged],
        }
        if name == "natural_images":
            found[f"{name}, {preset}"]["errors"] = _errors(record)
    return found


def _errors(record: xr.Dataset) -> list[dict[str, str | float]]:
    """Return final errors by family, rank and kind of data: means, and standard deviations over classes."""
    ends = {"training": record.train.isel(step=-1), "test": record.test}
    found = []
    for family, data, rank in itertools.product(record.family.values, record.data.values, record["rank"].values):
        row: dict[str, str | float] = {"family": str(family), "data": str(data), "rank": int(rank)}
        for which, errors in ends.items():
            each = errors.sel(family=family, data=data, rank=rank).mean("seed")
            row |= {which: float(each.mean()), f"{which} deviation": float(each.std("label"))}
        if not math.isnan(float(row["training"])):
            found.append(row)
    return found


def _preset(name: str, settings: object) -> str | None:
    """Return the first preset of a study with these settings, as JSON reads them; None if there is none."""
    presets = {
        called: json.loads(json.dumps(dataclasses.asdict(at))) for called, at in studies.load(name).PRESETS.items()
    }
    return next((called for called, at in presets.items() if at == settings), None)


def _kept(claim: Judged) -> Claim:
    """Return what is kept of a claim."""
    relation = {"<=": "at most", ">=": "at least", "within": "within"}[claim.relation]
    ends = claim.bound if isinstance(claim.bound, tuple) else (claim.bound,)
    bound = f"{relation} {' to '.join(f'{end:.4g}' for end in ends)}"
    stated = {"kind": claim.kind, "statement": claim.statement, "measured": claim.measured, "bound": bound}
    return {**stated, "source": claim.source, "holds": claim.holds}


def claims(results: Results, name: str, preset: str) -> list[Claim]:
    """Return the kept claims of a study and preset."""
    found = results[f"{name}, {preset}"]["claims"]
    assert isinstance(found, list)
    return found


def one(results: Results, row: Row, phrase: str) -> Claim:
    """Return the only claim of a row's study that contains a phrase, or each of its parts with " ... " between.

    Raises:
        ValueError: if none or several do.
    """
    stated = claims(results, row.study, row.preset)
    found = [claim for claim in stated if all(part in str(claim["statement"]) for part in phrase.split(" ... "))]
    if len(found) != 1:
        raise ValueError(f"{len(found)} claims of {row.study}, {row.preset} contain {phrase!r}; give one that one has")
    return found[0]


# Numbers of seeds.
COUNTED = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORDS = tuple(f"{word} seed{'' if word == 'one' else 's'}" for word in COUNTED)


def current(results: Results) -> Results:
    """Return the results whose settings are still those of their preset."""
    kept = {}
    for key, record in results.items():
        name, called = key.split(", ", maxsplit=1)
        if _preset(name, record["settings"]) == called:
            kept[key] = record
    return kept


def table(results: Results, listed: list[Row]) -> str:
    """Return a table of rows, with kind, claim, numbers, preset and command."""
    lines = ["| kind | claim | measured | preset | command |", "|---|---|---:|---|---|"]
    for row in listed:
        seeds = len(studies.preset(row.study, row.preset).seeds)
        text = row.text.format(seeds=WORDS[seeds] if seeds < len(WORDS) else f"{seeds} seeds")
        kinds, numbers = "", "not measured with the present settings"
        if f"{row.study}, {row.preset}" in results:
            picked = [one(results, row, phrase) for phrase in row.phrases]
            kinds = "".join(dict.fromkeys(LETTER[str(claim["kind"])] for claim in picked))
            numbers = _short(row.measured.format(*(claim["measured"] for claim in picked)))
            numbers += "" if all(claim["holds"] for claim in picked) else " (does not meet its bound)"
        lines.append(f"| {kinds} | {text} | {numbers} | `{row.preset}` | `{_command(row.study, row.preset)}` |")
    return "\n".join(lines)


def _command(name: str, preset: str) -> str:
    """Return the command that runs a study with a preset."""
    called = f'"{preset}"' if " " in preset else preset
    return f"ranklens run {name}" + ("" if preset == "laptop" else f" --preset {called}")


def movielens() -> str:
    """Return the row of MovieLens, from the results of the benchmark of completion."""
    rows = [json.loads(line) for line in BENCHMARK.read_text(encoding="utf-8").splitlines()]
    medians = []
    for method in MOVIELENS:
        errors = [row["error"] for row in rows if (row["problem"], row["method"]) == ("movielens", method)]
        medians.append(f"{statistics.median(errors):.3f}")
    others = ", ".join(list(MOVIELENS.values())[1:])
    claim = f"MovieLens-100k, 80/20 split, {WORDS[len(errors)]}, no rank given: RMSE; {others}"
    command = "python benchmarks/completion.py movielens"
    return f"| F | {claim} (medians) | {medians[0]}; {', '.join(medians[1:])} | `movielens` | `{command}` |"


def published(results: Results, preset: str, family: str) -> str:
    """Return a table of the errors of a preset of the study natural_images, beside the published ones of CP."""
    record = results.get(f"natural_images, {preset}")
    if record is None:
        return f"Not measured yet with these settings: `{_command('natural_images', preset)}`."
    images = studies.preset("natural_images", preset).images
    size = "components" if family == CP else "width"
    lines = [
        f"| data | {size} | training error | published | test error | published |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in (row for row in record["errors"] if row["family"] == family):
        known: list[float] = [math.nan, math.nan]
        if row["rank"] in natural_images.RANKS:
            curves = natural_images.PUBLISHED[images][row["data"]]
            known = [curve[natural_images.RANKS.index(row["rank"])] for curve in curves]
        cells = []
        for which, number in zip(("training", "test"), known, strict=True):
            deviation = row[f"{which} deviation"]
            cells.append(f"{row[which]:.4f}" + (f" ± {deviation:.4f}" if deviation else ""))
            cells.append("" if math.isnan(number) else f"{number:.4f} ({row[which] - number:+.4f})")
        lines.append(f"| {row['data']} | {row['rank']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def notions(results: Results) -> str:
    """Return the table of notions of rank, with the number of the badge of each study as evidence."""
    heads = ("architecture", "its rank", "lowered from a small start", "from the usual start", "by what")
    lines = [f"| {' | '.join([*heads, 'what one can do', 'evidence'])} |", "|---|---|---|---|---|---|---|"]
    for notion in chapters.notions():
        evidence = "; ".join(_cell(badge(results, name)) for name in notion.studies)
        cells = [f"[{notion.architecture}]({notion.page}.md)", notion.rank, notion.small, notion.usual, notion.by]
        lines.append(f"| {' | '.join([*cells, notion.use, evidence])} |")
    return "\n".join(lines)


def badge(results: Results, name: str) -> str:
    """Return the name of a study and the number that its badge shows in the report, with the preset `laptop`."""
    guide = chapters.guide(name)
    if guide is None or f"{name}, laptop" not in results:
        return f"`{name}`: not measured with the present settings"
    claim = next(claim for claim in claims(results, name, "laptop") if guide.evidence in str(claim["statement"]))
    measured, held = _short(f"{claim['measured']:.2g}"), "" if claim["holds"] else " (does not meet its bound)"
    return f"`{name}`: {guide.number} {measured}{held}"


def verdicts(results: Results) -> str:
    """Return how many claims hold, with the preset `laptop` by kind and with others by preset, and what does not."""
    talk = studies.chosen([])
    parts = [
        _verdicts(results, talk, "`ranklens talk`"),
        _verdicts(results, studies.chosen([studies.BEYOND]), "the studies beyond it, `ranklens talk --only beyond`"),
        _others(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _others(results: Results) -> str:
    """Return how many claims hold with each preset other than `laptop` that was run, or nothing if there is none."""
    lines = []
    for key in results:
        name, called = key.split(", ", maxsplit=1)
        if called != "laptop":
            held = [bool(claim["holds"]) for claim in claims(results, name, called)]
            lines.append(f"| `{name}` | `{called}` | {sum(held)} of {len(held)} | `{_command(name, called)}` |")
    if not lines:
        return ""
    heads = ["| study | preset | claims that hold | command |", "|---|---|---:|---|"]
    return "\n".join(["Other presets that were run, with claims of all kinds:", "", *heads, *sorted(lines)])


def _verdicts(results: Results, names: tuple[str, ...], called: str) -> str:
    """Return how many claims of some studies hold with the preset `laptop`, and the findings that do not."""
    laptop = {name: claims(results, name, "laptop") for name in names if f"{name}, laptop" in results}
    every = [claim for name in names for claim in laptop.get(name, [])]
    counted = []
    for kind, named in (("theorem", "theorems"), ("exactness", "exactness checks"), ("finding", "findings")):
        held = [bool(claim["holds"]) for claim in every if claim["kind"] == kind]
        counted.append(f"{sum(held)} of {len(held)} {named}")
    missing = [name for name in names if name not in laptop]
    lines = [f"With the preset `laptop` ({called}), {', '.join(counted[:2])} and {counted[2]} hold."]
    if missing:
        lines.append(f"Not counted, because not measured with the present settings: {', '.join(missing)}.")
    failed = [(name, claim) for name in names for claim in laptop.get(name, []) if not claim["holds"]]
    if failed:
        lines += ["", "| study | does not meet its bound | measured | bound |", "|---|---|---:|---|"]
        for name, claim in failed:
            measured = _short(f"{claim['measured']:.3g}")
            lines.append(f"| `{name}` | {_cell(str(claim['statement']))} | {measured} | {claim['bound']} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return a text that a cell of a table can hold: bars are escaped."""
    return text.replace("|", r"\|")


def _short(text: str) -> str:
    """Return numbers without leading zeros in their exponents."""
    return re.sub(r"e([-+])0*(\d)", lambda found: f"e{found[1].replace('+', '')}{found[2]}", text)


def blocks(results: Results) -> dict[str, str]:
    """Return the generated parts of the pages by their names: one for each section, the README's, and the verdicts.

    Results whose settings are no longer those of their preset are left out.
    """
    every, results = rows(), current(results)
    made = {name: table(results, [row for row in every if row.section == name]) for name in {x.section for x in every}}
    front = table(results, [row for row in every if row.front])
    for preset in TABLES:
        for family in (CP, HIERARCHICAL):
            made[f"{preset}-{family}"] = published(results, preset, family)
    return {**made, "front": f"{front}\n{movielens()}", "verdicts": verdicts(results), "notions": notions(results)}


def filled(page: str, made: dict[str, str]) -> str:
    """Return a page with its generated parts replaced; each is between two comments that name it."""

    def part(found: re.Match[str]) -> str:
        return f"<!-- results: {found[1]}, made by `make results` -->\n\n{made[found[1]]}\n\n<!-- end of results -->"

    return re.sub(
        r"<!-- results: ([-\w]+), made by `make results` -->.*?<!-- end of results -->", part, page, flags=re.S
    )


def main() -> None:
    """Keep the results of all folders that are named, and write the tables."""
    results = current(collect([Path(name) for name in sys.argv[1:]]))
    made = blocks(results)
    with writing.atomic(KEPT) as name:
        name.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for path in PAGES:
        text = filled(path.read_text(encoding="utf-8"), made)
        with writing.atomic(path) as name:
            name.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
