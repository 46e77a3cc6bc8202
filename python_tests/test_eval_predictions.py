"""Predicted queries in every format, laid beside their questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.env.question import Question
from finestep_fast.errors import InputError
from finestep_fast.eval.predictions import BIRD_MARK, SQL_KEYS, load_predictions

QUERIES = ["SELECT 1", "SELECT 'ä'\n  -- two lines", "SELECT 3"]
DB_IDS = ("shop", "shop", "zoo")


def questions(*ids: str) -> list[Question]:
    """Three questions."""
    return [
        Question(name, "?", "SELECT 1", db_id, Path(db_id))
        for name, db_id in zip(ids or ("0", "1", "2"), DB_IDS, strict=True)
    ]


def saved(path: Path, content: Any) -> Path:
    """A file of text, or of JSON."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return path


def loaded(tmp_path: Path, content: Any, name: str = "p.json") -> list[str | None]:
    return load_predictions(saved(tmp_path / name, content), questions())


def json_lines(entries: list[Any]) -> str:
    return "\n".join(json.dumps(entry) for entry in entries) + "\n"


def with_mark(query: str, db_id: str) -> str:
    return f"{query}{BIRD_MARK}{db_id}"


def objects(key: str, **others: Any) -> list[dict[str, Any]]:
    return [{key: query, **others} for query in QUERIES]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            {
                str(i): f"{query}{BIRD_MARK}{db_id}"
                for i, (query, db_id) in enumerate(zip(QUERIES, DB_IDS, strict=True))
            },
            id="bird",
        ),
        pytest.param({str(i): query for i, query in enumerate(QUERIES)}, id="bird without mark"),
        pytest.param({str(i): QUERIES[i] for i in (2, 0, 1)}, id="bird in another order"),
        pytest.param(QUERIES, id="list"),
        pytest.param([with_mark(query, "") for query in QUERIES], id="list with empty marks"),
        pytest.param(json_lines(QUERIES), id="lines of texts"),
        *(pytest.param(objects(key), id=f"objects with {key}") for key in SQL_KEYS),
        pytest.param(
            [{"question_id": i, "SQL": QUERIES[i], "db_id": DB_IDS[i]} for i in (2, 1, 0)],
            id="objects in another order",
        ),
        pytest.param(
            json_lines([{"qid": str(i), "pred": QUERIES[i]} for i in (1, 2, 0)]),
            id="lines of objects",
        ),
        pytest.param(
            json.dumps({str(i): query for i, query in enumerate(QUERIES)}, indent=2),
            id="bird on several lines",
        ),
    ],
)
def test_every_json_format_gives_the_same_queries(tmp_path: Path, content: Any) -> None:
    assert loaded(tmp_path, content) == QUERIES


def test_a_text_holds_one_query_per_line(tmp_path: Path) -> None:
    text = "SELECT 1\tshop\r\n\nSELECT a\tFROM t WHERE b\n"
    assert loaded(tmp_path, text, "p.sql") == ["SELECT 1", "", "SELECT a\tFROM t WHERE b"]
    assert loaded(tmp_path, f"SELECT 1{BIRD_MARK}shop\nSELECT 2\nSELECT 3", "p.txt") == [
        "SELECT 1",
        "SELECT 2",
        "SELECT 3",
    ]


def test_a_byte_order_mark_is_no_part_of_a_query(tmp_path: Path) -> None:
    assert loaded(tmp_path, "\ufeffSELECT 1\nSELECT 2\nSELECT 3", "p.txt")[0] == "SELECT 1"


def test_one_line_of_json_is_one_prediction(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.jsonl", {"question_id": 1, "SQL": "SELECT 1"})
    assert load_predictions(path, questions()) == [None, "SELECT 1", None]


def test_null_and_a_question_left_out_are_no_prediction(tmp_path: Path) -> None:
    assert loaded(tmp_path, {"0": None, "2": "SELECT 3"}) == [None, None, "SELECT 3"]
    assert loaded(tmp_path, [None, "SELECT 2", None]) == [None, "SELECT 2", None]


def test_keys_are_question_ids_if_all_of_them_are_and_positions_otherwise(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.json", {"0": "A", "2": "B"})
    assert load_predictions(path, questions("7", "2", "0")) == [None, "B", "A"]
    assert load_predictions(path, questions("7", "2", "9")) == ["A", None, "B"]
    # An id that two questions share cannot say which one is meant.
    assert load_predictions(path, questions("2", "2", "0")) == ["A", None, "B"]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "p.json", "is empty; expected one query per question"),
        (" \n", "p.sql", "is empty; expected one query per question"),
        ('{"0": "SELECT 1",\n "1" "SELECT 2"}', "p.json", r"not JSON: .*: line 2 column 6"),
        ('["SELECT 1",\n "SELECT 2"', "p.json", r"not JSON: .*: line 2"),
        ('{"qid": 0, "SQL": "A"}\n{"qid": 1, "SQL": }', "p.jsonl", r"line 2: not JSON"),
        ("SELECT 1", "p.json", "line 1: not JSON"),
        ('{"0": "A", "1": "B", "0": "C"}', "p.json", "key '0': comes twice"),
        ({"0": ["SELECT 1"]}, "p.json", "key '0': is list .*; expected a query"),
        ([1, 2, 3], "p.json", "entry 0: is int 1; expected a query"),
        ([{"SQL": 5}], "p.json", "entry 0, key 'SQL': is int 5; expected a query"),
        ([{"qid": 1, "text": "A"}], "p.json", "entry 0: has no query; expected it under .*SQL"),
        (["A", "B"], "p.json", "holds 2 predictions that do not name .*; expected 3"),
        ("A\nB\nC\nD\n", "p.sql", "holds 4 predictions that do not name .*; expected 3"),
        ([{"qid": 1, "SQL": "A"}, {"SQL": "B"}], "p.json", "entry 1: has no question_id"),
        ({"0": "A", "9": "B"}, "p.json", "key '9': '9' is neither .* position from 0 to 2"),
        ({"a": "A"}, "p.json", "key 'a': 'a' is neither the question_id"),
        (
            [{"qid": 1, "SQL": "A"}, {"qid": "1", "SQL": "B"}],
            "p.json",
            "entry 1: answers question '1', as entry 0 does",
        ),
        (
            {"2": with_mark("A", "shop")},
            "p.json",
            "key '2': is for database 'shop'; expected 'zoo', that of question '2'",
        ),
        ("A\nB\nC\tshop", "p.sql", "line 3: is for database 'shop'; expected 'zoo'"),
        ([{"qid": 0, "SQL": "A", "db_id": "zoo"}], "p.json", "entry 0: is for database 'zoo'"),
    ],
)
def test_an_unusable_file_is_named_with_line_and_key(
    tmp_path: Path, content: Any, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        loaded(tmp_path, content, name)
    assert str(caught.value).startswith(f"predictions {str(tmp_path / name)!r}")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"predictions '.*none\.json': No such file"):
        load_predictions(tmp_path / "none.json", questions())
    (tmp_path / "latin.txt").write_bytes(b"SELECT '\xe4'")
    with pytest.raises(InputError, match="not UTF-8 text"):
        load_predictions(tmp_path / "latin.txt", questions())
