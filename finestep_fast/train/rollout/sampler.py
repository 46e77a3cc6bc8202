"""Batched multi-turn rollouts of one causal language model.

All rows advance by one token a pass. A row whose turn is over gets its observation's ids forced one
by one while the others go on sampling, so no rollout waits for another's turn and the key/value
cache is kept from the first token to the last. Rows that have ended are dropped. The
log-probability of a sampled token is taken in the pass that sampled it.

This is not a server: one model, one process, one device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from finestep_fast.env.chat import ChatFormat
from finestep_fast.env.episode import Episode, EpisodeStatus
from finestep_fast.train.config import RolloutConfig
from finestep_fast.train.rollout.decoding import Decoding
from finestep_fast.train.rollout.transcript import Transcript
from finestep_fast.train.stop import DivergedError

# Ended rows are dropped once they are this share of the batch: a copy of the cache pays only then.
_DROP_SHARE = 0.2


@dataclass
class _Row:
    transcript: Transcript
    forced: deque[int]
    reply: list[int] = field(default_factory=list)
    reply_logp: list[float] = field(default_factory=list)
    ended: bool = False


class Sampler:
    """Plays episodes with a model.

    Args:
        model: A causal language model, not wrapped for training.
        chat: Renders prompts and observations.
        config: Limits and temperature.
        check: Called once a pass; may raise to abandon the rollouts (Ctrl-C).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        chat: ChatFormat,
        config: RolloutConfig,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.chat = chat
        self.config = config
        self.check = check

    def play(
        self,
        episodes: Sequence[Episode],
        *,
        seed: int,
        temperature: float | None = None,
        on_end: Callable[[int], None] = lambda count: None,
        on_tokens: Callable[[int], None] = lambda tokens: None,
    ) -> list[Transcript]:
        """Play episodes to their ends.

        Args:
            episodes: [R] fresh episodes; neighbours with the same prompt share its computation.
            seed: Of the sampling; the same seed, model and episodes give the same tokens.
            temperature: Overrides the configured one.
            on_end: Called with the number of rollouts that have just ended.
            on_tokens: Called once a pass with the number of rollouts that it makes longer.

        Returns:
            [R] transcripts, in the order of `episodes`.

        Raises:
            DivergedError: The model's logits are not finite.
        """
        generator = torch.Generator(device=self.model.device).manual_seed(seed)
        heat = self.config.temperature if temperature is None else temperature
        was_training = self.model.training
        self.model.eval()
        transcripts: list[Transcript] = []
        try:
            with torch.inference_mode(), ThreadPoolExecutor(self.config.tool_threads) as tools:
                for first in range(0, len(episodes), self.config.batch_rows):
                    batch = episodes[first : first + self.config.batch_rows]
                    transcripts += _Batch(
                        self, batch, generator, heat, tools, on_end, on_tokens
                    ).play()
        finally:
            self.model.train(was_training)
        return transcripts


