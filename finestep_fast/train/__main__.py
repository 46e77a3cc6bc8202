"""`python -m finestep_fast.train [CONFIG.yaml] [key=value ...]`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from finestep_fast.errors import FinestepError
from finestep_fast.output import open_output

_DESCRIPTION = """\
Train a Text-to-SQL agent with step-level credit.

  python -m finestep_fast.train                         the quickstart: no data, no model needed
  python -m finestep_fast.train update.updates=20       the same with a setting changed
  python -m finestep_fast.train model=DIR data.questions=train.json data.databases=DIR
  python -m finestep_fast.train resume=runs/quickstart  go on where a run stopped
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m finestep_fast.train",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.yaml | key=value",
        help="settings file (or the name of one that comes with the package: quickstart, agent), "
        "then settings to change; the files say what each key means",
    )
    words: list[str] = parser.parse_args(arguments).words
    files = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if len(files) > 1:
        parser.error(f"one settings file at most; given: {', '.join(files)}")
    try:
        open_output()
        return _train(Path(files[0]) if files else None, overrides)
    except FinestepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train(source: Path | None, overrides: Sequence[str]) -> int:
    # Imported here: --help and a misspelt key should not wait for the frameworks.
    from finestep_fast.train.config import load_config
    from finestep_fast.train.run import TrainingRun
    from finestep_fast.train.stop import Stopped, StopRequest

    config = load_config(source, overrides)
    resumed = any(word.startswith("resume=") for word in overrides)
    with StopRequest() as stop:
        try:
            TrainingRun(config, stop, resumed=resumed).train()
        except Stopped as stopped:
            print(
                f"{stopped}; the state is saved, go on with: "
                f"python -m finestep_fast.train resume={config.output}",
                file=sys.stderr,
            )
            return 128 + stopped.signal_number
    return 0


if __name__ == "__main__":
    sys.exit(main())
