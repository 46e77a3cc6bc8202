"""Tool calls in an assistant's text: read and written.

The form is the one Qwen-style chat templates use: a JSON object between two tags. What an assistant
thinks between `<think>` and `</think>` is not said: a call in it is none. Not a check that the tool
exists: that is for whoever holds the tools.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

CALL_START = "<tool_call>"
CALL_END = "</tool_call>"
REASONING_START = "<think>"
REASONING_END = "</think>"
_TAG = re.compile("|".join((CALL_START, REASONING_START, REASONING_END)))


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's name and its arguments, all of them text."""

    name: str
    arguments: dict[str, str]


@dataclass(frozen=True)
class MalformedCall:
    """A text that is not exactly one call, and why not."""

    reason: str


def after_reasoning(text: str) -> str | None:
    """Return what an assistant says once it has reasoned; None while it still reasons.

    Tags inside a call are text. A closing tag whose opening one is missing ends a reasoning too, if
    a call follows it.
    """
    said, last_call = 0, text.rfind(CALL_START)
    reasons = calls = False
    for found in _TAG.finditer(text):
        tag = found[0]
        if tag == REASONING_END and (reasons or found.end() <= last_call):
            said, reasons, calls = found.end(), False, False
        elif not reasons and not calls:
            reasons, calls = tag == REASONING_START, tag == CALL_START
    return None if reasons else text[said:]


def parse_call(text: str) -> ToolCall | MalformedCall:
    """Read the one call of an assistant's text.

    Reasoning and free text before it are allowed, nothing after it.
    """
    said = after_reasoning(text)
    if said is None:
        return MalformedCall(f"no tool call; the reasoning is not closed by {REASONING_END}")
    return _read_said(said)


def _read_said(text: str) -> ToolCall | MalformedCall:
    num_starts, num_ends = text.count(CALL_START), text.count(CALL_END)
    if num_starts == 0:
        return MalformedCall(f"no tool call; expected {CALL_START}{{...}}{CALL_END}")
    if num_starts > 1 or num_ends > 1:
        return MalformedCall("more than one tool call; expected exactly one")
    _, _, rest = text.partition(CALL_START)
    body, end, after = rest.partition(CALL_END)
    if not end:
        return MalformedCall(f"the tool call is not closed by {CALL_END}")
    if after.strip():
        return MalformedCall("text after the tool call; expected nothing after it")
    return read_body(body)


def read_body(body: str) -> ToolCall | MalformedCall:
    """Read what stands between the tags."""
    try:
        # Models write a query over several lines: control characters inside a text are accepted.
        content = json.loads(body, strict=False)
    except RecursionError:
        return MalformedCall("the tool call is nested too deeply")
    except ValueError as error:
        return MalformedCall(f"the tool call is not JSON: {error}")
    if not isinstance(content, dict):
        return MalformedCall("the tool call is not a JSON object")
    unknown = content.keys() - {"name", "arguments"}
    if unknown:
        return MalformedCall(f"the tool call has an unknown key {min(unknown)!r}")
    name, arguments = content.get("name"), content.get("arguments", {})
    if not isinstance(name, str):
        return MalformedCall('the tool call has no "name"')
    if not isinstance(arguments, dict):
        return MalformedCall('"arguments" is not a JSON object')
    for key, value in arguments.items():
        if not isinstance(value, str):
            return MalformedCall(f"the argument {key!r} is not text")
    return ToolCall(name, arguments)


def render_call(call: ToolCall) -> str:
    """Return the call as an assistant writes it; `parse_call` reads it back."""
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    # A tag inside an argument would end the call early; JSON can spell it without the tag.
    body = body.replace(CALL_START, "\\u003ctool_call>").replace(CALL_END, "\\u003c/tool_call>")
    return f"{CALL_START}\n{body}\n{CALL_END}"
