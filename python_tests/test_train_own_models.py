"""A user's own model: refused before anything is sampled, or trained as it samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from finestep_fast.train.__main__ import main
from finestep_fast.train.config import load_config
from finestep_fast.train.rollout.sampler import Sampler, _Batch
from finestep_fast.train.setup import make_accelerator, make_parts
from support.commands import records, weights
from support.families import family_model
from support.own_data import assert_nothing_is_kept, words
from support.tiny import LIMITS, Tiny

pytestmark = pytest.mark.slow


def test_a_model_without_a_tool_role_is_refused(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own / "model"
    shutil.copytree(tiny.model_folder, model)
    (model / "chat_template.jinja").unlink()
    assert main([*words(own, tiny), f"model={model}"]) == 2
    assert "model: its tokenizer has no chat template" in capsys.readouterr().err


def own_model(own: Path, tiny: Tiny, family: str, **changes: Any) -> list[str]:
    """Return words for a run of a random-weight model of a family, with the tiny tokenizer."""
    folder = own / family
    family_model(family, len(tiny.tokenizer), **changes).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return [
        *words(own, tiny),
        f"model={folder}",
        "rollout.max_rollout_tokens=480",
        "rollout.max_step_tokens=8",
        "rollout.rollouts_per_prompt=2",
        "update.updates=1",
        "update.minibatches=1",
        "eval.questions=1",
    ]


def test_a_head_that_is_not_linear_is_refused_before_anything_is_sampled(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    given = own_model(own, tiny, "granite")
    assert main(given) == 2
    shown = capsys.readouterr()
    assert "model: GraniteForCausalLM does more to its logits than a linear layer" in shown.err
    assert "dev, before" not in shown.out + shown.err
    assert_nothing_is_kept(own / "run")
    # The remedy that the message names, in the same folder.
    assert main([*given, "update.head=logits"]) == 0
    assert records(own / "run", "metrics")[0]["ratio_max"] == pytest.approx(1, abs=1e-3)


def test_a_model_that_cannot_be_sampled_as_it_learns_is_refused_before_anything_is_sampled(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*own_model(own, tiny, "recurrent_gemma"), "update.head=logits"]) == 2
    assert "model: RecurrentGemmaForCausalLM gives other prob" in capsys.readouterr().err
    assert_nothing_is_kept(own / "run")


def test_a_model_with_dropout_learns_on_policy(own: Path, tiny: Tiny) -> None:
    given = own_model(own, tiny, "gpt2", resid_pdrop=0.3, attn_pdrop=0.3, embd_pdrop=0.3)
    assert main(given) == 0
    (record,) = records(own / "run", "metrics")
    assert record["ratio_max"] == pytest.approx(1, abs=1e-3)
    assert record["approx_kl"] == pytest.approx(0, abs=1e-6)


def test_a_table_of_positions_is_long_enough_for_padded_rollouts(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    given = own_model(own, tiny, "gpt2", n_positions=470)
    assert main([*given, "rollout.max_rollout_tokens=470"]) == 2
    assert "is 470; it must be at most 464, the positions" in capsys.readouterr().err
    assert main([*given, "rollout.max_rollout_tokens=464"]) == 0


def test_a_resumed_run_compares_sampler_and_learner_anew(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*words(own, tiny), "update.updates=1"]) == 0
    before = weights(own / "run" / "model")
    sample = _Batch._sample

    def hotter(batch: _Batch, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return sample(batch, logits / 1.5)

    monkeypatch.setattr(_Batch, "_sample", hotter)
    assert main([f"resume={own / 'run'}", "update.updates=2"]) == 2
    assert "learns as another policy than it samples" in capsys.readouterr().err
    assert [record["update"] for record in records(own / "run", "metrics")] == [0]
    monkeypatch.undo()
    assert main([f"resume={own / 'run'}", "update.updates=2"]) == 0
    after = weights(own / "run" / "model")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_every_end_of_text_of_the_generation_settings_ends_a_reply(own: Path, tiny: Tiny) -> None:
    model = own / "model"
    shutil.copytree(tiny.model_folder, model)
    path = model / "generation_config.json"
    common = tiny.chat.reply_ids("a")[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [2, common]}))
    config = load_config(None, [*words(own, tiny), f"model={model}"])
    made = make_parts(config, own / "run", make_accelerator(), tiny.engine)
    ends = {2, common, tiny.tokenizer.eos_token_id}
    assert made.chat.stop_ids == ends
    episodes = tiny.episodes(tiny.data.train[:6])
    transcripts = Sampler(made.policy, made.chat, LIMITS).play(episodes, seed=0)
    steps = [item.token_ids[slice(*span)] for item in transcripts for span in item.step_spans]
    assert not any(ends.intersection(step[:-1]) for step in steps)
    assert any(step[-1] == common for step in steps)


def test_tools_that_the_template_leaves_out_are_described_and_reported(
    own: Path, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    given = [word for word in words(own, tiny) if not word.startswith("env.describe_tools")]
    settings = own / "model" / "config.json"
    shutil.copytree(tiny.root / "model", settings.parent, dirs_exist_ok=True)
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps({**values, "max_position_embeddings": 4096}))
    longer = [f"model={settings.parent}", "rollout.max_rollout_tokens=2000"]
    assert main([*given, *longer, "update.updates=0", "eval.questions=1"]) == 0
    assert "a description of 1601 characters was added to the first message" in caplog.text
    assert "env.describe_tools=false leaves it out" in caplog.text
