"""What the docs say that can be run or looked up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from finestep_fast import sql
from support.databases import written

ROOT = Path(__file__).resolve().parents[1]
SQL_DOC = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")


def test_the_rewards_of_the_docs_work(shop: Path) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", SQL_DOC, flags=re.DOTALL):
        exec(block, names)
    gold = "SELECT id FROM customer WHERE city = 'London'"
    right = "First I look.\n```sql\nSELECT id FROM customer WHERE city IN ('London')\n```"
    texts = [right, "SELECT 7", "SQL: " + gold]
    paths, golds = [shop] * 3, [gold] * 3
    assert names["rewards"](paths, texts, golds) == [1.0, 0.0, 1.0]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    for completions in (texts, messages):
        scores = names["execution_accuracy"](
            completions=completions, prompts=[""] * 3, database=paths, gold=[gold, gold, "SELEC"]
        )
        assert scores == [1.0, 0.0, None]
    score = names["compute_score"]("bird", right, gold, extra_info={"database": shop})
    assert score == 1.0


PREDICTIONS: dict[str, list[tuple[sql.Value, ...]]] = {
    "the same rows in another order": [(2, "b"), (1, "a")],
    "a row twice": [(1, "a"), (2, "b"), (2, "b")],
    "the columns the other way round": [("a", 1), ("b", 2)],
    "`1.0` for `1`": [(1.0, "a"), (2, "b")],
    '`"1"` for `1`': [("1", "a"), (2, "b")],
}


@pytest.mark.parametrize("line", PREDICTIONS)
def test_the_table_of_definitions_is_right(line: str) -> None:
    header = next(row for row in SQL_DOC.splitlines() if row.startswith("| prediction |"))
    semantics = [cell.strip() for cell in header.split("|")[2:-1]]
    assert sorted(semantics) == sorted(get_args(sql.Semantics))
    row = next(row for row in SQL_DOC.splitlines() if row.startswith(f"| {line} |"))
    said = dict(zip(semantics, (cell.strip() for cell in row.split("|")[2:-1]), strict=True))
    gold: list[tuple[sql.Value, ...]] = [(1, "a"), (2, "b")]
    for name in get_args(sql.Semantics):
        if name == "soft_f1":
            assert f"{sql.score_f1(PREDICTIONS[line], gold):.2f}" == said[name]
        else:
            equal = sql.compare(PREDICTIONS[line], gold, semantics=name)
            assert said[name].split(",")[0] == ("yes" if equal else "no"), name


def test_the_limits_are_those_of_the_docs(tmp_path: Path) -> None:
    shop = written(tmp_path / "shop.sqlite")
    below, beyond = sql.run([(shop, f"SELECT zeroblob({n})") for n in (15_000_000, 17_000_000)])
    assert (below.status, beyond.status) == (sql.Status.OK, sql.Status.TOO_LARGE)
