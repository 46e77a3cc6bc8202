"""The query in a model's completion; plain SQL is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from finestep_fast.errors import InputError
from finestep_fast.sql import query_in
from support.json_lines import json_lines
from support.real_questions import COLLECTIONS, golds

Q = "SELECT name FROM t WHERE a = 'x'"
ONE = "SELECT 1"
FENCED = {
    "fence": f"```sql\n{Q}\n```",
    "capitals": f"```SQL\n{Q}\n```",
    "sqlite": f"```SQLite\n{Q};\n```".replace(";", ""),
    "bare fence": f"```\n{Q}\n```",
    "on one line": f"```sql {Q} ```",
    "space around": f"\n\n  ```sql\n\n{Q}\n\n```  \n",
    "words around": f"Here it is, as you'd want it:\n```sql\n{Q}\n```\nIt's the `name` of each.",
    "words that look like SQL": f"With the table t we can\n```sql\n{Q}\n```",
    "select as a word": f"Select the names:\n```\n{Q}\n```",
    "the last of several": f"First try:\n```sql\n{ONE}\n```\nBetter:\n```sql\n{Q}\n```\nDone.",
    "other blocks": f"```python\nprint(1)\n```\n```sql\n{Q}\n```\nResult:\n```\n| name |\n```",
    "a bare one after a tagged one": f"```sql\n{Q}\n```\n```\n{ONE}\n```",
    "a tagged one without a query": f"```\n{Q}\n```\n```sql\nand so on\n```",
    "never closed": f"```sql\n{Q}",
    "opened by the prompt": f"{Q}\n```",
    "opened by the prompt, words after": f"{Q}\n```\nThis gives the names.",
    "closed on the line": f"{Q} ```",
    "an empty second block": f"{Q}\n```\n```",
    "reasoning": f"<think>Maybe ```sql\n{ONE}\n```?</think>\n```sql\n{Q}\n```",
    "reasoning without a fence": f"<think>\nLet me see.\n</think>\n\n{Q}\n",
    "label": f"SQL: {Q}",
    "label in bold": f"**SQL:**\n{Q}",
    "other labels": f"SQLQuery:\n{Q}",
    "label and fence": f"SQL:\n```sql\n{Q}\n```",
    "label after reasoning": f"<think>x</think>sql: {Q}",
}


@pytest.mark.parametrize("name", FENCED)
def test_the_query_is_taken_out(name: str) -> None:
    assert query_in(FENCED[name]) == Q


def test_a_query_with_a_comment_before_it_a_cte_or_parentheses_is_found() -> None:
    for query in ("-- names\nSELECT 1", "WITH a AS (SELECT 1) SELECT * FROM a", "(SELECT 1)"):
        assert query_in(f"The answer:\n```\n{query}\n```\nGood luck.") == query
    recursive = "WITH RECURSIVE c(x) AS (SELECT 1) SELECT x FROM c"
    assert query_in(f"{recursive}\n```") == recursive


def test_what_is_no_query_in_a_sql_fence_is_judged_as_it_is() -> None:
    assert query_in("Sorry:\n```sql\nDROP TABLE t\n```") == "DROP TABLE t"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  SELECT 1 ;\n",
        "SELECT 1 -- ```sql",
        "SELECT '```sql\nSELECT 2\n```'",
        "SELECT a AS ```a``` FROM t",
        "SELECT '</think>'",
        "SELECT 'SQL: SELECT 1'",
        "sql",
        "SQL: nothing that I could tell",
        "There is no answer.",
        "The query is SELECT 1",
        "```python\nprint(1)\n```",
        "<think>```sql\nSELECT 1".replace("```sql\n", ""),
        "DELETE FROM t",
        "SELECT '\ud800'",
    ],
)
def test_plain_sql_and_texts_without_a_query_stay_as_they_are(text: str) -> None:
    assert query_in(text) == text


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="text is None; expected text"):
        query_in(None)  # type: ignore[arg-type]


def test_no_gold_query_of_others_is_changed(shared_data: Path) -> None:
    for collection in COLLECTIONS:
        assert all(query_in(query) == query for _, query in golds(shared_data / collection))


def test_of_real_predictions_those_with_a_fence_are_changed_and_no_others(
    shared_data: Path,
) -> None:
    changed = {}
    for collection in ("spider_dev", "spider_dk", "bird_minidev_text_only"):
        systems: dict[str, int] = {}
        for row in json_lines(shared_data / collection / "predictions.jsonl"):
            for system, given in row["preds"].items():
                for text in given if isinstance(given, list) else [given]:
                    found = query_in(text)
                    assert (found != text) == ("```" in text), text
                    assert "```" not in found
                    systems[system] = systems.get(system, 0) + (found != text)
        changed[collection] = {system: count for system, count in systems.items() if count}
    assert changed == {
        "spider_dev": {"gpt4_beam10": 27},
        "spider_dk": {"gpt4_beam10": 6},
        "bird_minidev_text_only": {
            "gpt-4-turbo_sqlite": 46,
            "mistralai-mixtral-8x7b-instru-4_sqlite": 17,
        },
    }
