"""What a tokenizer's chat template makes of tools, calls and observations.

Templates are programs that others wrote: one leaves tools out, another writes calls in a form of
its own. This asks a template by rendering marks through it; it encodes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError  # comes with torch

from finestep_fast.env.calls import CALL_END, CALL_START, ToolCall, parse_call
from finestep_fast.errors import InputError

# Letters and hyphens survive every escaping, so a mark that is not found was left out.
_SYSTEM = "finestep-system-mark"
_QUESTION = "finestep-question-mark"
_REPLY = "finestep-reply-mark"
_OBSERVATION = "finestep-observation-mark"
_CALL = ToolCall("finestep_probe", {"sql": "finestep-argument-mark"})
_SPECIAL = '"\n'
_FORM_CHARS = 240

_FORM = (
    "Write a call as one JSON object between tags, with nothing after it:\n"
    f'{CALL_START}\n{{"name": "...", "arguments": {{...}}}}\n{CALL_END}'
)

Message = Mapping[str, Any]


class ChatTemplate:
    """A chat template that was checked.

    Args:
        tokenizer: with a chat template.
        tools: JSON schemas for the template.

    Attributes:
        before_observation: the text between an assistant's reply and an observation.
        after_observation: the text between an observation and the next reply.

    Raises:
        InputError: The template drops an observation, or writes calls in a form that is not ours.
    """

    def __init__(self, tokenizer: Any, tools: Sequence[Mapping[str, Any]] | None) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                "model: its tokenizer has no chat template; expected one that renders tool messages"
            )
        self._tokenizer = tokenizer
        self._tools = list(tools) if tools else None
        self._writes_calls = self._tools is not None and self._writes_our_calls()
        self.before_observation, self.after_observation = self._around_observation()
        self._escapes = self._escapes_observations()

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Return a conversation as text.

        Raises:
            InputError: The template refuses it.
        """
        try:
            return self._rendered(messages, add_generation_prompt)
        except (TemplateError, TypeError, ValueError) as error:
            roles = [message["role"] for message in messages]
            remedy = (
                "; env.system_prompt='' leaves the system message out" if "system" in roles else ""
            )
            raise InputError(
                f"model: its chat template refuses messages of the roles {', '.join(roles)}: "
                f"{error}{remedy}"
            ) from error

    def observation(self, text: str) -> str:
        """Return an observation as the template writes it between `before` and `after`."""
        return _escaped(text) if self._escapes else text

    def opening(self, system_prompt: str) -> str:
        """Return a prompt with a mark in the place of the question."""
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages = [*system, {"role": "user", "content": _QUESTION}]
        return self.render(messages, add_generation_prompt=True)

    def missing(self, system_prompt: str) -> str:
        """Return what a prompt must add because template and system message leave it out.

        Args:
            system_prompt: The system message; empty if there is none.

        Returns:
            A description of the tools, of the form of a call, or of both; empty if nothing is
            missing.

        Raises:
            InputError: The template leaves out the system message or the question.
        """
        prompt = self.opening(system_prompt)
        if system_prompt and _SYSTEM not in self.opening(_SYSTEM):
            raise InputError(
                "model: its chat template leaves out the system message; "
                "expected one that renders it, or env.system_prompt=''"
            )
        if _QUESTION not in prompt:
            raise InputError("model: its chat template leaves out a message of the role user")
        parts = []
        if any(tool["function"]["name"] not in prompt for tool in self._tools or ()):
            schemas = "\n".join(json.dumps(tool) for tool in self._tools or ())
            parts.append(f"# Tools\n\nYou may call these tools:\n<tools>\n{schemas}\n</tools>")
        if self._tools and not self._writes_calls and CALL_START not in prompt:
            parts.append(_FORM)
        return "\n\n".join(parts)

    def _rendered(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=self._tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )

    def _around_observation(self) -> tuple[str, str]:
        """Return the template's text before and after an observation."""
        text = self.render(_plain_turns(_OBSERVATION), add_generation_prompt=True)
        before, found, after = text.partition(_REPLY)[2].partition(_OBSERVATION)
        if not found:
            raise InputError(
                "model: its chat template does not render a 'tool' message after an assistant's; "
                "expected a template for tool calls, like Qwen's"
            )
        return before, after

    def _escapes_observations(self) -> bool:
        """Return whether observations are written as the inside of a JSON text."""
        probe = f"{_OBSERVATION}{_SPECIAL}{_OBSERVATION}"
        text = self.render(_plain_turns(probe), add_generation_prompt=True).partition(_REPLY)[2]
        for escapes, shown in enumerate((probe, _escaped(probe))):
            if text == f"{self.before_observation}{shown}{self.after_observation}":
                return bool(escapes)
        raise InputError(
            "model: its chat template changes the text of a tool's message; "
            "expected one that writes it as it is, or as JSON does"
        )

    def _writes_our_calls(self) -> bool:
        """Return whether an assistant's calls are rendered, in the form that is read here."""
        written = next(self._written_calls(), None)
        if written is None:
            return False
        call, _, _ = written[written.rfind(CALL_START) :].partition(CALL_END)
        if parse_call(call + CALL_END) == _CALL:
            return True
        form = self._without_frame(written)
        raise InputError(
            f"model: its chat template writes a tool call as {form!r}; the form that is read here "
            f'is {CALL_START}{{"name": "...", "arguments": {{...}}}}{CALL_END}, as in Qwen2.5 and '
            "Qwen3"
        )

    def _written_calls(self) -> Iterator[str]:
        """Yield what stands between question and observation, for every spelling of calls."""
        for content in ("", None):
            for arguments in (_CALL.arguments, json.dumps(_CALL.arguments)):
                try:
                    text = self._between(content, _CALL.name, arguments)
                except (TemplateError, TypeError, ValueError):
                    continue  # templates want the arguments as one or the other
                if _CALL.name in text:
                    yield text

    def _between(self, content: str | None, name: str, arguments: Any) -> str:
        call = {
            "type": "function",
            "id": "probe0000",  # nine letters or digits: Mistral's templates count them
            "function": {"name": name, "arguments": arguments},
        }
        conversation: list[Message] = [
            {"role": "user", "content": _QUESTION},
            {"role": "assistant", "content": content, "tool_calls": [call]},
            {"role": "tool", "content": _OBSERVATION, "name": name, "tool_call_id": call["id"]},
        ]
        text = self._rendered(conversation, add_generation_prompt=True)
        return text.rpartition(_QUESTION)[2].partition(_OBSERVATION)[0]

    def _without_frame(self, written: str) -> str:
        """Return a written call without what stands before and after every reply."""
        try:
            plain = self._rendered(_plain_turns(_OBSERVATION), True)
        except (TemplateError, TypeError, ValueError):
            plain = ""  # a tool's message without a call is refused
        frame = plain.rpartition(_QUESTION)[2].partition(_OBSERVATION)[0]
        start = _num_shared(frame, written)
        rest = written[start:]
        end = len(rest) - _num_shared(frame[start:][::-1], rest[::-1])
        form = rest[:end]
        return form if len(form) <= _FORM_CHARS else f"{form[:_FORM_CHARS]}…"


def _plain_turns(observation: str) -> list[dict[str, str]]:
    """Return a conversation that ends with a reply of text."""
    return [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _REPLY},
        {"role": "tool", "content": observation},
    ]


def _num_shared(one: str, two: str) -> int:
    """Return how many letters both begin with."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(two)))


def _escaped(text: str) -> str:
    """Return the inside of a JSON text."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
