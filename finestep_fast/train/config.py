"""The trainer's settings: one frozen dataclass per stage, composed into `TrainConfig`.

How files and `key=value` words become these is `finestep_fast.config`; what a stage does with its
settings stands beside that stage.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from finestep_fast.config import (
    CreditConfig,
    LossConfig,
    apply_overrides,
    build,
    check_reward_balance,
    read_yaml,
)
from finestep_fast.config.rules import Share, above, at_least, at_most, check_fields
from finestep_fast.config_files import config_path
from finestep_fast.env.config import EnvConfig
from finestep_fast.errors import InputError, shown
from finestep_fast.rewards import RewardConfig
from finestep_fast.train.explore.world import ExploreConfig
from finestep_fast.train.generated.model import SmallModelConfig
from finestep_fast.train.quickstart.world import WorldConfig
from finestep_fast.train.state.checksums import is_sealed, seal_is_whole

CONFIG_FILE = "config.yaml"
"""A run's settings, whole, in its folder."""

# What a message names as a remedy must be among them.
_FREE_ON_RESUME = (
    "update.updates=",
    "update.head=",
    "precision=",
    "eval.",
    "checkpoint.",
    "data.max_unusable_share=",
)

Schedule = Literal["constant", "cosine", "linear"]
Precision = Literal["auto", "float32", "bfloat16"]
Impl = Literal["auto", "reference"]
HeadKind = Literal["linear", "logits"]
ValueKind = Literal["gold", "history"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where questions, databases and demonstrations come from."""

    questions: Path | None = None
    """Training questions in BIRD's format, JSON or JSON lines; None generates them."""
    databases: Path | None = None
    """Folder of `<db_id>/<db_id>.sqlite` or `<db_id>.sqlite`, also with `.db` or `.sqlite3`."""
    dev_questions: Path | None = None
    """Questions to evaluate on; None holds out `dev_share` of the training databases."""
    dev_databases: Path | None = None
    """Folder of their databases; None means `databases`."""
    dev_share: Annotated[float, at_least(0), at_most(0.9)] = 0.1
    """Share of the databases whose questions are held out when `dev_questions` is None."""
    demonstrations: Path | None = None
    """JSON lines of `question_id` and `calls` for the warm start. A line may have a `stage`, 0 if
    not: all of a lower stage are learnt first, and each stage has its share of the tokens."""
    limit: Annotated[int, at_least(1)] | None = None
    """At most this many training questions, and as many for dev."""
    max_unusable_share: Share = 0.1
    """Share of the questions, of training and of dev each, that may be of no use: their database
    cannot be read, or their prompt leaves no room for an answer. More refuse the run."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """The world that is generated when `questions` and `explore` are None."""
    explore: ExploreConfig | None = None
    """The explore world, generated in place of `world` when `questions` is None; `{}` takes its
    defaults."""

    def __post_init__(self) -> None:
        """Check every field, and that they fit together.

        Raises:
            InputError: A path is missing beside another, or a number is out of range.
        """
        check_fields(self)
        if (self.questions is None) != (self.databases is None):
            given, missing = (
                ("questions", "databases") if self.questions else ("databases", "questions")
            )
            raise InputError(
                f"{missing} is missing; {given} needs it: "
                "set both, or neither for a generated world"
            )
        if self.questions is None:
            for name in ("dev_questions", "demonstrations"):
                if getattr(self, name) is not None:
                    raise InputError(
                        f"{name} is {shown(str(getattr(self, name)))}; "
                        "it needs questions and databases beside it"
                    )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning rate."""

    learning_rate: Annotated[float, above(0)] = 1e-6
    """Peak learning rate."""
    schedule: Schedule = "constant"
    """How the rate goes on after its rise; constant, or down to zero at the last step."""
    rise_steps: Annotated[int, at_least(0)] = 0
    """Optimiser steps over which the rate rises from zero."""
    weight_decay: Annotated[float, at_least(0)] = 0.0
    """AdamW's weight decay."""
    beta2: Share = 0.95
    """AdamW's second-moment decay; the first is 0.9."""
    max_grad_norm: Annotated[float, above(0)] = 1.0
    """Gradients are scaled down to this norm."""
    max_skipped_steps: Annotated[int, at_least(0)] = 5
    """Steps whose loss or gradient is not finite are skipped; more in a row end the run."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A value is out of range.
        """
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Supervised training on demonstrations, before any reward is seen."""

    tokens: Annotated[int, at_least(0)] = 0
    """Tokens to train on, prompts and observations included; 0 leaves the warm start out."""
    batch_rollouts: Annotated[int, at_least(1)] = 16
    """Demonstrations per optimiser step, over all processes."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(learning_rate=3e-3, schedule="cosine")
    )
    """AdamW."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A value is out of range.
        """
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How many rollouts an update takes, and how they are sampled."""

    prompts: Annotated[int, at_least(1)] = 16
    """Questions per update, over all processes; each is one group."""
    rollouts_per_prompt: Annotated[int, at_least(1)] = 8
    """Rollouts per question."""
    temperature: Annotated[float, above(0)] = 1.0
    """Of sampling; the losses use the same one."""
    max_step_tokens: Annotated[int, at_least(1)] = 256
    """Tokens the policy may write in one step."""
    max_rollout_tokens: Annotated[int, at_least(2)] = 4096
    """Tokens of a whole rollout, prompt and observations included."""
    batch_rows: Annotated[int, at_least(1)] = 128
    """Rollouts played at once by one process; bounds the memory of the cache."""
    tool_threads: Annotated[int, at_least(1)] = 8
    """Threads that run tool calls."""
    drop_uniform_groups: bool = False
    """Leave out groups whose rollouts all have the same outcome."""
    max_extra_prompts: Annotated[int, at_least(0)] = 0
    """Dynamic sampling: at most this many questions more per update, over all processes, asked
    until `prompts` groups have rollouts with different outcomes; 0 is off."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A value is out of range.
        """
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """From scored rollouts to new weights."""

    updates: Annotated[int, at_least(0)] = 100
    """Rounds of rollouts and learning."""
    minibatches: Annotated[int, at_least(1)] = 2
    """Optimiser steps per pass over the rollouts of an update."""
    passes: Annotated[int, at_least(1)] = 1
    """Passes over the rollouts of an update."""
    micro_batch_tokens: Annotated[int, at_least(1)] = 16384
    """Padded tokens of one forward and backward pass; bounds the memory."""
    head: HeadKind = "linear"
    """How losses are made: from hidden states, never holding all logits; or from the model's own
    logits, for a head that does more than multiply."""
    max_kl: Annotated[float, above(0)] | None = None
    """Bound on the mean KL divergence of one update, in nats per token that the policy wrote: a
    step that goes farther is shortened. None leaves steps as they are."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A value is out of range.
        """
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation on the dev questions, greedy."""

    questions: Annotated[int, at_least(1)] | None = None
    """At most this many dev questions; None takes all."""
    every_updates: Annotated[int, at_least(0)] = 0
    """Also evaluate after every so many updates; 0 only before and after."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A value is out of range.
        """
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state of a run is written."""

    every_updates: Annotated[int, at_least(0)] = 10
    """Write after every so many updates; 0 only when a phase ends or the run is stopped."""
    every_warm_steps: Annotated[int, at_least(0)] = 200
    """Write after every so many steps of the warm start; 0 only when it ends or is stopped."""
    keep: Annotated[int, at_least(1)] = 1
    """How many checkpoints stay."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: A value is out of range.
        """
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a run."""

    output: Path = Path("runs/finestep")
    """Folder of the run: settings, metrics, rollouts, checkpoints, the trained model."""
    seed: Annotated[int, at_least(0), at_most(2**31 - 1)] = 0
    """Of the world, the weights, the order of questions and the sampling."""
    model: Path | None = None
    """Folder of a causal language model with a chat template; None makes `small_model`."""
    small_model: SmallModelConfig = field(default_factory=SmallModelConfig)
    """Size of the model that is made when `model` is None."""
    precision: Precision = "auto"
    """Of training passes: bfloat16 by autocast, or float32; auto asks the machine."""
    impl: Impl = "auto"
    """Of credit and loss: the fastest for the device, or the plain PyTorch that is the truth."""
    data: DataConfig = field(default_factory=DataConfig)
    """Questions, databases, demonstrations."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """Tools, prompt, limits of an episode."""
    rewards: RewardConfig = field(default_factory=RewardConfig)
    """Weights of the process rewards."""
    credit: CreditConfig = field(default_factory=CreditConfig)
    """From rewards to step advantages."""
    value: ValueKind = "gold"
    """What the value of scope `value` knows: how much of what the gold query needs a rollout has
    been shown, or only the history of its calls (for which `credit.gae_lambda` 0.7 is better)."""
    value_memory: Annotated[float, at_least(0), at_most(0.999)] = 0.9
    """How much an update counts in the fit of the value against the one after it; 0 fits the value
    to each update alone."""
    loss: LossConfig = field(default_factory=LossConfig)
    """From step advantages to the policy loss."""
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    """Supervised training first."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Sampling."""
    update: UpdateConfig = field(default_factory=UpdateConfig)
    """Learning."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""

    def __post_init__(self) -> None:
        """Check every field, and that the stages fit together.

        Raises:
            InputError: A value is out of range, or they do not.
        """
        check_fields(self)
        try:
            check_reward_balance(self.credit, self.env.max_steps)
        except InputError as error:
            raise InputError(f"credit: {error}") from None
        if (
            self.data.questions is not None
            and self.model is None
            and self.data.demonstrations is None
        ):
            raise InputError(
                "model is null; with data.questions it must be the folder of a causal language "
                "model (one made here knows nothing unless data.demonstrations teach it)"
            )
        if (
            self.warm_start.tokens
            and self.data.questions is not None
            and self.data.demonstrations is None
        ):
            raise InputError(
                f"warm_start.tokens is {self.warm_start.tokens}; "
                "it must be 0 without data.demonstrations"
            )


def load_config(source: Path | None, overrides: Sequence[str]) -> TrainConfig:
    """Read the settings of a run.

    Args:
        source: A YAML file, or the name of one that comes with the package. None is `quickstart`,
            or `agent` (made for pretrained models) if `overrides` name a model.
        overrides: Words such as `update.updates=20`, set after the file is read; `resume=DIR` takes
            the settings of an earlier run instead.

    Raises:
        InputError: Something is wrong with a file, a key or a value; the message names it.
    """
    resumed = [word for word in overrides if word.startswith("resume=")]
    if resumed:
        return _resumed_config(source, resumed[-1].partition("=")[2], overrides)
    if source is None:
        names_model = any(word.startswith("model=") for word in overrides)
        source = config_path("agent" if names_model else "quickstart")
    elif not os.path.exists(source) and source.suffix == "":
        source = config_path(str(source))
    return build(TrainConfig, apply_overrides(read_yaml(source), overrides))


def _resumed_config(source: Path | None, folder: str, overrides: Sequence[str]) -> TrainConfig:
    path = Path(folder) / CONFIG_FILE
    if source is not None:
        raise InputError(
            f"resume is {folder!r}; {source} must be left out, the run brings its settings"
        )
    if not os.path.exists(path):
        raise InputError(
            f"resume is {shown(folder)}; it must be the folder of a run, which holds {CONFIG_FILE}"
        )
    changes = [word for word in overrides if not word.startswith("resume=")]
    for word in changes:
        if not word.startswith(_FREE_ON_RESUME):
            raise InputError(
                f"{word!r}: a resumed run keeps its settings; "
                f"only {', '.join(_FREE_ON_RESUME)} may change"
            )
    mapping = {**_kept_settings(path), "output": folder}
    return build(TrainConfig, apply_overrides(mapping, changes))


def _kept_settings(path: Path) -> dict[str, Any]:
    """Read what a run wrote, whole and unchanged; a file without a checksum must be whole."""
    sealed = is_sealed(path)
    if sealed and not seal_is_whole(path):
        raise InputError(
            f"{path} is not as the run wrote it; put back what it was, or remove the checksum on "
            "top to take it as it is"
        )
    mapping = read_yaml(path)
    missing = [field.name for field in fields(TrainConfig) if field.name not in mapping]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; a run's settings are kept whole")
    return mapping
