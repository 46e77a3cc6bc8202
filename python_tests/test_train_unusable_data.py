"""Own data that cannot be used: refused by name, or left out with a warning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finestep_fast.train.__main__ import main
from finestep_fast.train.config import load_config
from finestep_fast.train.run import TrainingRun
from finestep_fast.train.stop import NothingCounts, StopRequest
from support.commands import evaluations, records
from support.own_data import assert_nothing_is_kept, words
from support.tiny import Tiny

pytestmark = pytest.mark.slow


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

    message = refusal("data.max_unusable_share=0.1")
    assert "No such file or directory: 'nowhere'; expected <db_id>/<db_id>.sqlite or" in message
    assert "1 of 6 questions cannot be used, and data.max_unusable_share is 0.1" in message
    message = refusal(f"data.databases={own / 'empty'}", "data.max_unusable_share=1")
    assert "'nowhere'" in message
    assert "6 of 6 questions cannot be used: none is left" in message
    message = refusal(f"data.dev_databases={own / 'empty'}")
    assert f"error: data.dev_databases '{own / 'empty'}': " in message
    assert "questions cannot be used: none is left" in message
    message = refusal("rollout.max_rollout_tokens=50")
    assert "rollout.max_rollout_tokens is 50; it must be more than the training prompts" in message
    assert "5 of 5 questions cannot be used: none is left" in message


def test_a_few_unusable_questions_are_reported(
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
def test_a_run_stops_when_its_databases_go_away_and_goes_on_when_they_are_back(
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
    message = str(caught.value)
    assert message.startswith(f"{where}: no rollout counts: ")
    assert "No such file or directory" in message
    goes_on = f"python -m finestep_fast.train resume={parted}"
    assert f"the state is saved, go on when that is mended with: {goes_on}" in message
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
