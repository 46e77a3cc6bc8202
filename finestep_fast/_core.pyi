"""
The compiled CPU core of finestep_fast. Its entry points are StepBatch, finestep_fast.ops and finestep_fast.sql.
"""

from __future__ import annotations

import collections.abc
import enum
import typing

import numpy
import numpy.typing
import torch

__all__: list[str] = [
    "Aggregation",
    "Channels",
    "ComparisonSettings",
    "CreditSettings",
    "KlEstimator",
    "LossKind",
    "LossSettings",
    "QueryStatus",
    "RatioLevel",
    "ReadyResult",
    "Scope",
    "Semantics",
    "SqlEngine",
    "SqliteLibrary",
    "Std",
    "Verdict",
    "WorkerEngine",
    "WorkerStartError",
    "all_within",
    "compare_pairs",
    "expanded_ctes",
    "formats_are_literal",
    "grown_terms",
    "own_rows",
    "policy_loss",
    "read_logit_rows",
    "scale_gradient",
    "serve_queries",
    "spider_query",
    "step_advantage",
    "step_policy_loss",
    "step_spans",
    "token_values",
    "write_logit_gradients",
]

class Scope(enum.Enum):
    """
    What a step is held against.
    """

    per_index = 1
    pooled = 0
    state = 3
    trajectory = 2
    value = 4

class Channels(enum.Enum):
    """
    How rewards and outcomes combine.
    """

    decoupled = 1
    joint = 0

class Std(enum.Enum):
    """
    What advantages are divided by.
    """

    none = 2
    population = 1
    sample = 0

class CreditSettings:
    """
    The fields of CreditConfig that computing needs.
    """
    def __init__(
        self,
        *,
        process_baseline: typing.SupportsFloat | typing.SupportsIndex,
        process_weight: typing.SupportsFloat | typing.SupportsIndex,
        outcome_weight: typing.SupportsFloat | typing.SupportsIndex,
        process_discount: typing.SupportsFloat | typing.SupportsIndex,
        outcome_discount: typing.SupportsFloat | typing.SupportsIndex,
        smoothing: typing.SupportsFloat | typing.SupportsIndex,
        scope: Scope,
        state_shrinkage: typing.SupportsFloat | typing.SupportsIndex,
        gae_lambda: typing.SupportsFloat | typing.SupportsIndex,
        channels: Channels,
        std: Std,
        std_floor: typing.SupportsFloat | typing.SupportsIndex,
        epsilon: typing.SupportsFloat | typing.SupportsIndex,
        leave_one_out: bool,
        step_weight: typing.SupportsFloat | typing.SupportsIndex,
        rollout_weight: typing.SupportsFloat | typing.SupportsIndex,
        advantage_clip: typing.SupportsFloat | typing.SupportsIndex | None,
    ) -> None: ...
    @property
    def advantage_clip(self) -> float | None: ...
    @property
    def channels(self) -> Channels: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def gae_lambda(self) -> float: ...
    @property
    def leave_one_out(self) -> bool: ...
    @property
    def outcome_discount(self) -> float: ...
    @property
    def outcome_weight(self) -> float: ...
    @property
    def process_baseline(self) -> float: ...
    @property
    def process_discount(self) -> float: ...
    @property
    def process_weight(self) -> float: ...
    @property
    def rollout_weight(self) -> float: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def smoothing(self) -> float: ...
    @property
    def state_shrinkage(self) -> float: ...
    @property
    def std(self) -> Std: ...
    @property
    def std_floor(self) -> float: ...
    @property
    def step_weight(self) -> float: ...

class LossKind(enum.Enum):
    """
    The form of the policy loss.
    """

    cispo = 1
    ppo = 0

class RatioLevel(enum.Enum):
    """
    Which tokens share a ratio.
    """

    rollout = 2
    rollout_averaged = 3
    step = 1
    token = 0

