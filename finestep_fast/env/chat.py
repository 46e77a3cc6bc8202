"""Token ids of a conversation: token ids in, token ids out.

A rollout is one growing list of token ids: the prompt's ids, the ids the policy sampled, the ids of
an observation, and so on. Nothing that was sampled is ever decoded and encoded again, since a
tokenizer need not give the same ids back (retokenisation drift), and the loss would then be taken
on tokens that the policy never chose.

This is not a chat template: the tokenizer brings its own, and `ChatTemplate` checks it. Only the
text *between* two assistant turns is taken from it, once, and its fixed parts are encoded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from finestep_fast.env.calls import CALL_END, REASONING_END, REASONING_START, after_reasoning
from finestep_fast.env.template import ChatTemplate


def _mark(place: int) -> str:
    return f"finestep-message-{place}-mark"


class Tokenizer(Protocol):
    """What is asked of a tokenizer; every fast tokenizer of `transformers` offers it."""

    eos_token_id: int | None
    chat_template: Any

    def get_added_vocab(self) -> dict[str, int]:
        """Return the id of every token added to the vocabulary, control tokens among them."""

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token, added tokens included."""

    def encode(self, text: str, **options: Any) -> list[int]:
        """Return the ids of a text."""

    def decode(self, token_ids: list[int], **options: Any) -> str | list[str]:
        """Return the text of ids."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Return a conversation as text."""


class ChatFormat:
    """Renders prompts and observations of one tokenizer as token ids.

    Args:
        tokenizer: with a chat template.
        tools: JSON schemas for the chat template; none if the prompt describes the tools itself.
        system_prompt: the system message of the prompts; empty if they have none.
        describe_tools: whether the first message describes what the template leaves out.

    Attributes:
        description: what was added to the first message: tools that the template does not name, or
            the form of a call that it does not show; empty if nothing was.
        end_of_turn_id: what ends an assistant's turn in the template.
        stop_ids: every token that ends a reply.

    Raises:
        InputError: The tokenizer has no chat template, or its template leaves out a message, or it
            writes calls in another form than the one that is read.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        system_prompt: str = "",
        describe_tools: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, tools)
        missing = self.template.missing(system_prompt)
        self.description = missing if describe_tools else ""
        self._before_observation = self._ids(self.template.before_observation)
        self._after_observation = self._ids(self.template.after_observation)
        self.end_of_turn_id = self._end_of_turn_id()
        stops = {tokenizer.eos_token_id, self.end_of_turn_id}
        self.stop_ids = frozenset(token for token in stops if token is not None)
        last = CALL_END[-1]  # printable ASCII, spelled as itself in every kind of vocabulary
        self._closing_ids = frozenset(
            i for token, i in tokenizer.get_vocab().items() if last in token
        )
        opening = self.template.opening(system_prompt)
        self._reasons_at_once = tuple(
            header.rfind(REASONING_START) > header.rfind(REASONING_END)
            for header in (opening, self.template.after_observation)
        )

    def stop_at(self, token_ids: Iterable[int]) -> None:
        """Let these tokens end a reply, too: a model may have more than its tokenizer names."""
        self.stop_ids |= frozenset(token_ids)

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the ids of the opening messages, up to where the policy begins to write."""
        contents = [message["content"] for message in messages]
        if all(self._ids(text) == self._plain_ids(text) for text in contents):
            return self._ids(self._opening(messages, contents))
        # A control token is spelled in a question or a schema: only the template may write one.
        marks = [_mark(place) for place in range(len(contents))]
        rest = self._opening(messages, marks)
        ids: list[int] = []
        for mark, text in zip(marks, contents, strict=True):
            before, found, after = rest.partition(mark)
            if found:
                ids += [*self._ids(before), *self._plain_ids(text)]
                rest = after
        return ids + self._ids(rest)

    def reply_ids(self, text: str) -> list[int]:
        """Return the ids of a reply written by hand (a demonstration), never of a sampled one."""
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
        observed = self._plain_ids(self.template.observation(text))
        return [*before, *observed, *self._after_observation]

    def reply_text(self, reply_ids: Sequence[int], *, turn: int = 0) -> str:
        """Return the text of a sampled reply, without the tokens that ended it.

        Args:
            reply_ids: The ids sampled in this turn.
            turn: 0 for the first reply of a conversation. Where the template has opened a
                reasoning before it, the text begins with the tag that opened it.
        """
        ids = list(reply_ids)
        while ids and ids[-1] in self.stop_ids:
            ids.pop()
        return self._opened(turn) + self._text(ids)

    def ends_reply(self, reply_ids: Sequence[int], *, turn: int = 0) -> bool:
        """Whether the turn is over: an end-of-turn token or a closed call (nothing may follow).

        A call inside a reasoning closes nothing.
        """
        if reply_ids[-1] in self.stop_ids:
            return True
        if reply_ids[-1] not in self._closing_ids:
            return False
        # A token holds a byte or more, so the tag lies within as many tokens as it has bytes.
        if CALL_END not in self._text(list(reply_ids[-len(CALL_END) :])):
            return False
        return CALL_END in (after_reasoning(self._opened(turn) + self._text(list(reply_ids))) or "")

    def _opened(self, turn: int) -> str:
        """Return the tag of reasoning that the template opens before a reply; empty if none."""
        return REASONING_START if self._reasons_at_once[min(turn, 1)] else ""

    def _opening(self, messages: Sequence[Mapping[str, str]], contents: Sequence[str]) -> str:
        """Return the rendered opening messages with other contents, and the description in one."""
        shown = list(contents)
        if self.description:
            shown[0] = f"{shown[0]}\n\n{self.description}"
        return self.template.render(
            [{**message, "content": text} for message, text in zip(messages, shown, strict=True)],
            add_generation_prompt=True,
        )

    def _end_of_turn_id(self) -> int | None:
        """Return what ends an assistant's turn: the template's control token or the end of text."""
        controls = {*self.tokenizer.get_added_vocab().values(), self.tokenizer.eos_token_id}
        before = self._before_observation
        return before[0] if before and before[0] in controls else self.tokenizer.eos_token_id

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _plain_ids(self, text: str) -> list[int]:
        """Return the ids of a text in which control tokens are only text."""
        return list(
            self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        )

    def _text(self, ids: list[int]) -> str:
        return str(
            self.tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
