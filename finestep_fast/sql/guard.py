"""The wall around one connection: what a query may do, and until when.

No protection from one instruction that SQLite cannot interrupt: limits on lengths keep the known
ones short.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time

from finestep_fast.sql import lexer

MAX_VALUE_BYTES = 16 << 20
MAX_SQL_BYTES = 128 << 10
MAX_EXPANDED_CTES = 4096
INSTRUCTIONS_PER_TICK = 1000
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MAX_SQL_BYTES,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
READING_ACTIONS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
WRITING_ACTIONS = """
    ALTER_TABLE ANALYZE ATTACH CREATE_INDEX CREATE_TABLE CREATE_TEMP_INDEX CREATE_TEMP_TABLE
    CREATE_TEMP_TRIGGER CREATE_TEMP_VIEW CREATE_TRIGGER CREATE_VIEW CREATE_VTABLE DELETE DETACH
    DROP_INDEX DROP_TABLE DROP_TEMP_INDEX DROP_TEMP_TABLE DROP_TEMP_TRIGGER DROP_TEMP_VIEW
    DROP_TRIGGER DROP_VIEW DROP_VTABLE INSERT PRAGMA REINDEX SAVEPOINT TRANSACTION UPDATE
"""
ACTION_NAMES = {
    getattr(sqlite3, f"SQLITE_{name}"): name.replace("_", " ") for name in WRITING_ACTIONS.split()
}
# Every function of SQLite that only computes. Not here: load_extension, fts3_tokenizer, edit,
# readfile, writefile, sqlite_log, compile options, and whatever an unknown build adds.
COMPUTING_FUNCTIONS = """
    abs char coalesce concat concat_ws format glob hex if ifnull iif instr length like likelihood
    likely lower ltrim max min nullif octet_length printf quote random randomblob replace round
    rtrim sign soundex substr substring subtype trim typeof unhex unicode unistr unistr_quote
    unlikely upper zeroblob match regexp changes total_changes last_insert_rowid sqlite_version

    avg count group_concat median mode percentile percentile_cont percentile_disc stddev
    string_agg sum total variance

    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value
    nth_value

    date time datetime julianday unixepoch strftime timediff current_date current_time
    current_timestamp

    acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10
    log2 mod pi pow power radians sin sinh sqrt tan tanh trunc

    json json_array json_array_length json_array_insert json_error_position json_extract
    json_group_array json_group_object json_insert json_object json_patch json_pretty json_quote
    json_remove json_replace json_set json_type json_valid jsonb jsonb_array jsonb_array_insert
    jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert jsonb_object jsonb_patch
    jsonb_remove jsonb_replace jsonb_set -> ->>

    bm25 highlight snippet offsets matchinfo rtreedepth rtreenode
"""
FUNCTIONS = frozenset(COMPUTING_FUNCTIONS.split())


class Guard:
    """Authorizer and clock of one connection.

    Attributes:
        deadline: When the running query must end, in the time of `time.monotonic`.
        refusal: Why the running query was refused; empty while it was not.
        cancelled: Whether the owner asked the running query to stop.
    """

    __slots__ = ("cancelled", "deadline", "refusal", "sql")

    def __init__(self) -> None:
        self.deadline = float("inf")
        self.refusal = ""
        self.cancelled = False
        self.sql = ""

    def begin(self, sql: str, timeout_s: float) -> str:
        """Starts the clock for one query; returns why it may not even be prepared, or nothing."""
        self.sql = sql
        self.deadline = time.monotonic() + timeout_s
        self.cancelled = False
        self.refusal = ""
        word = lexer.first_word(sql)
        if word == "explain":
            self.refusal = "EXPLAIN is not allowed: only a query that reads tables is"
        elif "with" in sql.lower() and lexer.expanded_ctes(sql) > MAX_EXPANDED_CTES:
            self.refusal = "the common table expressions read one another too often"
        return self.refusal

    def authorize(
        self,
        action: int,
        first: str | None,
        second: str | None,
        database: str | None,
        trigger: str | None,
    ) -> int:
        """SQLite's question, while it prepares a query, whether it may do one thing."""
        if action in READING_ACTIONS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and second is not None:
            name = second.lower()
            if name not in FUNCTIONS:
                self.refusal = f"the function {name} is not allowed"
            elif name in ("printf", "format") and not lexer.formats_are_literal(self.sql):
                self.refusal = f"{name} needs a literal pattern without '*' and of bounded width"
            else:
                return sqlite3.SQLITE_OK
            return sqlite3.SQLITE_DENY
        name = ACTION_NAMES.get(action, f"action {action}")
        self.refusal = f"{name} is not allowed: only a query that reads tables is"
        return sqlite3.SQLITE_DENY

    def tick(self) -> bool:
        """SQLite's question, every few thousand instructions, whether to stop."""
        return self.cancelled or time.monotonic() > self.deadline

    def cancel(self) -> None:
        """Asks the running query to stop at its next tick."""
        self.cancelled = True


def fence(connection: sqlite3.Connection, guard: Guard, max_heap_bytes: int) -> None:
    """Puts limits, settings, authorizer and clock on a connection that was just opened."""
    for limit, value in LIMITS.items():
        connection.setlimit(limit, value)
    connection.execute("PRAGMA query_only=1")
    connection.execute("PRAGMA trusted_schema=0")
    connection.execute("PRAGMA temp_store=2")
    connection.execute(f"PRAGMA hard_heap_limit={int(max_heap_bytes)}")
    with contextlib.suppress(sqlite3.OperationalError):  # a build without JSON
        # Declaring a table-valued function writes to the schema in memory: done before the wall.
        connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')").close()
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, False)
    connection.set_authorizer(guard.authorize)
    connection.set_progress_handler(guard.tick, INSTRUCTIONS_PER_TICK)
