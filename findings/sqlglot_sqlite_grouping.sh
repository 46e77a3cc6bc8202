#!/usr/bin/env bash
# sqlglot's tree of a SQLite query lets LIKE, IN and BETWEEN bind more tightly than = and <; SQLite does not.
#
# Guess: read="sqlite" groups operators as SQLite does.
# Seen with sqlglot 30.30.0 and SQLite 3.40.1. SQLite gives LIKE, IN, BETWEEN and IS the rank of =, from left
# to right, below <, as its table of operators says:
#   text                          sqlglot's tree                   SQLite
#   2 = 2 LIKE 1                  2 = (2 LIKE 1)       0           (2 = 2) LIKE 1          1
#   1 < 2 IN (1, 2)               1 < (2 IN (1, 2))    0           (1 < 2) IN (1, 2)       1
#   0 BETWEEN 0 AND 1 > 2         (0 BETWEEN 0 AND 1) > 2   0      0 BETWEEN 0 AND (1 > 2) 1
# Written out again the text is the same, so nothing shows until a tree is compared, simplified or
# turned into another dialect. || and unary minus are grouped as SQLite does. Who meets it: rewards that
# compare predicates or take queries apart. sqlglot 30.16 also read 1 % -2 * 3 as 1 % (-2 * 3); pin it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q sqlglot==30.30.0
"$folder/venv/bin/pip" install -q --no-deps --target "$folder/older" sqlglot==30.16.0
cat >"$folder/show.py" <<'PYTHON'
import sqlite3

import sqlglot
from sqlglot import exp

print(f"sqlglot {sqlglot.__version__}, SQLite {sqlite3.sqlite_version}")
database = sqlite3.connect(":memory:")


def value(text):
    return database.execute(f"SELECT {text}").fetchone()[0]


def tree(text):
    return sqlglot.parse_one(f"SELECT {text}", read="sqlite").selects[0]


for text, outer, of_sqlglot, of_sqlite in (
    ("2 = 2 LIKE 1", exp.EQ, "2 = (2 LIKE 1)", "(2 = 2) LIKE 1"),
    ("1 < 2 IN (1, 2)", exp.LT, "1 < (2 IN (1, 2))", "(1 < 2) IN (1, 2)"),
    ("0 BETWEEN 0 AND 1 > 2", exp.GT, "(0 BETWEEN 0 AND 1) > 2", "0 BETWEEN 0 AND (1 > 2)"),
):
    print(f"{text} is {value(text)}: {of_sqlglot} is {value(of_sqlglot)}, {of_sqlite} is {value(of_sqlite)}")
    assert value(text) == value(of_sqlite) == 1
    assert value(of_sqlglot) == 0
    assert type(tree(text)) is outer is type(tree(of_sqlglot)), text
    assert type(tree(of_sqlite)) is not outer, text
assert type(tree("2 * '1' || '2'")) is exp.Mul and type(tree("-1 || 2")) is exp.DPipe
product = tree("1 % -2 * 3")
assert type(product) is exp.Mul
print("as described")
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
PYTHONPATH="$folder/older" "$folder/venv/bin/python" - <<'PYTHON'
import sqlglot
from sqlglot import exp

remainder = sqlglot.parse_one("SELECT 1 % -2 * 3", read="sqlite").selects[0]
print(f"sqlglot {sqlglot.__version__}: 1 % -2 * 3 is a {type(remainder).__name__}")
assert sqlglot.__version__ == "30.16.0" and type(remainder) is exp.Mod
PYTHON
