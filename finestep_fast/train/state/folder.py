"""The folder of a run: one living process holds it, and a new run needs one without a run."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from finestep_fast.config import as_mapping, write_yaml
from finestep_fast.errors import InputError, shown
from finestep_fast.train.agree import from_main
from finestep_fast.train.config import CONFIG_FILE, TrainConfig
from finestep_fast.train.state.checksums import CHECKSUMS, file_sha256, partial, remove, seal, sync
from finestep_fast.train.state.logs import LOGS

logger = logging.getLogger(__name__)

_LOCK = ".lock"
_held: set[int] = set()  # descriptors of the locks of this process
_GENERATED = ("world", "tokenizer")  # folders that a run makes before its settings are written


def _let_go_in_child() -> None:
    """A process that was forked shares its parent's lock, which would outlive the parent."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def held(folder: Path, accelerator: Accelerator, *, resumed: bool) -> Iterator[None]:
    """Keep the folder of a run from every other run; the death of this process frees it.

    What a run that never began has left is removed. All processes must enter this.

    Args:
        folder: Of the run; made if it is not there.
        accelerator: Of the run; its main process holds the folder.
        resumed: Whether the run in it goes on; if not, there must be none.

    Raises:
        InputError: Another process holds the folder, or it is not free for a new run.
    """
    descriptor = -1

    def take() -> None:
        nonlocal descriptor
        descriptor = _locked(folder)
        _held.add(descriptor)
        if not resumed:
            _check_free(folder)
            _clear(folder)

    try:
        from_main(accelerator, take)
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def write_config(config: TrainConfig) -> None:
    """Write a run's settings into its folder, sealed, whole or not at all."""
    path = config.output / CONFIG_FILE
    write_yaml(partial(path), as_mapping(config))
    seal(partial(path))
    sync(partial(path))
    partial(path).replace(path)


def generated_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the list of checksums of what was made for a run, by name."""
    lists = {name: folder / name / CHECKSUMS for name in _GENERATED}
    return {name: file_sha256(path) for name, path in lists.items() if path.exists()}


def _locked(folder: Path) -> int:
    """Return the descriptor of a lock that lasts until it is closed or this process is gone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(
            f"output is {shown(str(folder))}; it must be a folder, there or to be made: "
            f"{error.strerror}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        raise InputError(
            f"output is {str(folder)!r}; {holder or 'another process'} is running there: "
            "stop it or wait for its end, or choose another output"
        ) from None
    except OSError as error:  # a file system without locks
        logger.warning(
            "%s cannot be locked (%s): start no second run there while this one lives",
            folder,
            error,
        )
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return descriptor


def _check_free(folder: Path) -> None:
    if (folder / CONFIG_FILE).exists():
        raise InputError(
            f"output is {str(folder)!r}; a run is there already: go on with it by "
            f"resume={folder}, or choose another output"
        )
    for name in ("checkpoints", *(f"{log}.jsonl" for log in LOGS)):
        if (folder / name).exists():
            raise InputError(
                f"output is {str(folder)!r}; {name} is there, but no {CONFIG_FILE} of a run that "
                "could go on: choose another output"
            )
    for name in _GENERATED:
        if (folder / name).exists() and not (folder / name / CHECKSUMS).exists():
            raise InputError(
                f"output is {str(folder)!r}; {folder / name} is there and was not made by a run: "
                "choose another output"
            )


def _clear(folder: Path) -> None:
    """Remove what a run that never began has left: its settings may have been others."""
    for name in _GENERATED:
        if (folder / name).exists():
            remove(folder / name)
        for left in folder.glob(f".*partial-{name}*"):
            shutil.rmtree(left)
