"""What a run works with, put together: data, tokenizer, model, optimisers.

Nothing is trained here. A resumed run is put together in the same way and then takes over its saved
state.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, PreTrainedTokenizerFast, get_scheduler

from finestep_fast.env.chat import ChatFormat
from finestep_fast.env.episode import system_message
from finestep_fast.env.tools import TOOL_SCHEMAS
from finestep_fast.errors import InputError
from finestep_fast.sql import Engine
from finestep_fast.train.config import OptimConfig, TrainConfig
from finestep_fast.train.data import Demonstration, RunData, generate_world, load_data
from finestep_fast.train.generated.model import small_model, small_tokenizer
from finestep_fast.train.learn.agreement import check_sampling
from finestep_fast.train.learn.finite import non_finite
from finestep_fast.train.learn.head import linear_head
from finestep_fast.train.learn.padding import padded_length
from finestep_fast.train.learn.policy import (
    check_folder,
    load_model,
    load_tokenizer,
    training_dtype,
)
from finestep_fast.train.learn.warm_start import StagedBatches
from finestep_fast.train.preflight import check_databases, check_prompts
from finestep_fast.train.rollout.replay import Dialogue, replay, transcripts
from finestep_fast.train.rollout.transcript import Transcript
from finestep_fast.train.state.checksums import partial, publish, refuse_damage

logger = logging.getLogger(__name__)

_WHOLE_MODEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@dataclass
class Optimization:
    """An optimiser and the schedule of its learning rate."""

    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler


@dataclass
class Parts:
    """The parts of a run."""

    data: RunData
    """Questions and demonstrations."""
    tokenizer: PreTrainedTokenizerFast
    """Of the policy."""
    chat: ChatFormat
    """Prompts and observations as token ids."""
    policy: PreTrainedModel
    """The model itself."""
    model: nn.Module
    """The model as prepared for training."""
    dtype: torch.dtype
    """Of training passes."""
    batches: StagedBatches | None
    """Of the warm start; None if there is none."""
    warm: Optimization
    """Of the warm start."""
    update: Optimization
    """Of the updates."""


def make_accelerator() -> Accelerator:
    """Return an accelerator for one process or several with a whole model each.

    Raises:
        InputError: The launch asks for a model in pieces, which sampling here cannot do.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise InputError(
            "accelerate: FSDP was asked for; "
            "expected one process or several with a whole model each"
        )
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.distributed_type not in _WHOLE_MODEL:
        raise InputError(
            f"accelerate: distributed type {accelerator.distributed_type.value}; "
            "expected one process or several with a whole model each"
        )
    return accelerator


def make_parts(
    config: TrainConfig, folder: Path, accelerator: Accelerator, engine: Engine
) -> Parts:
    """Put a run together.

    Args:
        config: Its settings.
        folder: Of the run; the generated world and a tokenizer made from it are kept there.
        accelerator: Of the run.
        engine: Runs the demonstrations' calls.

    Raises:
        InputError: The data or the model are unusable.
    """
    if config.model is not None:
        check_folder(config.model)
    sources = config.data
    if sources.questions is None:
        with accelerator.main_process_first():
            sources = generate_world(sources, folder / "world")
    data = load_data(sources, config.seed)
    _tell(check_databases(data, sources), accelerator)
    warm_tokens = config.warm_start.tokens
    dialogues = (
        [replay(item, engine, config.env) for item in data.demonstrations] if warm_tokens else []
    )
    with accelerator.main_process_first():
        tokenizer = _tokenizer(config, folder / "tokenizer", dialogues)
    chat = _chat(config, tokenizer, accelerator)
    _tell(check_prompts(data, config, chat, engine), accelerator)
    batches = None
    if dialogues:
        stages = _stages(data.demonstrations, dialogues, chat, config.rollout.max_rollout_tokens)
        _check_demonstrations(sum(map(len, stages)), len(dialogues), config, accelerator)
        batches = StagedBatches(
            stages,
            tokens=warm_tokens,
            batch_rollouts=config.warm_start.batch_rollouts,
            seed=config.seed,
        )
    if config.model is not None:
        policy = load_model(config.model)
        for name in non_finite(policy):
            raise InputError(f"model is {str(config.model)!r}; its {name} is not finite")
    else:
        policy = small_model(tokenizer, config.small_model, seed=config.seed)
    _check_positions(policy, config.rollout.max_rollout_tokens)
    chat.stop_at(_stop_ids(policy))
    update_steps = config.update.updates * config.update.passes * config.update.minibatches
    warm = _optimization(policy, config.warm_start.optim, len(batches) if batches else 1)
    update = _optimization(policy, config.update.optim, max(update_steps, 1))
    model, warm.optimizer, update.optimizer = accelerator.prepare(
        policy, warm.optimizer, update.optimizer
    )
    accelerator.register_for_checkpointing(warm.scheduler, update.scheduler)
    return Parts(
        data=data,
        tokenizer=tokenizer,
        chat=chat,
        policy=accelerator.unwrap_model(model),
        model=model,
        dtype=training_dtype(config.precision, accelerator.device),
        batches=batches,
        warm=warm,
        update=update,
    )


