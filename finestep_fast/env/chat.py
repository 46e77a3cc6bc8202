"""Token ids of a conversation: token ids in, token ids out.

A rollout is one growing list of token ids: the prompt's ids, the ids the policy sampled, the ids of
an observation, and so on. Nothing that was sampled is ever decoded and encoded again, since a
tokenizer need not give the same ids back (retokenisation drift), and the loss would then be taken
on tokens that the policy never chose.

This is not a chat template: the tokenizer brings its own. Only the text *between* two assistant
turns is taken from it, once, and its fixed parts are encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jinja2 import TemplateError  # comes with torch

from finestep_fast.env.calls import CALL_END
from finestep_fast.errors import InputError

_REPLY = "\x02reply\x03"
_OBSERVATION = "\x02observation\x03"


def _mark(place: int) -> str:
    return f"\x02{place}\x03"


class Tokenizer(Protocol):
    """What is asked of a tokenizer; every fast tokenizer of `transformers` offers it."""

    eos_token_id: int | None
    chat_template: Any

    def get_added_vocab(self) -> dict[str, int]:
        """The id of every token that was added to the vocabulary, control tokens among them."""

    def get_vocab(self) -> dict[str, int]:
        """The id of every token, added tokens included."""

    def encode(self, text: str, **options: Any) -> list[int]:
        """The ids of a text."""

    def decode(self, token_ids: list[int], **options: Any) -> str | list[str]:
        """The text of ids."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """A conversation as text."""


class ChatFormat:
    """Renders prompts and observations of one tokenizer as token ids.

    Args:
        tokenizer: with a chat template.
        tools: JSON schemas for the chat template; none if the prompt describes the tools itself.

    Raises:
        InputError: the tokenizer has no chat template, or its template drops a tool's message.
    """

    def __init__(
        self, tokenizer: Tokenizer, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                "model: its tokenizer has no chat template; expected one that renders tool messages"
            )
        self.tokenizer = tokenizer
        self.tools = list(tools) if tools else None
        before, after = self._between_turns()
        self._before_observation = self._ids(before)
        self._after_observation = self._ids(after)
        self.end_of_turn_id = self._end_of_turn_id()
        stops = {tokenizer.eos_token_id, self.end_of_turn_id}
        self.stop_ids = frozenset(token for token in stops if token is not None)
        last = CALL_END[-1]  # printable ASCII, spelled as itself in every kind of vocabulary
        self._closing_ids = frozenset(
            i for token, i in tokenizer.get_vocab().items() if last in token
        )

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of the opening messages, up to where the policy begins to write."""
        contents = [message["content"] for message in messages]
        if all(self._ids(text) == self._plain_ids(text) for text in contents):
            return self._ids(self._render(messages, add_generation_prompt=True))
        # A control token is spelled in a question or a schema: only the template may write one.
        marked = [{**message, "content": _mark(i)} for i, message in enumerate(messages)]
        rest = self._render(marked, add_generation_prompt=True)
        ids: list[int] = []
        for place, text in enumerate(contents):
            before, found, after = rest.partition(_mark(place))
            if found:
                ids += [*self._ids(before), *self._plain_ids(text)]
                rest = after
        return ids + self._ids(rest)

    def reply_ids(self, text: str) -> list[int]:
        """The ids of a reply written by hand (a demonstration), never of a sampled one."""
        return self._ids(text)

    def observation_ids(self, text: str, reply_ids: Sequence[int]) -> list[int]:
        """The ids between a sampled reply and the next one: end of turn, observation, header.

        Args:
            text: what the environment answers. Control tokens spelled in it stay plain text.
            reply_ids: the ids sampled in this turn; an end-of-turn token among them is not
                repeated.
        """
        before = self._before_observation
        if before and reply_ids and reply_ids[-1] == before[0]:
            before = before[1:]
        return [*before, *self._plain_ids(text), *self._after_observation]

    def reply_text(self, reply_ids: Sequence[int]) -> str:
        """The text of a sampled reply, without the end-of-turn token."""
        ids = list(reply_ids)
        while ids and ids[-1] in (self.tokenizer.eos_token_id, self.end_of_turn_id):
            ids.pop()
        return self._text(ids)

    def ends_reply(self, reply_ids: Sequence[int]) -> bool:
        """Whether the turn is over: an end-of-turn token or a closed call (nothing may follow)."""
        if reply_ids[-1] in self.stop_ids:
            return True
        if reply_ids[-1] not in self._closing_ids:
            return False
        # A token holds a byte or more, so the tag lies within as many tokens as it has bytes.
        return CALL_END in self._text(list(reply_ids[-len(CALL_END) :]))

    def _end_of_turn_id(self) -> int | None:
        """What ends an assistant's turn: the template's control token, or the end of the text."""
        controls = {*self.tokenizer.get_added_vocab().values(), self.tokenizer.eos_token_id}
        before = self._before_observation
        return before[0] if before and before[0] in controls else self.tokenizer.eos_token_id

    def _between_turns(self) -> tuple[str, str]:
        """The template's text before and after an observation, found by rendering two marks."""
        conversation = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": _REPLY},
            {"role": "tool", "content": _OBSERVATION},
        ]
        text = self._render(conversation, add_generation_prompt=True)
        if _REPLY not in text or _OBSERVATION not in text.split(_REPLY, 1)[1]:
            raise InputError(
                "model: its chat template does not render a 'tool' message after an assistant's; "
                "expected a template for tool calls, like Qwen's"
            )
        before, after = text.split(_REPLY, 1)[1].split(_OBSERVATION, 1)
        return before, after

    def _render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=self.tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                f"model: its chat template refuses messages of the roles {roles}: {error}"
            ) from error
        return str(text)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _plain_ids(self, text: str) -> list[int]:
        """The ids of a text in which control tokens are only text."""
        return list(
            self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        )

    def _text(self, ids: list[int]) -> str:
        return str(
            self.tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
