#!/usr/bin/env bash
# sqlglot walks the tree of a UNION with ORDER BY and LIMIT in an order that differs from process to process.
#
# Guess: one text, one version, one tree, so one order of walking it.
# Seen with sqlglot 30.30.0: the parser moves ORDER BY, LIMIT and OFFSET from the last SELECT to the set
# operation by going through a set of their names, so their order follows PYTHONHASHSEED. sql() writes the same
# text and == holds; find_all(), walk(), repr() and dump() give another order. For
#   SELECT a FROM t UNION SELECT b FROM u ORDER BY a LIMIT 1 OFFSET 2
# find_all(Literal) in depth-first order gives 1, 2 or 2, 1.
# Who meets it: whoever numbers literals to turn them into parameters, hashes repr(tree) or dump() to find equal
# queries across workers or after a restart, or keeps the first names found. Sort these three, or set the seed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q sqlglot==30.30.0
cat >"$folder/show.py" <<'PYTHON'
import sqlglot
from sqlglot import exp

tree = sqlglot.parse_one(
    "SELECT a FROM t UNION SELECT b FROM u ORDER BY a LIMIT 1 OFFSET 2", read="sqlite"
)
literals = [literal.this for literal in tree.find_all(exp.Literal, bfs=False)]
tail = [name for name in tree.args if name in ("order", "limit", "offset")]
print(" ".join(literals), "|", " ".join(tail), "|", tree.sql("sqlite"))
PYTHON
for seed in 0 1 2 3 4 5 6 7; do
  PYTHONHASHSEED=$seed "$folder/venv/bin/python" "$folder/show.py"
done | sort | uniq -c | tee "$folder/seen"
test "$(cut -d '|' -f 1 "$folder/seen" | sed 's/^ *[0-9]* //' | sort -u | wc -l)" -eq 2
test "$(cut -d '|' -f 2 "$folder/seen" | sort -u | wc -l)" -ge 3
test "$(cut -d '|' -f 3 "$folder/seen" | sort -u | wc -l)" -eq 1
plain="SELECT a FROM t ORDER BY a LIMIT 1 OFFSET 2"
for seed in 0 1 2 3; do
  PYTHONHASHSEED=$seed "$folder/venv/bin/python" -c \
    "import sqlglot, sys; print(list(sqlglot.parse_one(sys.argv[1], read='sqlite').args))" "$plain"
done | sort -u | tee "$folder/plain"
test "$(wc -l <"$folder/plain")" -eq 1
echo "as described; without a set operation the order is always the same"
