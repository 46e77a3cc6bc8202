"""The smallest real agent: a generated world, a tokenizer fitted to it, a model that calls tools.

Everything is what the quickstart uses, only smaller: databases are files, the model is a Qwen3 of
two layers after forty-odd steps of warm start. It calls tools, repeats itself and is often wrong,
which is what tests of rollouts need.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from finestep_fast.env.chat import ChatFormat
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode
from finestep_fast.env.question import Question
from finestep_fast.env.tools import TOOL_SCHEMAS
from finestep_fast.sql import Engine
from finestep_fast.train.config import DataConfig, RolloutConfig
from finestep_fast.train.data import RunData, load_data
from finestep_fast.train.generated.model import SmallModelConfig, small_model, small_tokenizer
from finestep_fast.train.learn.policy import attention
from finestep_fast.train.learn.warm_start import DemonstrationBatches, supervised_step
from finestep_fast.train.quickstart import DemonstrationConfig, WorldConfig, write_world
from finestep_fast.train.rollout.replay import Dialogue, replay, transcripts
from finestep_fast.train.rollout.sampler import Sampler
from finestep_fast.train.rollout.transcript import Transcript

WORLD = WorldConfig(
    train_databases_per_theme=1,
    dev_databases_per_theme=1,
    train_questions=28,
    dev_questions=8,
    demonstrations=DemonstrationConfig(per_question=4),
)
MODEL = SmallModelConfig(
    vocab_size=480, layers=2, hidden_size=64, heads=4, kv_heads=2, mlp_size=128, max_tokens=1024
)
ENV = EnvConfig(
    system_prompt="Answer with SQL.",
    schema_in_prompt="tables",
    max_observation_chars=200,
    max_malformed=3,
)
LIMITS = RolloutConfig(max_step_tokens=48, max_rollout_tokens=500, batch_rows=64, tool_threads=2)
WARM_STEPS = 45


@dataclass(frozen=True)
class Tiny:
    """The agent and its world; tests must not change it: take a copy of the model to train it."""

    root: Path
    data: RunData
    dialogues: list[Dialogue]
    demonstrations: list[Transcript]
    engine: Engine
    tokenizer: PreTrainedTokenizerFast
    chat: ChatFormat
    model: Qwen3ForCausalLM

    @property
    def model_folder(self) -> Path:
        """Return where model and tokenizer lie in the form that `transformers` reads."""
        return self.root / "model"

    def trainable(self) -> Qwen3ForCausalLM:
        """Return a copy of the model."""
        return copy.deepcopy(self.model)

    def sampler(self, limits: RolloutConfig = LIMITS) -> Sampler:
        """Return a sampler of the model."""
        return Sampler(self.model, self.chat, limits)

    def episodes(
        self, questions: Sequence[Question], each: int = 1, env: EnvConfig = ENV
    ) -> list[Episode]:
        """Return fresh episodes, those of one question side by side."""
        return [Episode(question, self.engine, env) for question in questions for _ in range(each)]


def make_tiny(root: Path, engine: Engine) -> Tiny:
    """Write the world below `root` and teach a model to call tools in it."""
    write_world(root / "world", WORLD)
    sources = DataConfig(
        questions=root / "world" / "train.json",
        databases=root / "world" / "databases",
        dev_questions=root / "world" / "dev.json",
        demonstrations=root / "world" / "demonstrations.jsonl",
    )
    data = load_data(sources, seed=0)
    dialogues = [replay(item, engine, ENV) for item in data.demonstrations]
    tokenizer = small_tokenizer((text for item in dialogues for text in item.texts()), MODEL)
    chat = ChatFormat(tokenizer, TOOL_SCHEMAS)
    demonstrations = transcripts(dialogues, chat, LIMITS.max_rollout_tokens)
    model = small_model(tokenizer, MODEL, seed=0)
    _teach(model, demonstrations)
    model.eval()
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    return Tiny(root, data, dialogues, demonstrations, engine, tokenizer, chat, model)


def _teach(model: Qwen3ForCausalLM, demonstrations: Sequence[Transcript]) -> None:
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = DemonstrationBatches(demonstrations, tokens=1, batch_rollouts=16, seed=0)
    with attention(model, "eager"):
        for step in range(WARM_STEPS):
            supervised_step(
                accelerator,
                model,
                optimizer,
                batches[step],
                dtype=torch.float32,
                max_grad_norm=1.0,
            )
