"""Rollouts: the sampler's log-probabilities are the model's own; no rollout disturbs another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from finestep_fast.env.episode import Episode, EpisodeStatus
from finestep_fast.train.generated.model import small_model
from finestep_fast.train.rollout.sampler import Sampler
from finestep_fast.train.rollout.transcript import Transcript
from finestep_fast.train.stop import Stopped
from support.tiny import ENV, LIMITS, MODEL, Tiny

# Prompts of different lengths: some give the columns, and questions differ.
WORDY = dataclasses.replace(ENV, schema_in_prompt="full")


def mixed_episodes(tiny: Tiny, each: int = 3) -> list[Episode]:
    terse = tiny.episodes(tiny.data.train[:5], each)
    return terse + tiny.episodes(tiny.data.dev[:3], each, WORDY)


def plain_logits(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Return [L, V] of one unpadded row, without a cache."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    return logits.float()


def tokens_of(transcripts: Sequence[Transcript]) -> list[list[int]]:
    return [item.token_ids for item in transcripts]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_sampled_logps_are_those_of_a_plain_forward_pass(tiny: Tiny, temperature: float) -> None:
    limits = dataclasses.replace(LIMITS, temperature=temperature)
    transcripts = tiny.sampler(limits).play(mixed_episodes(tiny), seed=1)
    num_turns = [len(item.step_spans) for item in transcripts]
    assert max(num_turns) > 3
    assert min(num_turns) == 1, "rows end at different times, so rows are dropped in between"
    assert len({item.num_prompt_tokens for item in transcripts}) > 4
    for item in transcripts:
        logp = (plain_logits(tiny.model, item.token_ids) / temperature).log_softmax(-1)
        policy = {place for span in item.step_spans for place in range(*span)}
        for place, token in enumerate(item.token_ids):
            if place in policy:
                assert item.token_logp[place] == pytest.approx(
                    float(logp[place - 1, token]), abs=1e-5
                )
            else:
                assert item.token_logp[place] == 0.0
        assert len(item.token_logp) == len(item.token_ids)


def test_greedy_decoding_takes_the_tokens_of_a_recomputation_without_a_cache(tiny: Tiny) -> None:
    transcripts = tiny.sampler().play(mixed_episodes(tiny, 1), seed=0, temperature=0.0)
    assert max(len(item.step_spans) for item in transcripts) > 1
    for item in transcripts:
        best = plain_logits(tiny.model, item.token_ids).argmax(-1).tolist()
        for start, end in item.step_spans:
            assert item.token_ids[start:end] == best[start - 1 : end - 1]


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(tiny: Tiny) -> None:
    first, again, other = (
        tokens_of(tiny.sampler().play(mixed_episodes(tiny), seed=seed)) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_the_seed_alone_decides_whatever_was_drawn_before(tiny: Tiny) -> None:
    first = tokens_of(tiny.sampler().play(mixed_episodes(tiny, 1), seed=5))
    torch.rand(17)
    assert tokens_of(tiny.sampler().play(mixed_episodes(tiny, 1), seed=5)) == first


def test_attempts_at_one_question_differ(tiny: Tiny) -> None:
    transcripts = tiny.sampler().play(tiny.episodes(tiny.data.train[:1], 8), seed=0)
    assert len({tuple(ids) for ids in tokens_of(transcripts)}) > 4


@pytest.mark.parametrize("batch_rows", [1, 3, 7, 64])
def test_transcripts_come_in_the_order_of_the_episodes_however_many_are_played_at_once(
    tiny: Tiny, batch_rows: int
) -> None:
    episodes = mixed_episodes(tiny, 1) + mixed_episodes(tiny, 1)
    limits = dataclasses.replace(LIMITS, batch_rows=batch_rows)
    ended: list[int] = []
    transcripts = tiny.sampler(limits).play(episodes, seed=0, temperature=0.0, on_end=ended.append)
    assert [item.episode for item in transcripts] == episodes
    assert sum(ended) == len(episodes)
    assert all(episode.done for episode in episodes)
    # Greedy tokens depend on the episode alone, so both halves and every batch size agree.
    half = len(episodes) // 2
    tokens = tokens_of(transcripts)
    assert tokens[:half] == tokens[half:]
    alone = tiny.sampler().play(mixed_episodes(tiny, 1), seed=0, temperature=0.0)
    assert tokens[:half] == tokens_of(alone)


def test_playing_nothing_gives_nothing(tiny: Tiny) -> None:
    assert tiny.sampler().play([], seed=0) == []


def test_the_model_keeps_its_mode(tiny: Tiny) -> None:
    model = tiny.trainable().train()
    Sampler(model, tiny.chat, LIMITS).play(tiny.episodes(tiny.data.train[:1]), seed=0)
    assert model.training


@pytest.mark.parametrize("max_step_tokens", [1, 5, 20])
def test_a_step_has_at_most_max_step_tokens(tiny: Tiny, max_step_tokens: int) -> None:
    limits = dataclasses.replace(LIMITS, max_step_tokens=max_step_tokens)
    transcripts = tiny.sampler(limits).play(mixed_episodes(tiny, 1), seed=0)
    lengths = [end - start for item in transcripts for start, end in item.step_spans]
    assert max(lengths) == max_step_tokens
    cut = [
        step
        for item in transcripts
        for step, (start, end) in zip(item.episode.steps, item.step_spans, strict=True)
        if end - start == max_step_tokens and not step.text.endswith("</tool_call>")
    ]
    assert cut
    assert all(step.malformed for step in cut)


def test_a_rollout_stays_within_max_rollout_tokens_and_says_so(tiny: Tiny) -> None:
    limits = dataclasses.replace(LIMITS, max_rollout_tokens=130)
    transcripts = tiny.sampler(limits).play(tiny.episodes(tiny.data.train[:8], 4), seed=0)
    assert max(len(item.token_ids) for item in transcripts) <= 130
    statuses = {item.episode.status for item in transcripts}
    assert EpisodeStatus.OUT_OF_TOKENS in statuses
    assert EpisodeStatus.SUBMITTED in statuses
    for item in transcripts:
        if item.episode.status is EpisodeStatus.OUT_OF_TOKENS:
            assert item.step_spans[-1][1] == len(item.token_ids), "no observation without an answer"


def test_a_reply_is_cut_where_the_rollout_is_full(tiny: Tiny) -> None:
    episodes = tiny.episodes(tiny.data.train[:4], 4)
    prompt = max(len(tiny.chat.prompt_ids(item.messages())) for item in episodes)
    limits = dataclasses.replace(LIMITS, max_rollout_tokens=prompt + 3)
    transcripts = tiny.sampler(limits).play(episodes, seed=0)
    full = [item for item in transcripts if len(item.token_ids) == prompt + 3]
    assert full
    assert all(item.episode.status is not EpisodeStatus.RUNNING for item in transcripts)


def test_a_prompt_that_leaves_no_room_fails_its_rollout_and_no_other(tiny: Tiny) -> None:
    episodes = mixed_episodes(tiny, 1)
    lengths = [len(tiny.chat.prompt_ids(item.messages())) for item in episodes]
    limit = sorted(lengths)[len(lengths) // 2]
    limits = dataclasses.replace(LIMITS, max_rollout_tokens=limit)
    transcripts = tiny.sampler(limits).play(episodes, seed=0)
    for item, length in zip(transcripts, lengths, strict=True):
        episode = item.episode
        failed = episode.status is EpisodeStatus.FAILED
        assert failed == (length >= limit)
        if failed:
            assert f"{length} tokens; max_rollout_tokens is {limit}" in episode.message
            assert item.step_spans == []
        else:
            assert item.step_spans


def test_a_missing_database_fails_its_rollout_and_changes_no_other(
    tiny: Tiny, tmp_path: Path
) -> None:
    good = tiny.data.train[:4]
    bad = dataclasses.replace(good[1], database=tmp_path / "missing.sqlite")
    alone = tiny.sampler().play(tiny.episodes(good), seed=0, temperature=0.0)
    among = tiny.sampler().play(tiny.episodes([*good[:2], bad, *good[2:]]), seed=0, temperature=0.0)
    failed = among.pop(2)
    assert failed.episode.status is EpisodeStatus.FAILED
    assert "missing.sqlite" in failed.episode.message
    assert failed.step_spans == []
    assert tokens_of(among) == tokens_of(alone)


def test_a_database_that_vanishes_in_mid_rollout_fails_only_its_rollout(
    tiny: Tiny, tmp_path: Path
) -> None:
    question = tiny.data.train[0]
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(question.database.read_bytes())
    episodes = tiny.episodes([dataclasses.replace(question, database=copy), question], 6)
    copy.write_bytes(b"no database" * 500)
    transcripts = tiny.sampler().play(episodes, seed=0)
    statuses = [item.episode.status for item in transcripts]
    assert EpisodeStatus.FAILED in statuses[:6]
    assert EpisodeStatus.FAILED not in statuses[6:]


def test_rows_that_ended_never_run_past_the_positions_of_the_model(tiny: Tiny) -> None:
    limits = dataclasses.replace(LIMITS, max_step_tokens=6, max_rollout_tokens=220)
    # A model that knows nothing never submits, so every rollout goes on until it is full.
    model = small_model(tiny.tokenizer, MODEL, seed=3)
    endless = dataclasses.replace(ENV, max_steps=999, max_malformed=999)
    wordy = dataclasses.replace(endless, schema_in_prompt="full")
    largest = 0

    def look(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        nonlocal largest
        largest = max(largest, int(kwargs["position_ids"].max()))

    model.register_forward_pre_hook(look, with_kwargs=True)
    # The long prompt is full early; one ended row in ten is too few to be dropped.
    episodes = tiny.episodes(tiny.data.train[:1], 1, wordy)
    episodes += tiny.episodes(tiny.data.train[:9], 1, endless)
    transcripts = Sampler(model, tiny.chat, limits).play(episodes, seed=0)
    prompts = [item.num_prompt_tokens for item in transcripts]
    assert prompts[0] > max(prompts[1:]) + 20
    assert largest == limits.max_rollout_tokens - 1


def test_a_request_to_stop_abandons_the_rollouts(tiny: Tiny) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Stopped(2)

    sampler = Sampler(tiny.model, tiny.chat, LIMITS, check)
    with pytest.raises(Stopped, match="stopped by SIGINT"):
        sampler.play(mixed_episodes(tiny), seed=0)
    assert calls == 5
    assert not tiny.model.training
