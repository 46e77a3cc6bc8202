"""A user's own questions, databases and model, through the command line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from finestep_fast.train.__main__ import main
from finestep_fast.train.config import load_config
from finestep_fast.train.rollout.sampler import Sampler, _Batch
from finestep_fast.train.run import TrainingRun
from finestep_fast.train.setup import make_accelerator, make_parts
from finestep_fast.train.stop import NothingCounts, Stopped, StopRequest
from support.commands import evaluations, records, weights, without_seconds
from support.families import family_model
from support.tiny import LIMITS, Tiny

pytestmark = pytest.mark.slow

SMALL = (
    "precision=float32",
    "env.schema_in_prompt=tables",
    "env.describe_tools=false",  # the model was warmed up without
    "env.max_observation_chars=200",
    "env.max_malformed=3",
    "rollout.prompts=6",
    "rollout.rollouts_per_prompt=3",
    "rollout.max_step_tokens=40",
    "rollout.max_rollout_tokens=900",
    "update.updates=2",
    "update.optim.learning_rate=1e-3",
    "update.optim.rise_steps=0",
    "eval.questions=4",
    "data.max_unusable_share=0.2",
)


def assert_nothing_is_kept(run: Path) -> None:
    """Nothing but the lock, which stays so that no two runs ever hold two files of its name."""
    assert {path.name for path in run.iterdir()} <= {".lock"}


@pytest.fixture
def own(tiny: Tiny, tmp_path: Path) -> Path:
    """BIRD's format: six questions; one database is missing, one gold query fails."""
    folder = tmp_path / "own"
    folder.mkdir()
    entries = [
        {
            "question_id": number,
            "db_id": item.db_id,
            "question": item.text,
            "evidence": "none needed",
            "SQL": item.gold_sql,
            "difficulty": "simple",
        }
        for number, item in enumerate(tiny.data.train[:6])
    ]
    entries[2]["db_id"] = "nowhere"
    entries[4]["SQL"] = "SELECT a FROM absent"
    (folder / "questions.json").write_text(json.dumps(entries))
    shutil.copytree(tiny.root / "world" / "databases", folder / "databases")
    return folder


def words(own: Path, tiny: Tiny) -> list[str]:
    return [
        *SMALL,
        f"model={tiny.model_folder}",
        f"data.questions={own / 'questions.json'}",
        f"data.databases={own / 'databases'}",
        f"data.dev_questions={tiny.root / 'world' / 'dev.json'}",
        f"output={own / 'run'}",
    ]


def test_a_run_on_own_data_goes_on_past_a_missing_database_and_a_failing_gold_query(
    own: Path, tiny: Tiny
) -> None:
    assert main(words(own, tiny)) == 0
    run = own / "run"
    for record in records(run, "metrics"):
        assert (record["rollouts"], record["failed"]) == (12.0, 6.0)
        assert record["grad_norm"] > 0
    by_question: dict[str, list[dict[str, object]]] = {}
    for record in records(run, "rollouts"):
        by_question.setdefault(record["question_id"], []).append(record)
    assert {key: len(value) for key, value in by_question.items()} == {str(n): 6 for n in range(6)}
    for record in by_question["2"]:
        assert (record["counted"], record["status"], record["steps"]) == (False, "FAILED", [])
        assert "nowhere.sqlite" in str(record["message"])
    for record in by_question["4"]:
        assert (record["counted"], record["answer_status"]) == (False, "gold_error")
        assert "absent" in str(record["message"])
    for number in "0135":
        assert all(record["counted"] for record in by_question[number])
    assert evaluations(run)["final"]["rollouts"] == 4.0

    given = AutoModelForCausalLM.from_pretrained(tiny.model_folder)
    trained = AutoModelForCausalLM.from_pretrained(run / "model")
    assert any(
        not torch.equal(a, b) for a, b in zip(given.parameters(), trained.parameters(), strict=True)
    )


