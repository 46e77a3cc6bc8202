"""Questions read from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.env.question import Question, load_questions
from finestep_fast.errors import InputError

BIRD = {
    "question_id": 7,
    "db_id": "shop",
    "question": "How many?",
    "evidence": "all of them",
    "SQL": "SELECT 1",
    "difficulty": "simple",
}


def saved(path: Path, entries: list[Any], *, lines: bool = False) -> Path:
    """Return a file of questions."""
    if lines:
        text = "\n\n".join(json.dumps(entry) for entry in entries) + "\n"
    else:
        text = json.dumps(entries, indent=1)
    path.write_text(text, encoding="utf-8")
    return path


def test_birds_format_is_read(tmp_path: Path) -> None:
    (question,) = load_questions(saved(tmp_path / "dev.json", [BIRD]), tmp_path / "databases")
    assert question == Question(
        question_id="7",
        text="How many?",
        gold_sql="SELECT 1",
        db_id="shop",
        database=tmp_path / "databases" / "shop" / "shop.sqlite",
        evidence="all of them",
        difficulty="simple",
    )


@pytest.mark.parametrize("key", ["SQL", "gold", "query", "sql"])
def test_json_lines_and_other_names_of_the_query_are_read(tmp_path: Path, key: str) -> None:
    entries = [
        {"db_id": "a", "question": "ä?", key: "SELECT 1"},
        {"db_id": "b", "question": "b?", key: ["SELECT 2", "SELECT 3"], "qid": "x", "kind": "k"},
    ]
    first, second = load_questions(saved(tmp_path / "q.jsonl", entries, lines=True), tmp_path)
    assert (first.question_id, first.text, first.gold_sql) == ("0", "ä?", "SELECT 1")
    assert (second.question_id, second.gold_sql, second.kind) == ("x", "SELECT 2", "k")
    assert (first.golds, second.golds) == (("SELECT 1",), ("SELECT 2", "SELECT 3"))


def test_accepted_golds_under_both_keys_are_taken_once_each(tmp_path: Path) -> None:
    several = {"gold_alternatives": ["SELECT 2", "SELECT 1", "SELECT 3"]}
    entries = [BIRD | several, {k: v for k, v in BIRD.items() if k != "SQL"} | several]
    first, second = load_questions(saved(tmp_path / "q.json", entries), tmp_path)
    assert first.golds == ("SELECT 1", "SELECT 2", "SELECT 3")
    assert second.golds == ("SELECT 2", "SELECT 1", "SELECT 3")


def test_synsql_is_read_and_spiders_parsed_query_is_not_taken_for_one(tmp_path: Path) -> None:
    synsql = {"db_id": "a", "question": "?", "sql": "SELECT 1", "external_knowledge": "hint"}
    spider = {"db_id": "b", "question": "?", "query": "SELECT 2", "sql": {"select": [False, []]}}
    first, second = load_questions(saved(tmp_path / "q.json", [synsql, spider]), tmp_path)
    assert (first.gold_sql, first.evidence, second.gold_sql) == ("SELECT 1", "hint", "SELECT 2")


def test_null_stands_for_a_label_that_is_missing(tmp_path: Path) -> None:
    entry = BIRD | {"evidence": None, "difficulty": None, "question_id": None}
    (question,) = load_questions(saved(tmp_path / "q.json", [entry]), tmp_path)
    assert (question.evidence, question.difficulty, question.question_id) == ("", "", "0")


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    path = saved(tmp_path / "q.json", [BIRD, BIRD, "broken"])
    assert len(load_questions(path, tmp_path, limit=2)) == 2
    with pytest.raises(InputError, match="limit is 0; expected at least 1"):
        load_questions(path, tmp_path, limit=0)


def test_a_missing_database_is_no_error_yet(tmp_path: Path) -> None:
    (question,) = load_questions(saved(tmp_path / "q.json", [BIRD]), tmp_path / "none")
    assert not question.database.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "question is missing"),
        ({"question": 3}, "question is 3; expected text"),
        ({"SQL": None}, "SQL is missing"),
        ({"SQL": []}, r"SQL is \[\]; expected text"),
        ({"SQL": [1]}, "SQL is 1; expected text"),
        ({"SQL": ["SELECT 1", None]}, "SQL is missing"),
        ({"gold_alternatives": {}}, r"gold_alternatives is \{\}; expected text"),
        ({"db_id": None}, "db_id is missing"),
        ({"db_id": ""}, "db_id is ''; expected the name of a folder"),
        ({"db_id": "../secret"}, "db_id is '../secret'; expected the name of a folder"),
        ({"db_id": ".."}, "db_id is '..'; expected the name of a folder"),
        ({"evidence": ["x"]}, r"evidence is \['x'\]; expected text"),
    ],
)
def test_an_unusable_entry_is_named_by_place_and_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path / "q.json", [BIRD, BIRD | change])
    with pytest.raises(InputError, match=rf"q\.json', entry 1: {message}"):
        load_questions(path, tmp_path)
    path = saved(tmp_path / "q.jsonl", [BIRD, BIRD | change], lines=True)
    with pytest.raises(InputError, match=rf"q\.jsonl', line 3: {message}"):
        load_questions(path, tmp_path)


def test_an_unusable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json': No such file"):
        load_questions(tmp_path / "none.json", tmp_path)
    for content, message in (
        (b"[{]", "not JSON"),
        (b'{"a": 1}\nnot json', "line 1: db_id is missing"),
        (b"nonsense", "line 1: not JSON"),
        (b"[1]", "entry 0: is int; expected a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
    ):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_questions(tmp_path / "bad.json", tmp_path)


@pytest.mark.parametrize("name", ["gold.sql", "gold.txt"])
def test_lines_of_gold_queries_are_questions_where_golds_alone_will_do(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_text("SELECT 1\ta\r\n\nSELECT\t2\tmy shop\n", encoding="utf-8")
    first, second = load_questions(path, tmp_path, golds_alone=True)
    assert (first.question_id, first.gold_sql, first.db_id) == ("0", "SELECT 1", "a")
    assert first.text == ""
    assert (second.question_id, second.gold_sql) == ("1", "SELECT\t2")
    assert second.database == tmp_path / "my shop" / "my shop.sqlite"
    with pytest.raises(InputError, match="line 1: not JSON"):
        load_questions(path, tmp_path)
    for content, message in (
        ("SELECT 1\ta\nSELECT 2\n", r"line 2: is 'SELECT 2'; expected a gold query, a tab and a"),
        ("SELECT 1\t\n", "line 1: db_id is ''; expected the name of a folder"),
        ("\ta\n", r"line 1: is '\\ta'; expected a gold query"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            load_questions(path, tmp_path, golds_alone=True)


def test_json_with_the_name_of_a_text_is_json_and_json_lines_are_no_golds(tmp_path: Path) -> None:
    for lines in (False, True):
        path = saved(tmp_path / "q.txt", [BIRD], lines=lines)
        assert load_questions(path, tmp_path, golds_alone=True)[0].text == "How many?"


def test_questions_of_real_data_are_read(shared_data: Path) -> None:
    for name, count in (("spider_dev", 544), ("spider_train", 892), ("spider_dk", 86)):
        folder = shared_data / name
        questions = load_questions(folder / "questions.jsonl", folder / "databases")
        assert len(questions) == count
        assert all(question.database.is_file() for question in questions)
