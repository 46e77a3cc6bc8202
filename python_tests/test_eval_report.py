"""Reports of an evaluation: Markdown, HTML and JSON, and the table by difficulty."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from finestep_fast.env.question import Question
from finestep_fast.eval.__main__ import main
from finestep_fast.eval.evaluation import Record, Verdict
from finestep_fast.eval.report import Report, markdown, page
from finestep_fast.eval.summary import summary
from finestep_fast.eval.tables import NOTHING, Table, tables
from support.evaluation import Evaluation, found
from support.json_lines import json_lines

BY_DATABASE = [
    ["", "questions", "EX bird", "EX strict", "Soft-F1"],
    ["all", "6", "33.33%", "16.67%", "44.44%"],
    ["shop", "4", "50.00%", "25.00%", "66.67%"],
    ["zoo", "2", "0.00%", "0.00%", "0.00%"],
]
BY_DIFFICULTY = [
    ["", "simple", "moderate", "challenging", "total"],
    ["questions", "2", "2", "2", "6"],
    ["EX bird", "100.00%", "0.00%", "0.00%", "33.33%"],
    ["EX strict", "50.00%", "0.00%", "0.00%", "16.67%"],
    ["Soft-F1", "100.00%", "33.33%", "0.00%", "44.44%"],
]


class Page(HTMLParser):
    """What stands in a page: the texts of its cells, headings and list items."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "link"), "a page loads nothing"
        self.tag = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.tag = ""

    def handle_data(self, data: str) -> None:
        if self.tag in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif data.strip():
            self.texts.setdefault(self.tag, []).append(data)


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Return the cells of the tables in a Markdown text, without the rules below their heads."""
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    rows = [[line.strip("|").split("|") for line in block.splitlines()] for block in blocks]
    assert all(set(cell) <= set("-: ") for table in rows for cell in table[1])
    return [[[cell.strip() for cell in row] for row in [t[0], *t[2:]]] for t in rows]


def test_all_forms_hold_the_same_numbers(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluation.folder
    outputs = [folder / name for name in ("a.md", "a.html", "a.json", "a.jsonl")]
    words = [str(word) for output in outputs for word in ("--output", output)]
    printed = found(capsys, evaluation.words("--semantics", "bird,strict", *words))
    text, html, programs, lines = outputs
    assert markdown_tables(text.read_text(encoding="utf-8")) == [BY_DATABASE, BY_DIFFICULTY]
    read = Page(html.read_text(encoding="utf-8"))
    assert read.tables == [BY_DATABASE, BY_DIFFICULTY]
    assert json.loads(programs.read_text(encoding="utf-8")) == printed
    assert len(json_lines(lines)) == 6
    items = read.texts["li"]
    assert "status under bird: ok 3, gold_error 1, predicted_error 1, no_prediction 1" in items
    assert set(printed["remarks"]) < set(items)
    assert f"sqlite: {printed['sqlite']['version']}" in items
    assert "1 gold query failed and count as wrong" in text.read_text(encoding="utf-8")


def test_texts_cannot_change_what_a_report_says() -> None:
    odd = "<b>|a_*`x`\n# [y](z)&amp;\\"
    report = Report(odd, [Table("x", ("", "n"), ((odd, "1"),))], [odd], {"k": odd}, {})
    read = Page(page(report))
    assert read.tables == [[["", "n"], [odd, "1"]]]
    assert read.texts["h1"] == read.texts["li"][:1] == [odd]
    text = markdown(report)
    escaped = "\\<b\\>\\|a\\_\\*\\`x\\` \\# \\[y\\](z)\\&amp;\\\\"
    assert text.splitlines()[0] == f"# {escaped}"
    assert f"| {escaped} | 1 |" in text.splitlines()
    assert f"- {escaped}" in text.splitlines()


def records(*difficulties: str) -> list[Record]:
    return [
        Record(
            Question("0", "?", "SELECT 1", "shop", Path(), difficulty=difficulty),
            "SELECT 1",
            {"bird": Verdict(True, "ok")},
        )
        for difficulty in difficulties
    ]


def test_a_difficulty_of_birds_that_no_question_has_keeps_its_column() -> None:
    (_, table) = tables(summary(records("simple", "simple", "challenging"), timed=False))
    assert table.head == ("", "simple", "moderate", "challenging", "total")
    assert table.rows[0] == ("questions", "2", "0", "1", "3")
    assert table.rows[1] == ("EX bird", "100.00%", NOTHING, "100.00%", "100.00%")


def test_other_difficulties_have_columns_of_their_own_in_their_order() -> None:
    (_, table) = tables(summary(records("hard", "extra", "easy", "medium", ""), timed=False))
    assert table.head == ("", "easy", "medium", "hard", "extra", "(none)", "total")
    assert len(tables(summary(records("", ""), timed=False))) == 1


def test_outputs_that_cannot_be_are_refused_before_anything_runs(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluation.folder
    for names, message in (
        (("none/report.md",), f"none/report.md': '{folder}/none' is no folder"),
        (("dev.json",), "is one of the files to read"),
        (("a.jsonl", "b.txt"), f"b.txt': a line per prediction goes to '{folder}/a.jsonl' already"),
    ):
        words = [str(word) for name in names for word in ("--output", folder / name)]
        assert main(evaluation.words(*words)) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert message in printed.err
    assert sorted(path.name for path in folder.iterdir()) == [
        "databases",
        "dev.json",
        "predictions.json",
    ]


def test_a_report_that_cannot_be_written_loses_no_numbers(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation.folder / "report.md").mkdir()
    words = evaluation.words("--output", evaluation.folder / "report.md", "--json")
    assert main(words) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["overall"]["questions"] == 6
    assert "report.md': Is a directory" in printed.err
