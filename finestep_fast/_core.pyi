"""
The compiled CPU core of finestep_fast. Doors to it: StepBatch and finestep_fast.ops.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing
import torch

__all__: list[str] = [
    "ReadyResult",
    "SqlEngine",
    "SqliteLibrary",
    "all_within",
    "compare_pairs",
    "expanded_ctes",
    "formats_are_literal",
    "own_rows",
    "policy_loss",
    "read_logit_rows",
    "scale_gradient",
    "step_advantage",
    "step_policy_loss",
    "step_spans",
    "test_suite_query",
    "token_values",
    "write_logit_gradients",
]

class ReadyResult:
    """
    One result made ready for comparison. rows: sequences of int, float, str, bytes and None; name: what errors call them; semantics: an index into bird, strict, multiset, ordered, test_suite, soft_f1.
    """
    def __init__(
        self,
        rows: typing.Any,
        name: str,
        semantics: typing.SupportsInt | typing.SupportsIndex,
        ordered: bool,
        float_tolerance: typing.SupportsFloat | typing.SupportsIndex,
        search_budget: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def outcome(self, gold: ReadyResult) -> tuple[int, float]:
        """
        Compare this predicted result with a gold one made with the same settings: (0 different, 1 equal, 2 undecided; score).
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

class SqlEngine:
    """
    Runs queries on SQLite databases. The door to it is finestep_fast.sql.Engine.
    """
    def __init__(
        self,
        library: SqliteLibrary,
        threads: typing.SupportsInt | typing.SupportsIndex,
        max_connections: typing.SupportsInt | typing.SupportsIndex,
        gold_cache_bytes: typing.SupportsInt | typing.SupportsIndex,
        max_heap_bytes: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def close(self) -> None:
        """
        Stop running queries and close every connection.
        """
    def counters(self) -> tuple[int, int, int]:
        """
        Queries run, golds that were remembered, the most queries at the same time.
        """
    def match(
        self,
        pairs: list[tuple[str, str, str]],
        ordered: list[bool] | None,
        comparison: tuple[
            typing.SupportsInt | typing.SupportsIndex,
            bool,
            typing.SupportsFloat | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
        ],
        early_exit: bool,
        utf8_only: bool,
        max_rows: typing.SupportsInt | typing.SupportsIndex,
        max_bytes: typing.SupportsInt | typing.SupportsIndex,
        timeout_s: typing.SupportsFloat | typing.SupportsIndex,
        grace_s: typing.SupportsFloat | typing.SupportsIndex | None = None,
    ) -> tuple[
        list[tuple[bool, int, str, float, int, float] | None], list[int], list[tuple[bool, int]]
    ]:
        """
        Compare [(path, predicted, gold)]: (reports, place of each pair's report, hanging). A report is (gold_failed, status, message, elapsed_ms, verdict, score). comparison: (semantics, ordered of pairs without their own, float_tolerance, budget). With grace_s it returns once a query has outlived its deadline by so much: then hanging lists (is_gold, report), and reports that are missing are None.
        """
    def run(
        self,
        jobs: list[tuple[str, str]],
        max_rows: typing.SupportsInt | typing.SupportsIndex,
        max_bytes: typing.SupportsInt | typing.SupportsIndex,
        timeout_s: typing.SupportsFloat | typing.SupportsIndex,
        grace_s: typing.SupportsFloat | typing.SupportsIndex | None = None,
    ) -> tuple[
        list[
            tuple[
                int,
                tuple[str, ...],
                tuple[tuple[int | float | str | bytes | None, ...], ...],
                bool,
                str,
                float,
                int,
                bool,
            ]
            | None
        ],
        list[int],
    ]:
        """
        Run [(path, sql)]: (results, hanging). A result is (status, columns, rows, truncated, message, elapsed_ms, size_bytes, invalid_utf8), or None where the work was called off. With grace_s it returns once a query has outlived its deadline by so much: then hanging lists their places.
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
    semantics: typing.SupportsInt | typing.SupportsIndex,
    float_tolerance: typing.SupportsFloat | typing.SupportsIndex,
    search_budget: typing.SupportsInt | typing.SupportsIndex,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> list[tuple[int, float]]:
    """
    Compare pairs of a predicted and a gold result, each given as rows; ordered: one word per pair. Like ReadyResult.outcome for each, in their order.
    """

def expanded_ctes(sql: str) -> int:
    """
    How many copies of common table expressions a query expands to.
    """

def formats_are_literal(sql: str) -> bool:
    """
    Whether every call of printf has a literal pattern of bounded width.
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
    loss: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
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

def step_advantage(
    groups: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rewards: tuple[torch.Tensor, torch.Tensor],
    credit: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    out: torch.Tensor,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Write the advantages [S] to `out`. groups: step_offsets, group_offsets, group_rollouts; rewards: step_reward [S], rollout_outcome [R]; credit: the fields of CreditConfig.
    """

def step_policy_loss(
    tokens: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    steps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    groups: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rewards: tuple[torch.Tensor, torch.Tensor],
    credit: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    loss: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
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

def test_suite_query(sql: str, keep_distinct: bool) -> str:
    """
    The query as the test-suite evaluator runs it.
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
