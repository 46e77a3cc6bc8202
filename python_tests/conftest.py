"""What every test shares: the environment of the process, hypothesis profiles and the shared data.

The environment is set before torch, triton or transformers are imported, so it stands at the top.
"""

from __future__ import annotations

import os

# One thread: with two, another busy process makes small torch operations many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests make their own models; nothing is looked up elsewhere.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

# Importing torch alone does not import triton, which reads this when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from finestep_fast.sql import Engine
    from support.evaluation import Evaluation
    from support.quickstart_world import World
    from support.tiny import Tiny

ROOT = Path(__file__).resolve().parents[1]

# "ci" is the default: the same examples on every run. "dev" tries new ones:
# `pytest --hypothesis-profile=dev`. "thorough" is for a single file.
settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("dev", max_examples=300, deadline=None, print_blob=True)
settings.register_profile("thorough", max_examples=20_000, deadline=None, database=None)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return questions and databases beside the checkout, which are no part of the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a small database of customers and orders, which a test may change."""
    from support.databases import written

    return written(tmp_path / "shop.sqlite")


@pytest.fixture(params=["process", "thread"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Yield an engine of two workers, processes or threads."""
    from finestep_fast.sql import Engine

    with Engine(workers=2, isolation=request.param) as engine:
        yield engine


@pytest.fixture
def own(tiny: Tiny, tmp_path: Path) -> Path:
    """Return a folder with a user's own questions and databases, which a test may change."""
    from support.own_data import write_own_data

    write_own_data(tmp_path / "own", tiny)
    return tmp_path / "own"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """Return a small real agent and its world, made once."""
    from finestep_fast.sql import Engine
    from support.tiny import make_tiny

    with Engine(timeout_s=5.0) as engine:
        yield make_tiny(tmp_path_factory.mktemp("tiny"), engine)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a small quickstart world, made once; nothing may write to it."""
    from support.quickstart_world import written_world

    with written_world(tmp_path_factory.mktemp("quickstart") / "world") as written:
        yield written


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    """Return the files of a small evaluation, which a test may change."""
    from support.evaluation import made_evaluation

    return made_evaluation(tmp_path)
