"""Plain facts of a step for the validators, from what the step asked and got.

Not the validators: nothing is weighed here.
"""

from __future__ import annotations

from finestep_fast.env.calls import ToolCall
from finestep_fast.env.episode import StepRecord
from finestep_fast.env.tools import SUBMIT, named_table, searched_columns, spellings
from finestep_fast.rewards import CallKey, StepFacts
from finestep_fast.sql.analysis import analyse
from finestep_fast.sql.completion import query_in
from finestep_fast.sql.outcome import Status
from finestep_fast.sql.schema import DatabaseSchema

UNREADABLE_QUERY = "(a query that cannot be parsed)"


def step_facts(
    step: StepRecord, schema: DatabaseSchema, *, final_status: Status | None = None
) -> StepFacts:
    """Return the facts of one step.

    Args:
        step: What was recorded of it.
        schema: Of the database.
        final_status: For a final answer: how its query ended when it was scored.

    Returns:
        The facts; of a malformed step and of an empty answer, nothing but that.
    """
    call = step.call
    if call is None:
        return StepFacts(well_formed=False)
    if call.name == SUBMIT:
        return query_facts(call, schema, executed=final_status is Status.OK)
    executed = step.status is Status.OK
    if call.name == "execute_sql":
        return query_facts(call, schema, executed=executed, digest=step.digest)
    named, existing = named_by(call, schema)
    arguments = " ".join(f"{key}={value!r}" for key, value in sorted(folded(call).items()))
    return StepFacts(
        well_formed=True,
        executed=executed,
        call_key=CallKey(call.name, arguments),
        named=named,
        existing=existing,
    )


def query_facts(
    call: ToolCall, schema: DatabaseSchema, *, executed: bool, digest: str = ""
) -> StepFacts:
    """Return the facts of a call that holds a query."""
    sql = call.arguments["sql"]
    facts = analyse(query_in(sql) if call.name == SUBMIT else sql, schema)
    if not facts.normal_form:
        return StepFacts(well_formed=False)
    named, existing = facts.named, facts.existing
    if not facts.parsed:  # SQLite's own verdict is all there is
        named = (UNREADABLE_QUERY,)
        existing = named if executed else ()
    return StepFacts(
        well_formed=True,
        executed=executed,
        call_key=CallKey(call.name, facts.normal_form, query_executed=executed),
        result_digest=digest,
        named=named,
        existing=existing,
    )


def named_by(call: ToolCall, schema: DatabaseSchema) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what tables and columns a call without a query names, and which of them exist."""
    arguments = folded(call)
    table, column = arguments.get("table"), arguments.get("column")
    named, existing = [], []
    if table is not None:
        named.append(table)
        if named_table(schema, table) is not None:
            existing.append(table)
    if column is not None:
        named.append(column if table is None else f"{table}.{column}")
        if len(existing) == len(named) - 1 and any(searched_columns(schema, table, column)):
            existing.append(named[-1])
    return tuple(named), tuple(existing)


def folded(call: ToolCall) -> dict[str, str]:
    """Return the arguments without what does not matter: letter case, outer space, quotes."""
    return {key: spellings(value.strip())[-1] for key, value in call.arguments.items()}
