#!/usr/bin/env bash
# Two wheels with the same version of SQLite give a query other results: the build decides too.
#
# Guess: with sqlite_version equal, a query gives the same rows, or fails, in both.
# Seen with apsw 3.53.4.0 and pysqlite3 0.6.1, which both bring SQLite 3.53.4:
#                                       apsw 3.53.4.0          pysqlite3 0.6.1
#   x'616263' LIKE 'abc'                0                      1
#   SELECT median(x)                    2.0                    no such function: median
#   SELECT percentile(x, 50)            2.0                    no such function: percentile
#   SELECT soundex('Ada')               no such function       A300
# Nor does a newer version know all that an older one knows: apsw 3.50.4.0 (SQLite 3.50.4) has no median.
# The first row is no failure: a filter on a column that holds BLOBs keeps no row in the one, all in the other, and
# nothing says so. Who meets it: an evaluator on other wheels than the environment in which the
# policy learned; models that learn that median() works. Compare the compile options as well as the version.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cat >"$folder/show.py" <<'PYTHON'
import sys

ROWS = "FROM (SELECT 1 AS x UNION ALL SELECT 2 UNION ALL SELECT 6)"
QUERIES = (
    "SELECT x'616263' LIKE 'abc'",
    f"SELECT median(x) {ROWS}",
    f"SELECT percentile(x, 50) {ROWS}",
    "SELECT soundex('Ada')",
)
EXPECTED = {
    "apsw 3.53.4": (0, 2.0, 2.0, "no such function: soundex"),
    "pysqlite3 3.53.4": (1, "no such function: median", "no such function: percentile", "A300"),
    "apsw 3.50.4": (1, "no such function: median", "no such function: percentile", "no such function: soundex"),
}
package = sys.argv[1]
if package == "apsw":
    import apsw

    version, database, failure = apsw.sqlitelibversion(), apsw.Connection(":memory:"), apsw.SQLError
else:
    from pysqlite3 import dbapi2

    version, database, failure = dbapi2.sqlite_version, dbapi2.connect(":memory:"), dbapi2.OperationalError


def answer(sql):
    try:
        ((value,),) = database.execute(sql)
    except failure as error:
        return str(error).removeprefix("SQLError: ")
    return value


found = tuple(map(answer, QUERIES))
print(f"{package}, SQLite {version}: {found}")
assert found == EXPECTED[f"{package} {version}"], EXPECTED[f"{package} {version}"]
PYTHON
for wheel in apsw==3.53.4.0 pysqlite3==0.6.1 apsw==3.50.4.0; do
  "$folder/venv/bin/pip" install -q --only-binary :all: --target "$folder/$wheel" "$wheel"
  PYTHONPATH="$folder/$wheel" "$folder/venv/bin/python" "$folder/show.py" "${wheel%%=*}"
done
echo "as described"
