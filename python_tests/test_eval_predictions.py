"""Predicted queries in every format, laid beside their questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.env.question import Question, load_questions
from finestep_fast.errors import InputError
from finestep_fast.eval.predictions import BIRD_MARK, SQL_KEYS, load_predictions
from support.json_lines import json_lines

QUERIES = ["SELECT 1", "SELECT 'ä'\n  -- two lines", "SELECT 3"]
DB_IDS = ("shop", "shop", "zoo")


def questions(*ids: str) -> list[Question]:
    """Return three questions."""
    return [
        Question(name, "?", "SELECT 1", db_id, Path(db_id))
        for name, db_id in zip(ids or ("0", "1", "2"), DB_IDS, strict=True)
    ]


def saved(path: Path, content: Any) -> Path:
    """Return a file of text, or of JSON."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return path


def loaded(tmp_path: Path, content: Any, name: str = "p.json") -> list[str | None]:
    return queries(saved(tmp_path / name, content), questions())


def queries(path: Path, asked: list[Question]) -> list[str | None]:
    return [prediction.sql for prediction in load_predictions(path, asked)]


def as_json_lines(entries: list[Any]) -> str:
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
        pytest.param(as_json_lines(QUERIES), id="lines of texts"),
        *(pytest.param(objects(key), id=f"objects with {key}") for key in SQL_KEYS),
        pytest.param(
            [{"question_id": i, "SQL": QUERIES[i], "db_id": DB_IDS[i]} for i in (2, 1, 0)],
            id="objects in another order",
        ),
        pytest.param(
            as_json_lines([{"qid": str(i), "pred": QUERIES[i]} for i in (1, 2, 0)]),
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
    assert queries(path, questions()) == [None, "SELECT 1", None]


def test_null_and_a_question_left_out_are_no_prediction(tmp_path: Path) -> None:
    assert loaded(tmp_path, {"0": None, "2": "SELECT 3"}) == [None, None, "SELECT 3"]
    assert loaded(tmp_path, [None, "SELECT 2", None]) == [None, "SELECT 2", None]


def test_keys_are_question_ids_if_all_of_them_are_and_positions_otherwise(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.json", {"0": "A", "2": "B"})
    assert queries(path, questions("7", "2", "0")) == [None, "B", "A"]
    assert queries(path, questions("7", "2", "9")) == ["A", None, "B"]


def test_a_db_id_with_a_space_is_no_part_of_the_query(tmp_path: Path) -> None:
    asked = [
        Question(str(i), "?", "SELECT 1", name, Path("x"))
        for i, name in enumerate(("my shop", "zoo"))
    ]
    path = saved(tmp_path / "p.sql", "SELECT 1\tmy shop\nSELECT 2\tzoo \n")
    assert queries(path, asked) == ["SELECT 1", "SELECT 2"]
    path = saved(tmp_path / "p.sql", f"SELECT 1{BIRD_MARK}my shop\nSELECT\t2 FROM t\n")
    assert queries(path, asked) == ["SELECT 1", "SELECT\t2 FROM t"]
    path = saved(tmp_path / "p.sql", f"SELECT 1{BIRD_MARK}other shop\nSELECT 2\n")
    with pytest.raises(
        InputError, match="line 1: is for database 'other shop'; expected 'my shop'"
    ):
        queries(path, asked)


@pytest.mark.parametrize(
    "content",
    [
        {"0": 0, "1": "SELECT 2"},
        {"0": [1, None], "1": "SELECT 2"},
        [False, "SELECT 2", None],
        [{"qid": 0, "SQL": {"a": 1}}, {"qid": 1, "SQL": "SELECT 2"}],
        [{"qid": 0, "error": "timeout"}, {"qid": 1, "SQL": "SELECT 2"}],
    ],
)
def test_what_is_no_query_fails_its_question_and_no_other(tmp_path: Path, content: Any) -> None:
    path = saved(tmp_path / "p.json", content)
    first, second, third = load_predictions(path, questions())
    assert (first.sql, second.sql, third.sql) == (None, "SELECT 2", None)
    assert "no query" in first.problem
    assert first.place.startswith(f"predictions {str(path)!r}, ")
    assert second.problem == ""


def test_an_id_that_questions_share_is_matched_only_where_it_is_clear(tmp_path: Path) -> None:
    """As in BIRD's mini-dev: two questions on one database and one on another have the id 7."""
    ids, db_ids = ("7", "7", "2", "7"), ("shop", "shop", "zoo", "zoo")
    asked = [
        Question(name, "?", "SELECT 1", db_id, Path("x"))
        for name, db_id in zip(ids, db_ids, strict=True)
    ]

    def read(content: Any) -> list[str | None]:
        return queries(saved(tmp_path / "p.json", content), asked)

    in_order = [{"question_id": int(name), "SQL": str(i)} for i, name in enumerate(ids)]
    assert read(in_order) == ["0", "1", "2", "3"]
    assert read({str(i): f"at {i}" for i in (3, 2, 1, 0)}) == ["at 0", "at 1", "at 2", "at 3"]
    by_database = [{"qid": 7, "SQL": "A", "db_id": "zoo"}, {"qid": 2, "SQL": "B"}]
    assert read(by_database) == [None, None, "B", "A"]
    assert read({"2": "B"}) == [None, None, "B", None]

    shared = r"'7' is the question_id of 3 questions, at positions 0 and 1 and 3 from 0; expected"
    for unclear in (
        {"7": "A"},
        {"2": "B", "7": "A"},
        {"7": with_mark("A", "shop")},
        list(reversed(in_order)),
        in_order[:2],
    ):
        with pytest.raises(InputError, match=shared):
            read(unclear)
    with pytest.raises(
        InputError, match="'7' is the question_id of a question, and '0' only a pos"
    ):
        read({"7": "A", "0": "B"})


def test_birds_mini_dev_with_a_repeated_id_is_refused_or_read_right(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "bird_minidev_text_only"
    entries = json_lines(folder / "questions.jsonl")
    entries[100]["qid"] = entries[50]["qid"]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    asked = load_questions(tmp_path / "q.jsonl", tmp_path)
    rows = json_lines(folder / "predictions.jsonl")
    system = next(iter(rows[0]["preds"]))
    predicted = [row["preds"][system] for row in rows]
    named = [
        {"question_id": entry["qid"], "SQL": sql}
        for entry, sql in zip(entries, predicted, strict=True)
    ]
    by_position = {str(i): sql for i, sql in enumerate(predicted)}
    for content in (named, by_position, predicted):
        assert queries(saved(tmp_path / "p.json", content), asked) == predicted
    with pytest.raises(InputError, match="is the question_id of 2 questions, at positions 50 and"):
        queries(saved(tmp_path / "p.json", named[::-1]), asked)


def test_json_that_python_cannot_hold_is_named(tmp_path: Path) -> None:
    for content in ("[" * 100_000, "{" + '"a":{' * 100_000, '{"0": ' + "9" * 5000 + "}"):
        with pytest.raises(InputError, match="not JSON"):
            loaded(tmp_path, content)


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
        ({"0": [["SELECT 1"]]}, "p.json", "key '0': is list .*, no query, and no other"),
        ({"0": []}, "p.json", r"key '0': is list \[\], no query, and no other"),
        ([1, 2, 3], "p.json", "entry 0: is int 1, no query, and no other"),
        ([{"SQL": 5}], "p.json", "entry 0: SQL: is int 5, no query, and no other"),
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


def test_queries_are_taken_out_of_fences_unless_they_are_to_stay_as_written(
    tmp_path: Path,
) -> None:
    fenced = "It is:\n```sql\nSELECT 2\n```"
    for content in (
        ["SELECT 1", fenced, f"{fenced}{BIRD_MARK}zoo"],
        {"0": "SELECT 1", "1": fenced, "2": with_mark("SQL: SELECT 2", "zoo")},
        as_json_lines([{"SQL": "SELECT 1"}, {"SQL": fenced}, {"SQL": fenced, "db_id": "zoo"}]),
    ):
        path = saved(tmp_path / "p.json", content)
        read = load_predictions(path, questions())
        assert [prediction.sql for prediction in read] == ["SELECT 1", "SELECT 2", "SELECT 2"]
        assert [prediction.taken_out for prediction in read] == [False, True, True]
        read = load_predictions(path, questions(), as_written=True)
        assert read[1].sql == fenced
        assert not any(prediction.taken_out for prediction in read)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param([["A", "B"], ["C"], "D"], id="list of lists"),
        pytest.param({"2": "D", "0": ["A", "B"], "1": ["C"]}, id="object"),
        pytest.param(as_json_lines([["A", "B"], ["C"], ["D"]]), id="lines of lists"),
        pytest.param(
            as_json_lines([{"SQL": ["A", "B"]}, {"SQL": ["C"]}, {"SQL": "D"}]),
            id="lines of objects with lists",
        ),
        pytest.param(
            [{"qid": 2, "SQL": ["D"]}, {"qid": 0, "SQL": ["A", "B"]}, {"qid": 1, "SQL": "C"}],
            id="objects in another order",
        ),
        pytest.param([[with_mark("A", "shop"), "B"], ["C"], [with_mark("D", "zoo")]], id="marks"),
    ],
)
def test_several_predictions_for_a_question_are_read(tmp_path: Path, content: Any) -> None:
    read = load_predictions(saved(tmp_path / "p.json", content), questions())
    assert [prediction.queries for prediction in read] == [("A", "B"), ("C",), ("D",)]
    assert not any(prediction.problem for prediction in read)


def test_what_is_no_query_among_several_stays_in_its_place(tmp_path: Path) -> None:
    content = [[None, "SQL: SELECT 1", 3], [None], ["SELECT 2"]]
    first, second, third = load_predictions(saved(tmp_path / "p.json", content), questions())
    assert (first.queries, first.taken_out, first.problem) == ((None, "SELECT 1", None), 1, "")
    assert (second.queries, second.problem) == ((None,), "is list [None], no query")
    assert (second.is_missing, first.is_missing, third.queries) == (True, False, ("SELECT 2",))
    mixed = [[with_mark("A", "zoo"), "B"], ["C"], ["D"]]
    with pytest.raises(InputError, match="entry 0: is for database 'zoo'; expected 'shop'"):
        load_predictions(saved(tmp_path / "p.json", mixed), questions())
