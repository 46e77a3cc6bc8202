"""The numbers of a summary as tables of text: for the screen, Markdown and HTML alike.

Numbers come from `summary`; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finestep_fast.eval.summary import BIRD_DIFFICULTIES, Scores, Summary

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text; the first of each row says what the row is."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(found: Summary) -> list[Table]:
    """Return the tables of a summary: by database and, where questions have one, by difficulty.

    The second has a column for each difficulty and one for all, as BIRD's evaluation prints it.
    """
    overall = found["overall"]
    rows = [("all", *cells(overall))]
    if len(found["by_database"]) > 1:
        rows += [(name, *cells(numbers)) for name, numbers in found["by_database"].items()]
    made = [Table("by database", ("", *column_names(overall)), tuple(rows))]
    if found["by_difficulty"]:
        made.append(difficulty_table(found["by_difficulty"], overall))
    return made


def difficulty_table(by_difficulty: Mapping[str, Scores], overall: Scores) -> Table:
    """Return the table with difficulties as columns; all of BIRD's if any of them is there."""
    names = list(by_difficulty)
    if set(names) & set(BIRD_DIFFICULTIES):
        names = [*BIRD_DIFFICULTIES, *(n for n in names if n not in BIRD_DIFFICULTIES)]
    labels = column_names(overall)
    nothing = ["0", *[NOTHING] * (len(labels) - 1)]
    columns = [cells(by_difficulty[n]) if n in by_difficulty else nothing for n in names]
    columns.append(cells(overall))
    head = ("", *(name or "(none)" for name in names), "total")
    return Table("by difficulty", head, tuple(zip(labels, *columns, strict=True)))


def status_lines(found: Summary) -> list[str]:
    """Return a line for each semantics that counts how verdicts ended."""
    return [
        f"status under {name}: "
        + ", ".join(f"{status} {count}" for status, count in statuses.items())
        for name, statuses in found["statuses"].items()
    ]


def column_names(numbers: Scores) -> list[str]:
    """Return the heads of the columns for numbers of this kind."""
    heads = ["questions"]
    for name in numbers["ex"]:
        heads += [f"EX {name}", *(f"pass@{k}" for k in ks_shown(numbers, name))]
        heads += ["majority"] if "majority" in numbers else []
    return [*heads, "Soft-F1", *(["R-VES"] if "r_ves" in numbers else [])]


def ks_shown(numbers: Scores, semantics: str) -> list[str]:
    """Return the k of the columns pass@k; EX is pass@1 already."""
    return [k for k in numbers.get("pass_at", {}).get(semantics, {}) if k != "1"]


def cells(numbers: Scores) -> list[str]:
    """Return a row of the table: counts as they are, scores in percent, R-VES as BIRD prints it.

    A dash stands for an average over nothing.
    """
    shares: list[float | None] = []
    for name, value in numbers["ex"].items():
        shares += [value, *(numbers["pass_at"][name][k] for k in ks_shown(numbers, name))]
        shares += [numbers["majority"][name]] if "majority" in numbers else []
    shares.append(numbers["soft_f1"])
    row = [f"{share:.2%}" if share is not None else NOTHING for share in shares]
    if "r_ves" in numbers:
        score = numbers["r_ves"]
        row.append(f"{100 * score:.2f}" if score is not None else NOTHING)
    return [str(numbers["questions"]), *row]
