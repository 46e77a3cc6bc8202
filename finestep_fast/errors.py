"""What is raised for a mistake in input or installation; a failed rollout is a status instead."""

from __future__ import annotations


class FinestepError(Exception):
    """Base of every exception that finestep_fast raises on purpose."""


class InputError(FinestepError, ValueError):
    """A value from outside is wrong; the message names it and says what it must be."""


class BuildError(FinestepError, ImportError):
    """Something asked for is not part of this installation; the message says how to get it."""
