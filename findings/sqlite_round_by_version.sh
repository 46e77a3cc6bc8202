#!/usr/bin/env bash
# Whether a predicted query is right depends on the SQLite that a wheel brings: ROUND and SUM changed at 3.43.0.
#
# Guess: ROUND(x, 2) and SUM of the same column are the same everywhere; evaluators need not say which SQLite they use.
# Seen with apsw 3.42.0.1, 3.43.0.0 and 3.54.1.0, which bring SQLite 3.42.0, 3.43.0 and 3.54.1:
#                                                      3.42.0                3.43.0        3.54.1
#   ROUND(2.675, 2)                                    2.68                  2.67          2.67
#   ROUND(x, 3) of 0.0005, 0.0015, ... 99.9995
#     that are below half up, of 100 000               0                     49 600        49 435
#   SUM of ten rows of 0.1                             0.9999999999999999    1.0           1.0
#   SELECT ... GROUP BY 1 HAVING SUM(euro) = 1.0       no row                a row         a row
#   gold SELECT ROUND(AVG(euro), 2)
#   beside CAST(100 * AVG(euro) + 0.5 AS INTEGER) / 100.0
#     of the prices 2.67 and 2.68                      right                 wrong         wrong
# 2.675 is stored as 2.67499999999999982. Up to 3.42.0 all these halves go up; in 3.43.0 exactly those go down that are
# stored too small; 3.54.1 rounds 165 of them up again. SUM keeps track of its rounding errors since 3.43.0. Who meets
# it: gold results that were stored once and are compared with predictions run elsewhere; two papers' scores; a
# cluster whose nodes have other systems. Say the version beside the score, and run both queries on one.
# Needs Python 3.11 or older: apsw 3.42.0.1 has no wheel for newer ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cat >"$folder/show.py" <<'PYTHON'
import sys
from fractions import Fraction

import apsw

EXPECTED = {  # ROUND(2.675, 2), ROUND below half up, SUM, rows of HAVING, right
    "3.42.0": (2.68, 0, 0.9999999999999999, 0, True),
    "3.43.0": (2.67, 49_600, 1.0, 1, False),
    "3.54.1": (2.67, 49_435, 1.0, 1, False),
}
database = apsw.Connection(":memory:")


def rows(sql):
    return list(database.execute(sql))


rows("CREATE TABLE tip (day TEXT, euro REAL); CREATE TABLE price (euro REAL)")
rows("INSERT INTO tip VALUES " + ", ".join(["('Monday', 0.1)"] * 10))
rows("INSERT INTO price VALUES (2.67), (2.68)")
((rounded,),) = rows("SELECT ROUND(2.675, 2)")
halves = "WITH RECURSIVE k(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM k WHERE i < 99999)"
halves = rows(f"{halves} SELECT i, ROUND((10 * i + 5) / 10000.0, 3) - (i + 1) / 1000.0 FROM k")
down = {i for i, difference in halves if difference < 0}
stored_too_small = {i for i, _ in halves if Fraction((10 * i + 5) / 10000) < Fraction(10 * i + 5, 10000)}
((total,),) = rows("SELECT SUM(euro) FROM tip")
full = rows("SELECT day FROM tip GROUP BY 1 HAVING SUM(euro) = 1.0")
gold = rows("SELECT ROUND(AVG(euro), 2) FROM price")
predicted = rows("SELECT CAST(100 * AVG(euro) + 0.5 AS INTEGER) / 100.0 FROM price")
version = apsw.sqlitelibversion()
print(f"SQLite {version}: ROUND {rounded}, {len(down)} below half up, SUM {total!r}, {len(full)} rows, gold {gold}, predicted {predicted}")
assert (rounded, len(down), total, len(full), set(gold) == set(predicted)) == EXPECTED[version]
assert not any(difference > 0 for _, difference in halves) and version == sys.argv[1]
assert version == "3.42.0" or len(stored_too_small - down) == (165 if version == "3.54.1" else 0)
assert down <= stored_too_small
PYTHON
for version in 3.42.0.1 3.43.0.0 3.54.1.0; do
  "$folder/venv/bin/pip" install -q --only-binary :all: --target "$folder/$version" "apsw==$version"
  PYTHONPATH="$folder/$version" "$folder/venv/bin/python" "$folder/show.py" "${version%.*}"
done
echo "as described"