class _Batch:
    """One batch of rows under way; see `Sampler.play`."""

    def __init__(
        self,
        sampler: Sampler,
        episodes: Sequence[Episode],
        generator: torch.Generator,
        temperature: float,
        tools: ThreadPoolExecutor,
        on_end: Callable[[int], None],
        on_tokens: Callable[[int], None],
    ) -> None:
        self.model, self.chat, self.config = sampler.model, sampler.chat, sampler.config
        self.check = sampler.check
        self.generator, self.temperature = generator, temperature
        self.tools, self.on_end, self.on_tokens = tools, on_end, on_tokens
        prompts: dict[tuple[tuple[str, str], ...], list[int]] = {}
        self.rows: list[_Row] = []
        for episode in episodes:
            messages = episode.messages()
            key = tuple((message["role"], message["content"]) for message in messages)
            ids = prompts.get(key) or prompts.setdefault(key, self.chat.prompt_ids(messages))
            self.rows.append(_Row(Transcript(episode, list(ids), len(ids)), deque()))
        self.all_rows = list(self.rows)
        self._leave_out_unplayable()

    def play(self) -> list[Transcript]:
        if self.rows:
            logits = self._prefill()
            while True:
                self.check()
                self.on_tokens(sum(not row.ended for row in self.rows))
                token = self._drop_ended(self._next_tokens(logits))
                if not self.rows:
                    break
                logits = self.decoding.advance(token)
        return [row.transcript for row in self.all_rows]

    def _leave_out_unplayable(self) -> None:
        """Drop episodes that have failed already, and prompts that leave no room for an answer."""
        limit = self.config.max_rollout_tokens
        for row in self.rows:
            length = row.transcript.num_prompt_tokens
            if length >= limit:
                row.transcript.episode.end(
                    EpisodeStatus.FAILED,
                    f"the prompt has {length} tokens; max_rollout_tokens is {limit}",
                )
        self.rows = [row for row in self.rows if not row.transcript.episode.done]
        self.on_end(len(self.all_rows) - len(self.rows))

    def _prefill(self) -> Tensor:
        """Run every distinct prompt once; returns the logits [B, V] after it."""
        place: dict[tuple[int, ...], int] = {}
        place_of_row = [
            place.setdefault(tuple(row.transcript.token_ids), len(place)) for row in self.rows
        ]
        self.decoding = Decoding(self.model, self.config.max_rollout_tokens)
        logits = self.decoding.read(list(place))
        rows = torch.tensor(place_of_row, device=self.model.device)
        self.decoding.select(rows)
        return logits[rows]

    def _next_tokens(self, logits: Tensor) -> Tensor:
        """Return the next token of every row, [B, 1]: a sampled one, or the forced one."""
        sampled, sampled_logp = self._sample(logits)
        tokens = sampled.tolist()
        logps = sampled_logp.tolist()
        turned: list[_Row] = []
        for place, row in enumerate(self.rows):
            if row.ended:
                continue
            if row.forced:
                tokens[place] = row.forced.popleft()
                continue
            row.reply.append(tokens[place])
            row.reply_logp.append(logps[place])
            if self._turn_is_over(row):
                turned.append(row)
        if turned:
            self._take_turns(turned)
        return torch.tensor(tokens, device=logits.device)[:, None]

    def _sample(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        logp = (logits / (self.temperature or 1.0)).log_softmax(-1)
        if logp[:, 0].isnan().any():  # one logit that is NaN or infinite makes its whole row NaN
            raise DivergedError(
                "the policy gives logits that are not finite; its weights have diverged"
            )
        if self.temperature == 0:
            token = logp.argmax(-1)
        else:
            token = torch.multinomial(logp.exp(), 1, generator=self.generator)[:, 0]
        return token, logp.gather(-1, token[:, None])[:, 0]

    def _turn_is_over(self, row: _Row) -> bool:
        length = len(row.transcript.token_ids) + len(row.reply)
        return (
            len(row.reply) >= self.config.max_step_tokens
            or length >= self.config.max_rollout_tokens
            or self.chat.ends_reply(row.reply, turn=len(row.transcript.step_spans))
        )

    def _take_turns(self, rows: list[_Row]) -> None:
        """Hand finished replies to their episodes; force the observations' ids, or end the rows."""
        replies = [
            self.chat.reply_text(row.reply, turn=len(row.transcript.step_spans)) for row in rows
        ]
        for row in rows:
            row.transcript.add_step(row.reply, row.reply_logp)
        steps = [row.transcript.episode.step for row in rows]
        turns = list(self.tools.map(lambda step, reply: step(reply), steps, replies))
        for row, turn in zip(rows, turns, strict=True):
            row.ended = turn.done
            if not turn.done:
                self._observe(row, self.chat.observation_ids(turn.observation, row.reply))
            row.reply, row.reply_logp = [], []
        self.on_end(sum(row.ended for row in rows))

    def _observe(self, row: _Row, observation: list[int]) -> None:
        transcript = row.transcript
        if len(transcript.token_ids) + len(observation) >= self.config.max_rollout_tokens:
            transcript.episode.end(EpisodeStatus.OUT_OF_TOKENS)
            row.ended = True
        else:
            transcript.add_observation(observation)
            row.forced.extend(observation)

    def _drop_ended(self, token: Tensor) -> Tensor:
        """Drop ended rows once enough have gathered; returns the tokens [B, 1] of the rows kept."""
        kept = [place for place, row in enumerate(self.rows) if not row.ended]
        if len(kept) > (1 - _DROP_SHARE) * len(self.rows):
            return token
        self.rows = [self.rows[place] for place in kept]
        if not kept:
            return token[:0]
        rows = torch.tensor(kept, device=token.device)
        self.decoding.select(rows)
        return token[rows]
