"""Checks before anything is trained: whether the questions can be asked at all.

Every database is opened once, and prompts are measured. A few unusable questions are reported, too
many refuse the run. Nothing is changed or left out: unusable questions show as failed rollouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finestep_fast.env.chat import ChatFormat
from finestep_fast.env.databases import checked_databases, checked_share
from finestep_fast.env.episode import Episode
from finestep_fast.env.question import Question
from finestep_fast.sql import Engine
from finestep_fast.train.config import DataConfig, TrainConfig
from finestep_fast.train.data import RunData

# Measuring a prompt takes milliseconds: of more questions, these tell how many are too long.
MOST_MEASURED = 1000

_SETTING = "data.max_unusable_share"


def check_databases(data: RunData, sources: DataConfig) -> Iterator[str]:
    """Open every database that a question names; yields what a person should know.

    Args:
        data: Of the run.
        sources: Where it came from.

    Raises:
        InputError: None can be read, or those of too many questions cannot.
    """
    for key, folder, questions in (
        ("data.databases", sources.databases, data.train),
        ("data.dev_databases", sources.dev_databases or sources.databases, data.dev),
    ):
        if questions:
            report = checked_databases(
                questions,
                what=f"{key} {str(folder)!r}",
                max_share=sources.max_unusable_share,
                setting=_SETTING,
            )
            if report:
                yield report
    if not data.dev and sources.dev_share:
        yield (
            f"data.dev_share is {sources.dev_share:g}, but all questions are on one database: "
            "none is held out, and nothing is evaluated"
        )


def check_prompts(
    data: RunData, config: TrainConfig, chat: ChatFormat, engine: Engine
) -> Iterator[str]:
    """Measure the prompts of the first questions of a run; yields what a person should know.

    Args:
        data: Of the run.
        config: Its settings.
        chat: Renders the prompts.
        engine: Of the run; it runs nothing here.

    Raises:
        InputError: No prompt leaves room for an answer, or too many do not.
    """
    train = data.train
    if len(train) > MOST_MEASURED:
        train = data.questions_of_update(0, MOST_MEASURED, config.seed)
    for kind, questions in (
        ("training", train),
        ("dev", data.dev[: config.eval.questions][:MOST_MEASURED]),
    ):
        report = _checked_prompts(kind, questions, config, chat, engine)
        if report:
            yield report


def _checked_prompts(
    kind: str, questions: Sequence[Question], config: TrainConfig, chat: ChatFormat, engine: Engine
) -> str:
    episodes = [Episode(question, engine, config.env) for question in questions]
    playable = [episode for episode in episodes if not episode.done]
    tokens = [len(chat.prompt_ids(episode.messages())) for episode in playable]
    limit = config.rollout.max_rollout_tokens
    num_long = sum(length >= limit for length in tokens)
    if not num_long:
        return ""
    longest = max(range(len(tokens)), key=tokens.__getitem__)
    report = (
        f"rollout.max_rollout_tokens is {limit}; it must be more than the {kind} prompts have, "
        f"up to {tokens[longest]} tokens (database {playable[longest].question.db_id!r}): "
        "raise it, or shorten the prompts by env.max_prompt_chars or env.schema_in_prompt"
    )
    return checked_share(
        report, num_long, len(tokens), max_share=config.data.max_unusable_share, setting=_SETTING
    )
