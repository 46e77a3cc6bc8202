"""Short queries that copies of SQLite answer differently, and some that all answer alike.

Not a survey of SQLite's releases: each is here because a predicted query may hold such a thing, or
because it looks as if copies could differ. All but a few are made of literals.
"""

from __future__ import annotations

DATABASE = """
    CREATE TABLE fruit (name TEXT COLLATE NOCASE, weight INTEGER);
    INSERT INTO fruit VALUES ('apple', 1), ('Apple', 2), ('APPLE', 3), ('pear', 4);
    CREATE TABLE price (euro REAL);
    INSERT INTO price VALUES (0.1), (0.2), (0.3);
"""

# Halves at the fourth, third and second place: 0.0005, 0.0015, ... 99.9995 and so on. Divided as
# here they are the nearest doubles of the decimals.
_HALVES = (
    "WITH RECURSIVE k(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM k WHERE i < 99999) "
    "SELECT count(*) FROM k WHERE round((10 * i + 5) / {0}0.0, {1}) {2} (i + 1) / {0}.0"
)

# What the version decides.
OF_VERSION = {
    "round to 3 places: below half up": _HALVES.format("1000", 3, "<"),
    "round to 3 places: above half up": _HALVES.format("1000", 3, ">"),
    "round to 2 places: not half up": _HALVES.format("100", 2, "<>"),
    "round to 1 place: not half up": _HALVES.format("10", 1, "<>"),
    "round to no places: not half up": _HALVES.format("1", 0, "<>"),
    "round of halves": "SELECT round(1.005, 2), round(2.675, 2), round(0.285, 2), round(2.5, 0)",
    "printf of halves": "SELECT printf('%.2f', 1.005), printf('%.2f', 2.675), printf('%.0f', 0.5)",
    "sum of ten 0.1": "WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k "
    "WHERE i < 10) SELECT sum(0.1), avg(0.1), total(0.1) FROM k",
    "sum that cancels": "SELECT sum(x) FROM (SELECT 1e100 AS x UNION ALL SELECT 1.0 "
    "UNION ALL SELECT -1e100)",
    "sum and mean of a column": "SELECT sum(euro), avg(euro) FROM price",
    "sum of integers too large": "SELECT sum(x) FROM (SELECT 9223372036854775807 AS x "
    "UNION ALL SELECT 1)",
    "real as text": "SELECT (0.1 + 0.2) || '', CAST(1.0 / 3 AS TEXT), 1e15 || ''",
    "real in printf": "SELECT printf('%s', 0.1 + 0.2), printf('%!.17g', 0.1)",
    "real in JSON": "SELECT json_array(0.1 + 0.2)",
    "text as real": "SELECT CAST('2.2250738585072011e-308' AS REAL), '0.1' + 0, '1e400' + 0",
    "arithmetic": "SELECT 7 / 2, -7 / 2, -7 % 3, 7.0 / 2, 5 / 0, 4.35 * 100, 1.1 + 2.2, 1e308 * 10",
    "casts": "SELECT CAST('12abc' AS INTEGER), CAST(-1.9 AS INTEGER), CAST(1e19 AS INTEGER)",
    "types compared": "SELECT '10' < 9, 10 < '9', 1 = '1', 1 = 1.0, 'a' = 'A'",
    "large integers compared": "SELECT 9007199254740993 = 9007199254740992.0, "
    "9223372036854775807 < 9.3e18",
    "JSON ->> number as text": "SELECT '[11,22,33]' ->> '1'",
    "JSON ->> number": "SELECT '[11,22,33]' ->> 1",
    "JSON ->> number below 0": "SELECT '[11,22,33]' ->> -1",
    "JSON ->> key that is a number": """SELECT '{"1":5}' ->> '1'""",
    "JSON5": "SELECT json('{a:1}')",
    "JSON of NULL": """SELECT json_extract('{"a":null}', '$.a'), json_type('[]')""",
    "UNION without case": "SELECT name FROM fruit WHERE weight < 4 "
    "UNION SELECT name FROM fruit WHERE weight < 4",
    "DISTINCT without case": "SELECT DISTINCT name FROM fruit",
    "GROUP BY without case": "SELECT name, count(*) FROM fruit GROUP BY name",
    "INTERSECT without case": "SELECT name FROM fruit WHERE weight = 1 "
    "INTERSECT SELECT name FROM fruit WHERE weight = 3",
    "outer column in GROUP BY": "SELECT name FROM fruit "
    "WHERE weight IN (SELECT count(*) FROM price GROUP BY weight)",
    "outer column in ORDER BY": "SELECT name FROM fruit "
    "WHERE weight > (SELECT euro FROM price ORDER BY weight LIMIT 1)",
    "outer column in WHERE": "SELECT name FROM fruit "
    "WHERE weight > (SELECT max(euro) FROM price WHERE weight > 3)",
    "column beside max": "SELECT name, max(weight) FROM fruit",
    "column beside min": "SELECT name, min(weight), count(*) FROM fruit",
    "day that does not exist": "SELECT date('2023-02-31')",
    "month that does not exist": "SELECT date('2023-13-01'), date('2023-2-1')",
    "a month later": "SELECT date('2024-01-31', '+1 month')",
    "a month later, floor": "SELECT date('2024-01-31', '+1 month', 'floor')",
    "strftime %e": "SELECT strftime('%e', '2020-01-02')",
    "strftime %G-%V": "SELECT strftime('%G-%V', '2021-01-03')",
    "subsec": "SELECT datetime('2020-01-01 00:00:00.999', 'subsec')",
    "timediff": "SELECT timediff('2023-02-15', '2023-03-15')",
    "concat": "SELECT concat('a', NULL, 'b'), concat_ws('-', 'a', NULL, 'b')",
    "string_agg": "SELECT string_agg(name, ',') FROM fruit",
    "aggregate with ORDER BY": "SELECT group_concat(name, ',' ORDER BY weight DESC) FROM fruit",
    "iif of two": "SELECT iif(0, 1)",
    "if": "SELECT if(1, 2, 3)",
    "octet_length": "SELECT octet_length('\N{LATIN SMALL LETTER A WITH DIAERESIS}')",
    "unhex": "SELECT hex(unhex('41'))",
    "digits in groups": "SELECT 1_000",
    "full join": "SELECT a.weight, b.weight FROM fruit a FULL JOIN fruit b "
    "ON a.weight = b.weight + 2 ORDER BY 1, 2",
    "window functions": "SELECT ntile(2) OVER w, lag(weight) OVER w FROM fruit "
    "WINDOW w AS (ORDER BY weight)",
    "double quotes": 'SELECT "no such column"',
    "letters beyond ASCII": "SELECT upper('\N{LATIN SMALL LETTER E WITH ACUTE}'), length('\xe4')",
}

# What the build decides: options of the compiler, functions added.
OF_BUILD = {
    "BLOB LIKE": "SELECT x'616263' LIKE 'abc'",
    "median": "SELECT median(weight) FROM fruit",
    "percentile": "SELECT percentile(weight, 50) FROM fruit",
    "sqrt": "SELECT sqrt(4), pow(2, 3), ceil(1.2)",
    "stddev": "SELECT stddev(weight) FROM fruit",
    "generate_series": "SELECT value FROM generate_series(1, 3)",
}
PROBES = {**OF_VERSION, **OF_BUILD}
