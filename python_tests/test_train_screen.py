"""What a person sees while a run goes on: something within the first minute, and true."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from finestep_fast.train.config import RolloutConfig
from finestep_fast.train.screen import Screen
from support.tiny import Tiny


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a clock that only a test moves."""
    now = [0.0]
    monkeypatch.setattr("finestep_fast.train.screen.time.monotonic", lambda: now[0])
    return now


def test_a_long_phase_shows_tokens_and_seconds_though_no_rollout_has_ended(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Screen(live=True).bar("update 0", 128, timed_lines_only=True) as bar:
        for _ in range(60):
            clock[0] += 1.0
            bar.advance(0, tokens=128)
        bar.advance(128)
    assert capsys.readouterr().out.splitlines() == [
        "update 0: 0/128 2560 tokens, 20 s",
        "update 0: 0/128 5120 tokens, 40 s",
        "update 0: 0/128 7680 tokens, 60 s",
    ]


def test_a_quick_phase_has_a_line_per_tenth_and_a_part_of_another_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen(live=True)
    with screen.bar("updates", 20) as bar:
        for _ in range(20):
            with screen.bar("update", 7, timed_lines_only=True) as inner:
                for _ in range(7):
                    inner.advance(1, tokens=3)
            bar.advance(1, "EX 0.50")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"updates: {n}/20 EX 0.50" for n in range(2, 21, 2)]


def test_the_sampler_reports_every_pass_and_how_many_tokens_it_adds(tiny: Tiny) -> None:
    limits = RolloutConfig(max_step_tokens=48, max_rollout_tokens=500, batch_rows=3)
    added: list[int] = []
    ended: list[int] = []
    transcripts = tiny.sampler(limits).play(
        tiny.episodes(tiny.data.train[:4], 2), seed=0, on_end=ended.append, on_tokens=added.append
    )
    assert sum(ended) == 8
    written = sum(len(item.token_ids) - item.num_prompt_tokens for item in transcripts)
    assert sum(added) == written
    assert max(added) == 3


def test_a_phase_within_another_is_shown_on_a_terminal_too() -> None:
    screen = Screen(live=True)
    screen.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with screen.bar("updates", 2) as bar:
        for _ in range(2):
            with screen.bar("dev, update_1", 3) as inner:
                inner.advance(3, tokens=30)
            bar.advance(1, "EX 0.50")
    with screen.bar("dev, final", 1) as bar:
        bar.advance(1)
    shown = screen.console.file.getvalue()  # type: ignore[attr-defined]
    assert "dev, final" in shown
    assert "2/2" in shown


def test_a_rate_over_nothing_is_a_dash_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    keys = ("ex", "calls", "redundant_rate", "malformed_rate", "silent_rate", "policy_tokens")
    nothing = {**dict.fromkeys(keys), "seconds": 1.0}
    Screen(live=True).table(
        "run", {"before": {**dict.fromkeys(keys, 0.0), "seconds": 2.0}, "final": nothing}
    )
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["EX", "on", "dev", "0.0%", "\N{EN DASH}"] in rows
    assert ["redundant", "calls", "0.0%", "\N{EN DASH}"] in rows


def test_an_output_that_cannot_be_written_is_reported_once_and_the_screen_goes_dark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for error in (BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")):

        class Lost(io.StringIO):
            def write(self, text: str, error: OSError = error) -> int:
                raise error

        monkeypatch.setattr("sys.stdout", Lost())
        messages: list[str] = []
        screen = Screen(live=True, on_lost=messages.append)
        screen.say("one")
        screen.say("two")
        screen.table("three", {})
        assert messages == [f"standard output cannot be written: {error.strerror}"]