class Aggregation(enum.Enum):
    """
    How tokens are weighted.
    """

    constant = 3
    rollout_mean = 1
    step_mean = 2
    token_mean = 0

class KlEstimator(enum.Enum):
    """
    The estimate of the distance to the reference policy.
    """

    k1 = 0
    k2 = 1
    k3 = 2

class LossSettings:
    """
    The fields of LossConfig.
    """
    def __init__(
        self,
        *,
        kind: LossKind,
        ratio: RatioLevel,
        clip_low: typing.SupportsFloat | typing.SupportsIndex,
        clip_high: typing.SupportsFloat | typing.SupportsIndex,
        dual_clip: typing.SupportsFloat | typing.SupportsIndex | None,
        aggregation: Aggregation,
        constant_tokens: typing.SupportsFloat | typing.SupportsIndex | None,
        kl: KlEstimator | None,
        kl_weight: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None: ...
    @property
    def aggregation(self) -> Aggregation: ...
    @property
    def clip_high(self) -> float: ...
    @property
    def clip_low(self) -> float: ...
    @property
    def constant_tokens(self) -> float | None: ...
    @property
    def dual_clip(self) -> float | None: ...
    @property
    def kind(self) -> LossKind: ...
    @property
    def kl(self) -> KlEstimator | None: ...
    @property
    def kl_weight(self) -> float: ...
    @property
    def ratio(self) -> RatioLevel: ...

class Semantics(enum.Enum):
    """
    When two results are the same.
    """

    bird = 0
    multiset = 2
    ordered = 3
    soft_f1 = 5
    strict = 1
    test_suite = 4

class Verdict(enum.Enum):
    """
    Whether two results are the same.
    """

    different = 0
    equal = 1
    undecided = 2

class ComparisonSettings:
    """
    How results are compared.
    """
    def __init__(
        self,
        *,
        semantics: Semantics,
        ordered: bool,
        float_tolerance: typing.SupportsFloat | typing.SupportsIndex,
        search_budget: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    @property
    def float_tolerance(self) -> float: ...
    @property
    def ordered(self) -> bool: ...
    @property
    def search_budget(self) -> int: ...
    @property
    def semantics(self) -> Semantics: ...

class ReadyResult:
    """
    One result made ready for comparison. rows: sequences of int, float, str, bytes and None; name: what errors call them.
    """
    def __init__(self, rows: typing.Any, name: str, settings: ComparisonSettings) -> None: ...
    def outcome(self, gold: ReadyResult) -> tuple[Verdict, float]:
        """
        Compare this predicted result with a gold one made with the same settings: (verdict, score).
        """
    @property
    def size_bytes(self) -> int: ...

class SqliteLibrary:
    """
    One opened SQLite library. `file` is a library, or a module that uses one.
    """
    def __init__(self, file: str) -> None: ...
    @property
    def compile_options(self) -> list[str]: ...
    @property
    def path(self) -> str: ...
    @property
    def version(self) -> str: ...

class QueryStatus(enum.Enum):
    """
    How a query ended.
    """

    database_unreadable = 5
    denied = 4
    error = 1
    ok = 0
    timeout = 2
    too_large = 3

class SqlEngine:
    """
    Runs queries on SQLite databases. Its entry point is finestep_fast.sql.Engine.
    """
    def __init__(
        self,
        library: SqliteLibrary,
        *,
        threads: typing.SupportsInt | typing.SupportsIndex,
        max_connections: typing.SupportsInt | typing.SupportsIndex,
        gold_cache_bytes: typing.SupportsInt | typing.SupportsIndex,
        max_heap_bytes: typing.SupportsInt | typing.SupportsIndex,
        verdict_cache_bytes: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def close(self) -> None:
        """
        Stop running queries and close every connection.
        """
    def counters(self) -> tuple[int, int, int, int]:
        """
        Queries run, golds and verdicts that were remembered, the most at the same time.
        """
    def match(
        self,
        pairs: list[tuple[str, str, str]],
        ordered: list[bool] | None,
        comparison: ComparisonSettings,
        *,
        early_exit: bool,
        utf8_only: bool,
        max_rows: typing.SupportsInt | typing.SupportsIndex,
        max_bytes: typing.SupportsInt | typing.SupportsIndex,
        timeout_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> list[tuple[bool, QueryStatus, str, float, Verdict, float] | None]:
        """
        Compare [(path, predicted, gold)]. A report is (gold_failed, status, message, elapsed_ms, verdict, score), or None where the work was cancelled. ordered: one flag per pair, else that of comparison.
        """
    def run(
        self,
        jobs: list[tuple[str, str]],
        *,
        max_rows: typing.SupportsInt | typing.SupportsIndex,
        max_bytes: typing.SupportsInt | typing.SupportsIndex,
        timeout_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> list[
        tuple[
            QueryStatus,
            tuple[str, ...],
            tuple[tuple[int | float | str | bytes | None, ...], ...],
            bool,
            str,
            float,
            int,
            bool,
        ]
        | None
    ]:
        """
        Run [(path, sql)]. A result is (status, columns, rows, truncated, message, elapsed_ms, size_bytes, invalid_utf8), or None where the work was cancelled.
        """

class WorkerStartError(RuntimeError):
    pass

class WorkerEngine:
    """
    Has queries run by worker processes. Its entry point is finestep_fast.sql.Engine.
    """
    def __init__(
        self,
        program: collections.abc.Sequence[str],
        *,
        workers: typing.SupportsInt | typing.SupportsIndex,
        grace_s: typing.SupportsFloat | typing.SupportsIndex,
        verdict_cache_bytes: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def close(self) -> None:
        """
        End all workers.
        """
    def counters(self) -> tuple[int, int, int, int]:
        """
        As SqlEngine.counters.
        """
    def match(
        self,
        pairs: list[tuple[str, str, str]],
        ordered: list[bool] | None,
        comparison: ComparisonSettings,
        *,
        early_exit: bool,
        utf8_only: bool,
        max_rows: typing.SupportsInt | typing.SupportsIndex,
        max_bytes: typing.SupportsInt | typing.SupportsIndex,
        timeout_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> list[tuple[bool, QueryStatus, str, float, Verdict, float] | None]:
        """
        As SqlEngine.match.
        """
    def run(
        self,
        jobs: list[tuple[str, str]],
        *,
        max_rows: typing.SupportsInt | typing.SupportsIndex,
        max_bytes: typing.SupportsInt | typing.SupportsIndex,
        timeout_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> list[
        tuple[
            QueryStatus,
            tuple[str, ...],
            tuple[tuple[int | float | str | bytes | None, ...], ...],
            bool,
            str,
            float,
            int,
            bool,
        ]
        | None
    ]:
        """
        As SqlEngine.run.
        """

def all_within(
    values: torch.Tensor,
    low: typing.SupportsFloat | typing.SupportsIndex,
    high: typing.SupportsFloat | typing.SupportsIndex,
) -> bool:
    """
    Whether low <= value <= high for all values; never for a NaN.
    """

def compare_pairs(
    pairs: collections.abc.Sequence[tuple[typing.Any, typing.Any]],
    ordered: collections.abc.Sequence[bool],
    settings: ComparisonSettings,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> list[tuple[Verdict, float]]:
    """
    Compare pairs of a predicted and a gold result, each given as rows; ordered: one flag per pair, which goes before that of the settings. Like ReadyResult.outcome for each, in their order.
    """

def expanded_ctes(sql: str) -> int:
    """
    How many copies of common table expressions a query expands to.
    """

def formats_are_literal(sql: str) -> bool:
    """
    Whether every call of printf has a literal pattern of bounded width.
    """

def grown_terms(sql: str, enough: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    How many terms a query's expressions grow to while it is prepared, up to `enough`.
    """

def own_rows(
    library: SqliteLibrary,
    path: str,
    queries: list[str],
    max_instructions: typing.SupportsInt | typing.SupportsIndex,
) -> list[tuple[tuple[int | float | str | bytes | None, ...], ...] | None]:
    """
    Rows of queries that are trusted, None for one that fails. Raises RuntimeError for a database that cannot be read.
    """

def policy_loss(
    tokens: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    steps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    step_advantage: torch.Tensor,
    loss: LossSettings,
    count: torch.Tensor | None,
    out: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor],
    clear_between: bool,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write loss [1], the gradient of the policy tokens to their places in [T] (where it is asked for; with clear_between also zeros to all others: steps must then ascend) and metrics to `out`. tokens: token_logp, token_logp_old, token_logp_ref, token_weight; steps: step_start, step_end, step_offsets; loss: the fields of LossConfig; count [1]: what the aggregation divides by, else the batch's own.
    """

def read_logit_rows(
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    vocabulary: typing.SupportsInt | typing.SupportsIndex,
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write logp, entropy, maximum and total [C] of some rows to `out`. rows: logits [rows, V], row [C], target [C], temperature [C]; what is [C] and not a position is float64.
    """

def scale_gradient(
    gradient: torch.Tensor,
    scale: torch.Tensor,
    step_start: torch.Tensor,
    step_end: torch.Tensor,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Multiply gradient [T] by scale [1] in place, for the tokens inside steps.
    """

def serve_queries(
    library: str,
    max_connections: typing.SupportsInt | typing.SupportsIndex,
    gold_cache_bytes: typing.SupportsInt | typing.SupportsIndex,
    max_heap_bytes: typing.SupportsInt | typing.SupportsIndex,
    parent: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    The loop of a worker process; see finestep_fast/sql/worker.py.
    """

def spider_query(sql: str, keep_distinct: bool) -> tuple[str, bool]:
    """
    The query as the test-suite evaluator runs it, and whether that drops the word DISTINCT.
    """

def step_advantage(
    groups: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rewards: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    credit: CreditSettings,
    out: torch.Tensor,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write the advantages [S] to `out`. groups: step_offsets, group_offsets, group_rollouts; rewards: step_reward [S], rollout_outcome [R], step_state [S] int64 or None, step_value [S] or None; credit: the fields of CreditConfig.
    """

def step_policy_loss(
    tokens: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    steps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    groups: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rewards: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    credit: CreditSettings,
    loss: LossSettings,
    count: torch.Tensor | None,
    out: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor],
    clear_between: bool,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    policy_loss of step_advantage, without its way through memory.
    """

@typing.overload
def step_spans(
    mask: numpy.typing.NDArray[numpy.bool],
    num_threads: typing.SupportsInt | typing.SupportsIndex = 1,
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]:
    """
    Return the runs of True of each row as flat half-open spans: (start [S], end [S], offsets [R+1]). `mask` is [R, L], C-contiguous.
    """

@typing.overload
def step_spans(
    mask: numpy.typing.NDArray[numpy.uint8],
    num_threads: typing.SupportsInt | typing.SupportsIndex = 1,
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]:
    """
    Return the runs of True of each row as flat half-open spans: (start [S], end [S], offsets [R+1]). `mask` is [R, L], C-contiguous.
    """

def token_values(
    step_value: torch.Tensor,
    step_start: torch.Tensor,
    step_end: torch.Tensor,
    out: torch.Tensor,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write step_value [S] to the tokens of each step and 0 to all others of `out` [T].
    """

def write_logit_gradients(
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    vocabulary: typing.SupportsInt | typing.SupportsIndex,
    sums: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    logp_slope: torch.Tensor,
    entropy_slope: torch.Tensor | None,
    out: torch.Tensor,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write d loss / d logit of those rows to the same rows of `out`, which may be the logits, from what read_logit_rows found and d loss / d logp, d loss / d entropy [C] float64.
    """
