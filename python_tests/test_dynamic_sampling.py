"""Extra questions: asked until enough groups are mixed, from a stream that moves nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from finestep_fast import CreditConfig
from finestep_fast.env.question import Question
from finestep_fast.sql import Engine
from finestep_fast.train.config import RolloutConfig, TrainConfig
from finestep_fast.train.data import RunData
from finestep_fast.train.play import Player
from finestep_fast.train.rollout.credit import credited
from finestep_fast.train.rollout.extra import extra_questions, num_mixed_groups, with_extra_groups
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.screen import Screen
from support.databases import written
from support.played import played, submits

GOLD = "SELECT name FROM customer WHERE city = 'London'"
RIGHT, WRONG = [submits(GOLD)], [submits("SELECT 1")]
CALLS = {"mixed": (RIGHT, WRONG), "right": (RIGHT, RIGHT), "wrong": (WRONG, WRONG)}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Rollout]]:
    """Return two rollouts for each kind of group."""
    database: Path = written(tmp_path_factory.mktemp("extra") / "shop.sqlite")
    question = Question("1", "Who lives in London?", GOLD, "shop", database)
    with Engine() as engine:
        return {kind: played(question, engine, *calls) for kind, calls in CALLS.items()}


def asking(kinds: str) -> list[Question]:
    """Return questions whose groups will be mixed (m), all right (r) or all wrong (w)."""
    full = {"m": "mixed", "r": "right", "w": "wrong"}
    return [
        Question(f"{n}", full[kind], GOLD, "shop", Path("shop.sqlite"))
        for n, kind in enumerate(kinds)
    ]


class Scripted:
    """A rollout engine whose groups come out as the text of their question says."""

    def __init__(self, templates: dict[str, list[Rollout]]) -> None:
        self.templates = templates
        self.asked: list[list[str]] = []
        self.seeds: list[int] = []

    def play(
        self, questions: Sequence[Question], num_each: int, *, seed: int, **rest: Any
    ) -> list[Rollout]:
        self.asked.append([question.question_id for question in questions])
        self.seeds.append(seed)
        return [
            dataclasses.replace(rollout, group=group)
            for group, question in enumerate(questions)
            for rollout in self.templates[question.text]
        ]


@pytest.fixture
def filled(templates: dict[str, list[Rollout]]) -> Callable[..., tuple[list[Rollout], Scripted]]:
    def filled(
        own: str, extra: str, wanted: int, others: Sequence[int] = ()
    ) -> tuple[list[Rollout], Scripted]:
        engine = Scripted(templates)
        rollouts = with_extra_groups(
            engine.play(asking(own), 2, seed=0),
            asking(extra),
            wanted=wanted,
            play=lambda questions, number: engine.play(questions, 2, seed=number),
            summed=lambda count: count + sum(others),
        )
        return rollouts, engine

    return filled


def test_questions_are_asked_until_enough_groups_are_mixed(
    filled: Callable[..., tuple[list[Rollout], Scripted]],
) -> None:
    rollouts, engine = filled("mwrw", "wmwmmmm", 4)
    # Three are missing; the first three give one, the next two give one of two, then one more.
    assert engine.asked == [["0", "1", "2", "3"], ["0", "1", "2"], ["3", "4"]]
    assert [r.group for r in rollouts] == [group for group in range(9) for _ in range(2)]
    assert num_mixed_groups(rollouts) == 4
    assert engine.seeds == [0, 0, 1]


@pytest.mark.parametrize(
    ("own", "extra", "wanted", "asked"),
    [
        ("mmmm", "mmm", 4, []),  # enough
        ("mmmw", "", 4, []),  # none may be asked
        ("wwww", "wwwww", 4, [4, 1]),  # the cap is reached
        ("wmww", "wwwm", 2, [1, 1, 1, 1]),
        ("", "mm", 2, [2]),  # a process without a share of its own
    ],
)
def test_the_cap_and_the_aim_end_the_asking(
    filled: Callable[..., tuple[list[Rollout], Scripted]],
    own: str,
    extra: str,
    wanted: int,
    asked: list[int],
) -> None:
    rollouts, engine = filled(own, extra, wanted)
    assert [len(ids) for ids in engine.asked[1:]] == asked
    assert len(rollouts) == 2 * (len(own) + sum(asked))


def test_the_mixed_groups_of_other_processes_count(
    filled: Callable[..., tuple[list[Rollout], Scripted]],
) -> None:
    assert len(filled("mw", "mmmm", 4, others=[2])[1].asked) == 2
    assert len(filled("mw", "mmmm", 4, others=[3])[1].asked) == 1


def test_a_group_in_which_nothing_counts_is_not_mixed(templates: dict[str, list[Rollout]]) -> None:
    mixed = templates["mixed"]
    assert num_mixed_groups(mixed) == 1
    for place in (0, 1):
        score = dataclasses.replace(mixed[place].score, counted=False)
        changed = list(mixed)
        changed[place] = dataclasses.replace(mixed[place], score=score)
        assert num_mixed_groups(changed) == 0
    assert num_mixed_groups([*templates["right"], *templates["wrong"]]) == 1  # all in group 0


def test_uniform_groups_are_asked_for_more_and_left_out(
    filled: Callable[..., tuple[list[Rollout], Scripted]],
) -> None:
    rollouts, _ = filled("mw", "rm", 2)
    grpo = CreditConfig.preset("grpo")
    made = credited(rollouts, grpo, drop_uniform_groups=True, impl="reference")
    assert {item.group for item in made if item.learnt} == {0, 3}


def test_extra_questions_are_others_and_depend_on_seed_and_update_alone() -> None:
    every = asking("m" * 20)
    own = every[3:7]
    chosen = extra_questions(every, own, seed=1, update=4, most=8)
    ids = [question.question_id for question in chosen]
    assert len(set(ids)) == 8
    assert not set(ids) & {question.question_id for question in own}
    assert chosen == extra_questions(every, own, seed=1, update=4, most=8)
    assert chosen[:3] == extra_questions(every, own, seed=1, update=4, most=3)
    assert chosen != extra_questions(every, own, seed=1, update=5, most=8)
    assert chosen != extra_questions(every, own, seed=2, update=4, most=8)
    assert len(extra_questions(every, own, seed=1, update=4, most=99)) == 16
    assert extra_questions(every, own, seed=1, update=4, most=0) == []


@pytest.fixture
def player(templates: dict[str, list[Rollout]]) -> Callable[..., tuple[Player, Scripted]]:
    def player(most: int) -> tuple[Player, Scripted]:
        engine = Scripted(templates)
        limits = RolloutConfig(prompts=3, rollouts_per_prompt=2, max_extra_prompts=most)
        config = TrainConfig(rollout=limits, seed=5)
        return Player(config, Accelerator(cpu=True), engine, Screen(live=False)), engine

    return player


def test_extra_questions_change_nothing_of_later_updates(
    player: Callable[..., tuple[Player, Scripted]],
) -> None:
    data = RunData(asking("w" * 12), [], [])
    plain, alone = player(0)
    for update in range(3):
        rollouts, num_extra = plain.update(update, data)
        assert (len(rollouts), num_extra) == (6, 0)
    filled, engine = player(4)
    for update in range(3):
        rollouts, num_extra = filled.update(update, data)
        assert (len(rollouts), num_extra) == (14, 8)
    own = engine.asked[::3]
    assert own == alone.asked
    assert engine.seeds[::3] == alone.seeds
    assert [len(ids) for ids in engine.asked] == [3, 3, 1] * 3
    assert len(set(engine.seeds)) == 9
    # One that begins at the last update, as a resumed run does, asks and samples the same.
    resumed, later = player(4)
    resumed.update(2, data)
    assert later.asked == engine.asked[6:]
    assert later.seeds == engine.seeds[6:]
