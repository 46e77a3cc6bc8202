"""Finds the YAML files of `configs/`, in a checkout and in an installed package.

It gives paths only. Reading them is `config`'s work.
"""

from __future__ import annotations

from pathlib import Path

from finestep_fast.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def _config_folder() -> Path:
    """Return the folder of the shipped configs: inside the package, or beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_path(name: str) -> Path:
    """Return path of the shipped config called `name`.

    Args:
        name: File name without a folder, with or without `.yaml`: `quickstart`.

    Returns:
        The path of an existing file.

    Raises:
        InputError: No config of that name is shipped; the message lists those that are.
    """
    folder = _config_folder()
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    stem = name.removesuffix(".yaml")
    if stem not in known:
        raise InputError(f"config is {name!r}; expected one of the shipped configs {known}")
    return folder / f"{stem}.yaml"