def test_demonstrations_warm_up_a_given_model(own: Path, tiny: Tiny) -> None:
    """Those of a missing database and of held-out questions are left out."""
    calls = [{"name": "submit", "arguments": {"sql": "SELECT 1"}}]
    lines = [json.dumps({"question_id": n, "calls": calls}) for n in range(6)]
    (own / "demonstrations.jsonl").write_text("\n".join(lines))
    given = [word for word in words(own, tiny) if not word.startswith("data.dev_questions")]
    status = main(
        [
            *given,
            f"data.demonstrations={own / 'demonstrations.jsonl'}",
            "data.dev_share=0.3",
            "data.max_unusable_share=0.5",
            "warm_start.tokens=6000",
            "warm_start.batch_rollouts=2",
            "update.updates=0",
        ]
    )
    assert status == 0
    run = own / "run"
    losses = [record["loss"] for record in records(run, "warm_start")]
    assert losses[-1] < losses[0] / 2
    assert evaluations(run)["final"]["calls"] == 1.0


def test_a_run_with_a_reference_goes_on_with_the_same_one(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that was resumed to go further ends like one that was longer from the start."""
    given = [*words(own, tiny), "loss.kl=k3", "loss.kl_weight=0.1", "update.minibatches=1"]
    whole, parted = own / "whole", own / "parted"
    assert main([*given, f"output={whole}"]) == 0
    assert main([*given, f"output={parted}", "update.updates=1"]) == 0
    assert main([f"resume={parted}", "update.updates=2"]) == 0
    metrics = [[without_seconds(x) for x in records(run, "metrics")] for run in (whole, parted)]
    assert metrics[0] == metrics[1]
    assert metrics[0][0]["reference_kl"] == pytest.approx(0, abs=1e-7)
    assert metrics[0][1]["reference_kl"] > 1e-7
    mine, theirs = weights(parted / "model"), weights(whole / "model")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)

    (parted / "reference.pt").unlink()
    assert main([f"resume={parted}", "update.updates=3"]) == 2
    assert "reference.pt is missing; the KL term needs" in capsys.readouterr().err


class StopWhere(StopRequest):
    """A request to stop that comes at the third safe point of a place in the run."""

    def __init__(self, updates: int, evaluations: list[str]) -> None:
        super().__init__()
        self.place = (updates, evaluations)
        self.run: TrainingRun | None = None
        self.checks = 0

    def check(self) -> None:
        assert self.run is not None
        state = self.run.state
        self.checks += (state.updates, list(state.evaluations)) == self.place
        if self.checks == 3:
            self.signal_number = signal.SIGTERM
        super().check()


def test_a_run_stopped_in_every_evaluation_and_every_update_makes_up_for_it(
    own: Path, tiny: Tiny
) -> None:
    given = [*words(own, tiny), "eval.every_updates=1", "checkpoint.every_updates=0"]
    whole, parted = own / "whole", own / "parted"
    assert main([*given, f"output={whole}"]) == 0
    again = [*given, f"output={parted}"]
    for updates, evaluated in (
        (0, []),
        (0, ["before"]),
        (1, ["before"]),
        (1, ["before", "update_1"]),
        (2, ["before", "update_1"]),
    ):
        stop = StopWhere(updates, evaluated)
        stop.run = TrainingRun(load_config(None, again), stop, resumed=updates + len(evaluated) > 0)
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.run.train()
        again = [f"resume={parted}"]
    assert main(again) == 0
    assert evaluations(parted) == evaluations(whole)
    assert list(evaluations(whole)) == ["before", "update_1", "final"]
    for name in ("rollouts", "evaluations"):
        assert records(parted, name) == records(whole, name)
    metrics = [[without_seconds(x) for x in records(run, "metrics")] for run in (whole, parted)]
    assert metrics[0] == metrics[1]
    mine, theirs = weights(parted / "model"), weights(whole / "model")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_data_that_cannot_be_used_is_refused_by_name(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*changes: str) -> str:
        assert main([*words(own, tiny), *changes]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ")
        assert not (own / "run" / "config.yaml").exists()
        return shown.err

    assert f"questions '{own / 'none.json'}': No such file" in refusal(
        f"data.questions={own / 'none.json'}"
    )
    assert "model is '" in refusal(f"model={own / 'nomodel'}")
    assert "no tokenizer can be read there" in refusal(f"model={own}")
    assert "rollout.max_rollout_tokens is 5000; it must be at most 1024, the positions" in refusal(
        "rollout.max_rollout_tokens=5000"
    )
    (own / "d.jsonl").write_text('{"question_id": "none", "calls": []}')
    demonstrations = f"data.demonstrations={own / 'd.jsonl'}"
    assert "d.jsonl: line 1: no question has question_id 'none'" in refusal(demonstrations)
    (own / "d.jsonl").write_text('{"question_id": "1"}')
    assert "d.jsonl: line 1: 'calls'; it must hold question_id and calls" in refusal(demonstrations)
    (own / "d.jsonl").write_text('{"question_id": "2", "calls": []}')
    assert "data.demonstrations: none of 1 has a database that can be read" in refusal(
        demonstrations, "warm_start.tokens=100"
    )
    (own / "empty.json").write_text("[]")
    assert "leaves no question to train on" in refusal(f"data.questions={own / 'empty.json'}")
    assert "empty.json holds no question" in refusal(f"data.dev_questions={own / 'empty.json'}")
    assert "none.jsonl cannot be read: " in refusal(f"data.demonstrations={own / 'none.jsonl'}")
    hub = refusal("model=Qwen/Qwen3-4B")
    assert "model is 'Qwen/Qwen3-4B', which is not there; it must be a local folder" in hub
    assert "nothing is downloaded here" in hub
    assert "run `hf download OWNER/NAME --local-dir DIR` and set model=DIR" in hub


def test_unusable_questions_refuse_the_run_before_anything_is_trained(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*changes: str) -> str:
        assert main([*words(own, tiny), *changes]) == 2
        assert_nothing_is_kept(own / "run")
        return capsys.readouterr().err

    told = refusal("data.max_unusable_share=0.1")
    assert "No such file or directory: 'nowhere'; expected <db_id>/<db_id>.sqlite, .db or" in told
    assert "1 of 6 questions cannot be used, and data.max_unusable_share is 0.1" in told
    told = refusal(f"data.databases={own / 'empty'}", "data.max_unusable_share=1")
    assert "'nowhere'" in told
    assert "6 of 6 questions cannot be used: none is left" in told
    told = refusal(f"data.dev_databases={own / 'empty'}")
    assert f"error: data.dev_databases '{own / 'empty'}': " in told
    assert "questions cannot be used: none is left" in told
    told = refusal("rollout.max_rollout_tokens=50")
    assert "rollout.max_rollout_tokens is 50; it must be more than the training prompts" in told
    assert "5 of 5 questions cannot be used: none is left" in told


def test_a_few_unusable_questions_are_told(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    entries = json.loads((own / "questions.json").read_text())
    entries[0]["evidence"] = "word " * 900
    (own / "questions.json").write_text(json.dumps(entries))
    given = [*words(own, tiny), "eval.questions=1", "update.updates=0"]
    assert main(given) == 0
    missing, long = [
        record.getMessage() for record in caplog.records if record.name.startswith("finestep_fast")
    ]
    assert "1 of 4 databases cannot be read: No such file or directory: 'nowhere'" in missing
    assert "rollout.max_rollout_tokens is 900; it must be more than the training prompts" in long
    assert "1 of 5 questions cannot be used" in long


def test_databases_of_another_extension_are_trained_on(own: Path, tiny: Tiny) -> None:
    for path in (own / "databases").glob("*/*.sqlite"):
        path.rename(path.with_suffix(".db"))
    given = [*words(own, tiny), f"data.dev_databases={own / 'databases'}", "update.updates=1"]
    assert main(given) == 0
    assert [record["rollouts"] for record in records(own / "run", "metrics")] == [12.0]


class DatabasesGone(StopRequest):
    """Moves the databases away at the first safe point after so many updates."""

    def __init__(self, folder: Path, updates: int) -> None:
        super().__init__()
        self.folder, self.updates = folder, updates
        self.run: TrainingRun | None = None

    def check(self) -> None:
        assert self.run is not None
        if self.run.state.updates == self.updates and self.folder.exists():
            self.folder.rename(self.folder.with_name("gone"))
        super().check()


@pytest.mark.parametrize(("updates", "where"), [(0, "dev, before"), (1, "update 1")])
def test_a_run_whose_databases_go_away_stops_and_goes_on_when_they_are_back(
    own: Path, tiny: Tiny, updates: int, where: str
) -> None:
    given = [
        *words(own, tiny),
        f"data.dev_databases={own / 'databases'}",
        "rollout.prompts=8",
        "rollout.rollouts_per_prompt=2",
        "eval.questions=1",
        f"update.updates={2 * updates}",
    ]
    whole, parted = own / "whole", own / "parted"
    assert main([*given, f"output={whole}"]) == 0
    stop = DatabasesGone(own / "databases", updates)
    stop.run = TrainingRun(load_config(None, [*given, f"output={parted}"]), stop)
    with pytest.raises(NothingCounts) as caught:
        stop.run.train()
    told = str(caught.value)
    assert told.startswith(f"{where}: no rollout counts: ")
    assert "No such file or directory" in told
    goes_on = f"python -m finestep_fast.train resume={parted}"
    assert f"the state is saved, go on when that is mended with: {goes_on}" in told
    assert main([f"resume={parted}"]) == 2, "the databases are still away"
    (own / "gone").rename(own / "databases")
    assert main([f"resume={parted}"]) == 0
    assert evaluations(parted) == evaluations(whole)
    if updates:
        assert records(parted, "rollouts") == records(whole, "rollouts")


def test_updates_of_one_faulty_question_go_on_and_show_no_rate(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*words(own, tiny), "rollout.prompts=1", "update.updates=6", "eval.questions=1"]
    assert main(given) == 0
    metrics = records(own / "run", "metrics")
    lost = [record for record in metrics if record["rollouts"] == 0]
    assert len(lost) == 2
    assert {record["ex"] for record in lost} == {None}
    assert (
        "EX \N{EN DASH}  calls \N{EN DASH}  reward \N{EN DASH}  failed 3" in capsys.readouterr().out
    )


def test_a_run_whose_output_is_lost_stops_with_its_state_saved(own: Path, tiny: Tiny) -> None:
    program = " ".join([sys.executable, "-m", "finestep_fast.train", *words(own, tiny)])
    for redirection, reason, run in (
        ("| true", "Broken pipe", own / "piped"),
        ("> /dev/full", "No space left on device", own / "full"),
    ):
        done = subprocess.run(
            ["bash", "-c", f"(sleep 0.2; {program} output={run}; echo $? >&2) {redirection}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        *said, stopped, status = done.stderr.splitlines()
        assert said.count(f"standard output cannot be written: {reason}") == 1
        resume = f"python -m finestep_fast.train resume={run}"
        assert stopped == f"stopped by SIGPIPE; the state is saved, go on with: {resume}"
        assert status == str(128 + signal.SIGPIPE)
        assert "Traceback" not in done.stderr
        assert list((run / "checkpoints").glob("checkpoint-*"))


def test_a_model_without_a_tool_role_is_refused(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own / "model"
    shutil.copytree(tiny.model_folder, model)
    (model / "chat_template.jinja").unlink()
    assert main([*words(own, tiny), f"model={model}"]) == 2
    assert "model: its tokenizer has no chat template" in capsys.readouterr().err


def own_model(own: Path, tiny: Tiny, family: str, **changes: Any) -> list[str]:
    """Words for a run of a random-weight model of a family, with the tiny agent's tokenizer."""
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


def test_tools_that_the_template_leaves_out_are_described_and_it_is_said(
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


def test_questions_and_databases_that_nobody_here_made_go_through(
    shared_data: Path, tiny: Tiny, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    data = shared_data / "spider_train"
    status = main(
        [
            *SMALL,
            f"model={tiny.model_folder}",
            f"data.questions={data / 'questions.jsonl'}",
            f"data.databases={data / 'databases'}",
            "env.schema_in_prompt=full",
            "env.max_prompt_chars=600",
            f"output={run}",
        ]
    )
    assert status == 0
    metrics = records(run, "metrics")
    assert [record["rollouts"] + record["failed"] for record in metrics] == [18.0, 18.0]
    assert all(record["failed"] == 0 for record in metrics)
    rollouts = records(run, "rollouts")
    assert len({record["db_id"] for record in rollouts}) > 2
    assert sum(len(record["steps"]) for record in rollouts) > 36
    trained_on = {record["db_id"] for record in rollouts}
    held_out = {record["question_id"] for record in records(run, "evaluations")}
    assert held_out
    assert not held_out & {record["question_id"] for record in rollouts}
    assert trained_on <= {path.name for path in (data / "databases").iterdir()}
