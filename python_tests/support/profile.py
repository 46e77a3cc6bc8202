"""How much the tests try: `--hypothesis-profile=dev` adds what the everyday run leaves out."""

from __future__ import annotations

from hypothesis import settings

THOROUGH = settings().max_examples > 50
"""Whether the profile asks for more than the everyday suite."""
