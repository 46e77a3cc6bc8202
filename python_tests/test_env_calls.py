"""Tool calls in an assistant's text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast.env.calls import (
    CALL_END,
    CALL_START,
    REASONING_END,
    REASONING_START,
    MalformedCall,
    ToolCall,
    parse_call,
    render_call,
)


def test_a_call_is_written_in_its_canonical_form() -> None:
    text = render_call(ToolCall("execute_sql", {"sql": "SELECT 'ä'\nFROM t"}))
    assert text == (
        '<tool_call>\n{"name": "execute_sql", "arguments": {"sql": "SELECT \'ä\'\\nFROM t"}}\n'
        "</tool_call>"
    )


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=3), st.text())
def test_a_written_call_is_read_back(name: str, arguments: dict[str, str], thought: str) -> None:
    for tag in (CALL_START, CALL_END, REASONING_START, REASONING_END):
        thought = thought.replace(tag, "")
    call = ToolCall(name, arguments)
    assert parse_call(thought + "\n" + render_call(call) + " \n") == call


def test_tags_inside_an_argument_do_not_end_the_call() -> None:
    call = ToolCall("submit", {"sql": f"SELECT '{CALL_END}{CALL_START}'"})
    assert parse_call(render_call(call)) == call


def test_arguments_may_be_left_out_where_there_are_none() -> None:
    text = '<tool_call>{"name": "list_tables"}</tool_call>'
    assert parse_call(text) == ToolCall("list_tables", {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no tool call"),
        ("SELECT 1", "no tool call"),
        ('{"name": "submit", "arguments": {}}', "no tool call"),
        ('</tool_call>{"name": "submit"}<tool_call>', "not closed"),
        ('<tool_call>{"name": "list_tables"}', "not closed"),
        ('<tool_call>{"name": "list_tables"}</tool_call> and so on', "text after"),
        (
            '<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "b"}</tool_call>',
            "more than one",
        ),
        ('<tool_call><tool_call>{"name": "a"}</tool_call>', "more than one"),
        ("<tool_call></tool_call>", "not JSON"),
        ("<tool_call>{'name': 'a'}</tool_call>", "not JSON"),
        ('<tool_call>{"name": "a",}</tool_call>', "not JSON"),
        ('<tool_call>{"name": "a"} {"name": "b"}</tool_call>', "not JSON"),
        ('<tool_call>["a"]</tool_call>', "not a JSON object"),
        ("<tool_call>null</tool_call>", "not a JSON object"),
        ('<tool_call>{"arguments": {}}</tool_call>', 'no "name"'),
        ('<tool_call>{"name": 1, "arguments": {}}</tool_call>', 'no "name"'),
        ('<tool_call>{"name": "a", "arguments": "{}"}</tool_call>', "not a JSON object"),
        ('<tool_call>{"name": "a", "arguments": null}</tool_call>', "not a JSON object"),
        ('<tool_call>{"name": "a", "arguments": {"x": 1}}</tool_call>', "'x' is not text"),
        ('<tool_call>{"name": "a", "arguments": {"x": null}}</tool_call>', "'x' is not text"),
        ('<tool_call>{"name": "a", "parameters": {}}</tool_call>', "unknown key 'parameters'"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "nested too deeply"),
        ("<tool_call>" + "1" * 10_000 + "</tool_call>", "not"),
    ],
)
def test_anything_but_exactly_one_call_is_malformed(text: str, reason: str) -> None:
    parsed = parse_call(text)
    assert isinstance(parsed, MalformedCall)
    assert reason in parsed.reason


@given(st.one_of(st.text(), st.text().map(lambda body: f"{CALL_START}{body}{CALL_END}")))
def test_any_text_is_a_call_or_malformed(text: str) -> None:
    assert isinstance(parse_call(text), (ToolCall, MalformedCall))


LIST = '<tool_call>{"name": "list_tables"}</tool_call>'
OTHER = '<tool_call>{"name": "other"}</tool_call>'


@pytest.mark.parametrize(
    "text",
    [
        f"<think>I could {OTHER} first.</think>\n{LIST}",
        f"<think>a</think> b <think>{OTHER}</think>{LIST}",
        f"the prompt has opened it: {OTHER} or not?</think>{LIST}",
        f"<think>{OTHER}</think>{OTHER}</think>{LIST}",
        f"<think><think></think>{LIST}",
        f"<think>never {OTHER * 3} mind</think>Well: {LIST} \n",
    ],
)
def test_calls_inside_reasoning_are_none(text: str) -> None:
    assert parse_call(text) == ToolCall("list_tables", {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"<think>{LIST}</think>", "no tool call"),
        (f"<think>{LIST}</think> done", "no tool call"),
        (f"<think>{LIST}", "the reasoning is not closed"),
        ("<think>" * 3, "the reasoning is not closed"),
        (f"<think></think>{LIST}{OTHER}", "more than one"),
        (f"<think></think>{LIST}<think></think>", "text after"),
    ],
)
def test_only_what_follows_the_reasoning_is_read(text: str, reason: str) -> None:
    parsed = parse_call(text)
    assert isinstance(parsed, MalformedCall)
    assert reason in parsed.reason


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<think></think>"])
def test_tags_of_reasoning_inside_a_call_are_text(tag: str) -> None:
    call = ToolCall("submit", {"sql": f"SELECT '{tag}'"})
    assert parse_call(f"<think>hm</think>{render_call(call)}") == call
    assert parse_call(render_call(call)) == call


@pytest.mark.parametrize("control", ["\n", "\r\n", "\t", "\x1f"])
def test_control_characters_inside_a_query_are_accepted(control: str) -> None:
    text = (
        f'<tool_call>{{"name": "submit", "arguments": {{"sql": "SELECT 1{control}"}}}}</tool_call>'
    )
    assert parse_call(text) == ToolCall("submit", {"sql": f"SELECT 1{control}"})


def test_many_tags_are_read_in_no_time() -> None:
    for tags in ("</think>", "<think></think>", f"<think>{OTHER}</think>"):
        assert parse_call(tags * 20_000 + LIST) == ToolCall("list_tables", {})
