"""Python programs that a test runs in processes of their own, and what they print."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def printed(*words: str | Path, timeout_s: float = 600) -> str:
    """Run Python with these words, the tests importable, and return what it prints."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def errors_of(*words: str, redirection: str) -> str:
    """Run Python with its output redirected by a shell; return its error output, then its status.

    It starts a moment later, so that a reader such as `true` has ended before anything is written.
    """
    program = " ".join([sys.executable, *words])
    done = subprocess.run(
        ["bash", "-c", f"(sleep 0.2; {program}; echo $? >&2) {redirection}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.stderr
