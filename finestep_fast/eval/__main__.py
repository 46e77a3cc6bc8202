"""`python -m finestep_fast.eval PREDICTIONS --questions FILE --databases DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from finestep_fast.errors import FinestepError
from finestep_fast.eval import command
from finestep_fast.eval.evaluation import SEMANTICS
from finestep_fast.output import open_output, written

_DESCRIPTION = """\
Evaluate predicted SQL: execution accuracy (EX), Soft-F1 and, on request, R-VES.

  python -m finestep_fast.eval predictions.json --questions dev.json --databases DIR

PREDICTIONS is BIRD's JSON {"0": "SQL\\t----- bird -----\\tdb_id"}, a JSON list or JSON
lines of queries or of {"question_id": ..., "SQL": ...}, or a text, one query per line.
In JSON a list of queries may stand for a query: several predictions for a question.
A query in a fence (```sql), after "SQL:" or between words is taken out, and counted.

Exit status: 0, or 2 for an error and 130 for Ctrl-C. With --compare-sqlite 1 if a verdict or a
result changes; the order of rows alone does not count.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m finestep_fast.eval",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s PREDICTIONS --questions FILE --databases DIR [...]",
    )
    add = parser.add_argument
    add("predictions", metavar="PREDICTIONS", type=Path, nargs="?", help=argparse.SUPPRESS)
    add(
        "--questions",
        metavar="FILE",
        type=Path,
        help="BIRD's JSON, JSON lines, or lines of SQL<tab>db_id",
    )
    add("--databases", metavar="DIR", type=Path, help="<db_id>/<db_id>.sqlite or <db_id>.sqlite")
    add(
        "--max-unusable",
        metavar="SHARE",
        type=float,
        default=0.1,
        help="refuse if more questions' databases are unreadable (default 0.1)",
    )
    add(
        "--semantics",
        metavar="NAMES",
        default="bird",
        help=f"when results are equal, comma-separated: {', '.join(SEMANTICS)} (on every .sqlite "
        "file of a folder); default bird",
    )
    add("--keep-distinct", action="store_true", help="test_suite: leave DISTINCT in the queries")
    add("--as-written", action="store_true", help="leave queries in ```fences```, where they fail")
    add(
        "--efficiency",
        metavar="REPEATS",
        type=int,
        nargs="?",
        const=100,
        default=0,
        help="also R-VES: time right queries beside their golds, 100 times each by default",
    )
    add("--pass-at", metavar="K,K", help="several predictions a question: pass@k, as in 1,4,8")
    add(
        "--output",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="write a report if it ends in .md, .html or .json, else a JSON line per prediction; "
        "may be given several times",
    )
    add("--json", action="store_true", help="print one JSON object instead of a table")
    add("--limit", metavar="N", type=int, help="only the first N questions")
    add("--timeout-s", metavar="S", type=float, default=30.0, help="per query (default 30)")
    add("--max-rows", metavar="N", type=int, default=2_000_000, help="per result (2 million)")
    add("--workers", metavar="N", type=int, help="queries at a time; by default one per core")
    add(
        "--compare-sqlite",
        metavar="PATH",
        help="instead: say which verdicts and results change under the SQLite library at PATH",
    )
    add("--version", action="store_true", help="print the versions of this and of SQLite")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        open_output()
        if given.version:
            with written():
                print(command.version_text())
            return 0
        for name in ("predictions", "questions", "databases"):
            if getattr(given, name) is None:
                parser.error(f"{'PREDICTIONS' if name == 'predictions' else '--' + name} missing")
        return command.evaluate(given)
    except FinestepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
