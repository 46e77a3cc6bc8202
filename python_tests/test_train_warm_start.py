"""The warm start: demonstrations as transcripts, padded batches of them, supervised steps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast.env.calls import parse_call
from finestep_fast.errors import InputError
from finestep_fast.train.config import DataConfig
from finestep_fast.train.data import Demonstration, load_data
from finestep_fast.train.learn.padding import micro_batches, pad_rows, padded_length
from finestep_fast.train.learn.policy import written_logp
from finestep_fast.train.learn.warm_start import (
    DemonstrationBatches,
    StagedBatches,
    supervised_step,
)
from finestep_fast.train.rollout.replay import replay, transcripts
from finestep_fast.train.rollout.transcript import Transcript
from support.tiny import ENV, Tiny

CPU = torch.device("cpu")


def test_rows_are_padded_on_the_right_to_a_rounded_width() -> None:
    rows = pad_rows([[5, 6, 7], [8], []], CPU)
    assert rows.token_ids.shape == (3, 16)
    assert rows.token_ids[0, :4].tolist() == [5, 6, 7, 0]
    assert rows.mask.sum(1).tolist() == [3, 1, 0]
    assert (rows.token_ids[rows.mask == 0] == 0).all()
    assert pad_rows([[1] * 16], CPU).mask.shape == (1, 16)
    assert pad_rows([[1] * 17], CPU).mask.shape == (1, 32)


@given(st.lists(st.integers(1, 200), max_size=40), st.integers(1, 600))
def test_every_row_is_in_one_micro_batch_and_none_is_larger_than_the_budget(
    lengths: list[int], budget: int
) -> None:
    groups = micro_batches(lengths, budget)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * padded_length(max(lengths[row] for row in group))
        assert padded <= budget or len(group) == 1


def test_micro_batches_gather_rows_of_like_length() -> None:
    assert micro_batches([100, 16, 90, 10], 240) == [[3, 1], [2, 0]]


@pytest.mark.parametrize("batch_rollouts", [1, 3, 16])
def test_a_batch_is_the_same_whenever_it_is_asked_for(tiny: Tiny, batch_rollouts: int) -> None:
    def batches() -> DemonstrationBatches:
        return DemonstrationBatches(
            tiny.demonstrations, tokens=200_000, batch_rollouts=batch_rollouts, seed=4
        )

    one = batches()
    in_order = [[id(item) for item in one[step]] for step in range(60)]
    for step in (59, 3, 31, 0, 58):
        assert [id(item) for item in batches()[step]] == in_order[step]
    assert all(len(batch) == batch_rollouts for batch in in_order)


def test_every_demonstration_is_seen_once_in_a_pass(tiny: Tiny) -> None:
    # 112 demonstrations; a pool holds 8 batches of 7: two pools are a pass.
    assert len(tiny.demonstrations) == 112
    batches = DemonstrationBatches(tiny.demonstrations, tokens=1, batch_rollouts=7, seed=0)
    for epoch in range(3):
        seen = [id(item) for step in range(16 * epoch, 16 * (epoch + 1)) for item in batches[step]]
        assert sorted(seen) == sorted(id(item) for item in tiny.demonstrations)


def test_the_order_differs_from_pass_to_pass_and_from_seed_to_seed(tiny: Tiny) -> None:
    def ids(seed: int, epoch: int) -> list[int]:
        made = DemonstrationBatches(tiny.demonstrations, tokens=1, batch_rollouts=7, seed=seed)
        return [id(x) for step in range(16 * epoch, 16 * (epoch + 1)) for x in made[step]]

    assert ids(0, 0) != ids(0, 1)
    assert ids(0, 0) != ids(1, 0)


def test_the_number_of_steps_spends_the_tokens(tiny: Tiny) -> None:
    total = sum(len(item.token_ids) for item in tiny.demonstrations)
    batches = DemonstrationBatches(tiny.demonstrations, tokens=3 * total, batch_rollouts=7, seed=0)
    assert len(batches) == 48
    spent = sum(len(item.token_ids) for step in range(48) for item in batches[step])
    assert spent == 3 * total


def test_stages_follow_one_another_and_share_the_tokens_by_their_size(tiny: Tiny) -> None:
    first, second = tiny.demonstrations[:84], tiny.demonstrations[84:]
    total = sum(len(item.token_ids) for item in tiny.demonstrations)
    batches = StagedBatches([first, second], tokens=4 * total, batch_rollouts=7, seed=0)
    assert len(batches) == 4 * (12 + 4)  # of 7 demonstrations each
    owner = {id(item): 0 for item in first} | {id(item): 1 for item in second}
    owners = [{owner[id(item)] for item in batches[step]} for step in range(len(batches))]
    assert owners == [{0}] * 48 + [{1}] * 16
    assert batches[3] is not batches[3]
    assert [id(item) for item in batches[50]] == [id(item) for item in batches[50]]
    with pytest.raises(IndexError):
        batches[64]


def test_a_stage_that_is_no_whole_number_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    line = {"question_id": tiny.data.train[0].question_id, "calls": [], "stage": "late"}
    path = tmp_path / "demonstrations.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="line 1: stage is 'late'; it must be a whole number"):
        load_data(
            DataConfig(
                questions=tiny.root / "world" / "train.json",
                databases=tiny.root / "world" / "databases",
                demonstrations=path,
            ),
            seed=0,
        )


def test_the_steps_of_a_transcript_are_the_calls_of_the_demonstration(tiny: Tiny) -> None:
    for item, transcript in zip(tiny.data.demonstrations, tiny.demonstrations, strict=True):
        calls = [
            parse_call(str(tiny.tokenizer.decode(transcript.token_ids[start:end])))
            for start, end in transcript.step_spans
        ]
        assert calls == list(item.calls)
        assert transcript.episode.question is item.question
        assert not any(transcript.token_logp)


def test_what_follows_a_step_is_what_its_database_answered(tiny: Tiny) -> None:
    dialogue, transcript = max(
        zip(tiny.dialogues, tiny.demonstrations, strict=True), key=lambda pair: len(pair[0].turns)
    )
    text = str(tiny.tokenizer.decode(transcript.token_ids))
    for reply, observation in dialogue.turns[:-1]:
        assert f"{reply}<|im_end|>\n<|im_start|>tool\n{observation}<|im_end|>\n" in text
    assert text.endswith(dialogue.turns[-1][0])


def test_a_long_demonstration_is_cut_after_a_whole_step(tiny: Tiny) -> None:
    place = max(range(112), key=lambda n: len(tiny.dialogues[n].turns))
    whole = tiny.demonstrations[place]
    limit = whole.step_spans[2][1]
    (exact,) = transcripts([tiny.dialogues[place]], tiny.chat, limit)
    (shorter,) = transcripts([tiny.dialogues[place]], tiny.chat, limit - 1)
    assert exact.step_spans == whole.step_spans[:3]
    assert exact.token_ids == whole.token_ids[:limit]
    assert shorter.step_spans == whole.step_spans[:2]
    assert len(shorter.token_ids) == shorter.step_spans[-1][1]


def test_a_demonstration_without_room_for_a_step_is_left_out(tiny: Tiny) -> None:
    shortest = min(item.step_spans[0][1] for item in tiny.demonstrations)
    assert transcripts(tiny.dialogues, tiny.chat, shortest - 1) == []
    kept = transcripts(tiny.dialogues, tiny.chat, shortest)
    assert 0 < len(kept) < 112
    assert all(item.num_policy_tokens > 0 for item in kept)


def test_a_demonstration_on_a_missing_database_makes_no_calls(tiny: Tiny, tmp_path: Path) -> None:
    item = tiny.data.demonstrations[0]
    question = dataclasses.replace(item.question, database=tmp_path / "none.sqlite")
    dialogue = replay(Demonstration(question, item.calls), tiny.engine, ENV)
    assert dialogue.turns == []
    assert transcripts([dialogue], tiny.chat, 500) == []


def test_supervised_steps_lower_the_loss(tiny: Tiny) -> None:
    model, batch = tiny.trainable(), tiny.demonstrations[:8]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = [
        supervised_step(
            Accelerator(cpu=True), model, optimizer, batch, dtype=torch.float32, max_grad_norm=1.0
        ).loss
        for _ in range(6)
    ]
    assert losses[-1] < losses[0] - 0.1


def test_the_loss_is_the_mean_over_the_policys_tokens_and_no_others(tiny: Tiny) -> None:
    model, batch = tiny.trainable(), tiny.demonstrations[:3]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = supervised_step(
        Accelerator(cpu=True), model, optimizer, batch, dtype=torch.float32, max_grad_norm=1.0
    ).loss
    nll = []
    for item in batch:
        ids = torch.tensor([item.token_ids])
        with torch.no_grad():
            logp = model(input_ids=ids).logits[0].log_softmax(-1)
        nll += [
            -float(logp[place - 1, item.token_ids[place]])
            for start, end in item.step_spans
            for place in range(start, end)
        ]
    assert loss == pytest.approx(sum(nll) / len(nll), abs=1e-5)


def test_only_the_policys_tokens_are_learnt(tiny: Tiny) -> None:
    """With one step of one token, the gradient is that of this token's log-probability."""
    item = tiny.demonstrations[0]
    place = item.step_spans[0][0]
    single = Transcript(item.episode, list(item.token_ids), item.num_prompt_tokens)
    single.step_spans = [(place, place + 1)]
    before, after = tiny.trainable(), tiny.trainable()
    supervised_step(
        Accelerator(cpu=True),
        after,
        torch.optim.SGD(after.parameters(), lr=1.0),
        [single],
        dtype=torch.float32,
        max_grad_norm=1e9,
    )
    # What comes after the token cannot matter, and the prompt's own tokens are no targets.
    logits = before(input_ids=torch.tensor([item.token_ids[: place + 1]])).logits
    (-logits[0, place - 1].log_softmax(-1)[item.token_ids[place]]).backward()
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert old.grad is not None
        torch.testing.assert_close(old - new, old.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_written_logp_is_zero_outside_the_spans(tiny: Tiny) -> None:
    items = tiny.demonstrations[:3]
    rows = pad_rows([item.token_ids for item in items], CPU)
    spans = [item.step_spans for item in items]
    logp = written_logp(tiny.model, rows, spans, 1.0)
    inside = torch.zeros_like(rows.mask)
    for row, steps in enumerate(spans):
        for start, end in steps:
            inside[row, start:end] = 1
    assert (logp[inside == 0] == 0).all()
    assert (logp[inside == 1] < 0).all()
