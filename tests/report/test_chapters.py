import ast
import re
from pathlib import Path

import pytest

from ranklens import studies
from ranklens.report import chapters, wording
from ranklens.studies.kit.claim import Claim


def test_every_study_is_in_one_chapter_and_has_a_guide():
    named = [name for chapter in chapters.chapters() for name in chapter.studies]
    assert tuple(named) == studies.STUDIES
    assert all(chapters.guide(name) for name in studies.STUDIES)
    assert chapters.guide("of another package") is None


def test_answers_are_two_sentences_and_questions_one():
    for chapter in chapters.chapters():
        assert len(re.findall(r"[.?!](?: |$)", chapter.answer)) == 2, chapter.key
        assert chapter.question.endswith("?")
    for name in studies.STUDIES:
        see = chapters.guide(name).see
        assert len(re.findall(r"[.?!](?: |$)", see)) == 1, name


@pytest.mark.parametrize("name", studies.STUDIES)
def test_the_words_of_a_badge_are_in_the_study(name):
    """The phrase may be spread over several literals, and over those of the claims that all studies share."""
    folder = Path(studies.__file__).parent
    paths = [folder / studies.CHAPTER[name] / f"{name}.py", folder / "kit" / "laws.py"]
    literals = [
        node.value
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for word in chapters.guide(name).evidence.split():
        assert word in " ".join(literals), word


def test_every_notion_of_rank_names_its_studies_and_its_page():
    beyond = {name for name in studies.STUDIES if studies.CHAPTER[name] == studies.BEYOND}
    named = {name for notion in chapters.notions() for name in notion.studies}
    assert named <= set(studies.STUDIES)
    assert beyond - named <= {"next_component"}  # which predicts, and has no notion of its own
    concepts = Path(__file__).parents[2] / "docs" / "concepts"
    for notion in chapters.notions():
        assert (concepts / f"{notion.page}.md").exists(), notion.page


def test_order_is_that_of_the_chapters_and_unknown_names_come_last():
    assert chapters.in_order(["new", "optimizers", "depth"]) == ["depth", "optimizers", "new"]


def test_the_badge_is_the_first_claim_with_the_phrase():
    made = [
        Claim("finding", text, 1.0, "<=", 2.0, "own") for text in ("other", "at depth 3 beat depth 2", "beat depth 2")
    ]
    found = chapters.evidence("depth", made)
    assert found == (made[1], chapters.guide("depth").number)
    assert chapters.evidence("depth", made[:1]) is None
    assert chapters.evidence("new", made) is None


def test_texts_use_only_symbols_that_the_glossary_has():
    texts = [text for name in studies.STUDIES for text in (chapters.guide(name).see, chapters.guide(name).number)]
    for text in texts:
        for word in wording.GREEK:
            known = re.search(rf"\b{word}\b", text) is None or f'href="#symbol-{word}"' in wording.rich(text, set())
            assert known, text