def _stages(
    demonstrations: Sequence[Demonstration],
    dialogues: Sequence[Dialogue],
    chat: ChatFormat,
    max_tokens: int,
) -> list[list[Transcript]]:
    """Return the demonstrations that can be shown as token ids, stage by stage."""
    members: dict[int, list[Dialogue]] = {}
    for demonstration, dialogue in zip(demonstrations, dialogues, strict=True):
        members.setdefault(demonstration.stage, []).append(dialogue)
    stages = [transcripts(members[stage], chat, max_tokens) for stage in sorted(members)]
    return [stage for stage in stages if stage]


def _tokenizer(
    config: TrainConfig, kept: Path, dialogues: list[Dialogue]
) -> PreTrainedTokenizerFast:
    """Return the model's own, the one in the run's folder, or one fitted to demonstrations."""
    if config.model is not None:
        return load_tokenizer(config.model)
    if not kept.exists():
        if not dialogues:
            raise InputError(
                "warm_start.tokens is 0; it must be more, or `model` must name a folder"
            )
        texts = (text for dialogue in dialogues for text in dialogue.texts())
        small_tokenizer(texts, config.small_model).save_pretrained(partial(kept))
        publish(kept)
    refuse_damage(kept)
    return load_tokenizer(kept)


def check_model(policy: PreTrainedModel, config: TrainConfig) -> None:
    """Refuse a model that cannot be sampled or learnt from, before anything is spent on it.

    Raises:
        InputError: It gives other probabilities with its cache than without, or `update.head` does
            not fit its head.
    """
    check_sampling(policy)
    if config.update.head == "linear" and config.update.updates:
        linear_head(policy)


def _chat(
    config: TrainConfig, tokenizer: PreTrainedTokenizerFast, accelerator: Accelerator
) -> ChatFormat:
    # A model that is made here learns from its demonstrations what the tools are.
    describe = config.env.describe_tools and config.model is not None
    chat = ChatFormat(
        tokenizer,
        TOOL_SCHEMAS,
        system_prompt=system_message(config.env),
        describe_tools=describe,
    )
    if chat.description and accelerator.is_main_process:
        logger.warning(
            "the model's chat template does not tell all of the tools and the form of a call; "
            "a description of %d characters was added to the first message "
            "(env.describe_tools=false leaves it out)",
            len(chat.description),
        )
    return chat


def _stop_ids(policy: PreTrainedModel) -> list[int]:
    """Return every token that ends a text of the model, as its generation settings say."""
    settings = policy.generation_config
    ids = None if settings is None else settings.eos_token_id
    return [] if ids is None else [int(i) for i in (ids if isinstance(ids, list) else [ids])]


def _check_demonstrations(
    num_shown: int, num_given: int, config: TrainConfig, accelerator: Accelerator
) -> None:
    batch = config.warm_start.batch_rollouts
    if batch < accelerator.num_processes:
        raise InputError(
            f"warm_start.batch_rollouts is {batch}; "
            f"it must be at least the number of processes, {accelerator.num_processes}"
        )
    limit = config.rollout.max_rollout_tokens
    if num_shown == 0:
        raise InputError(
            f"data.demonstrations: none of {num_given} has a database that can be read and a first "
            f"step within rollout.max_rollout_tokens, {limit}"
        )
    if num_shown < num_given and accelerator.is_main_process:
        logger.warning(
            "%d of %d demonstrations are left out: their database cannot be read, or prompt and "
            "first step have more than rollout.max_rollout_tokens = %d tokens",
            num_given - num_shown,
            num_given,
            limit,
        )


def _tell(sentences: Iterable[str], accelerator: Accelerator) -> None:
    for sentence in sentences:
        if accelerator.is_main_process:
            logger.warning("%s", sentence)


def _check_positions(policy: PreTrainedModel, max_rollout_tokens: int) -> None:
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    # Rollouts are learnt from padded, and a table of positions ends where it ends.
    if positions is not None and padded_length(max_rollout_tokens) > positions:
        raise InputError(
            f"rollout.max_rollout_tokens is {max_rollout_tokens}; it must be at most "
            f"{positions - positions % padded_length(1)}, the positions of the model"
        )


def _optimization(policy: PreTrainedModel, config: OptimConfig, num_steps: int) -> Optimization:
    optimizer = AdamW(
        policy.parameters(),
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
    )
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=config.rise_steps, num_training_steps=num_steps
    )
    return Optimization(optimizer, scheduler)
