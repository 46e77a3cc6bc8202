"""Which part may import which foreign package; import-linter checks the layers themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.programs import printed

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "finestep_fast"
CSRC = ROOT / "csrc"

# module -> the parts of finestep_fast that may import it
KNOWN_BY = {
    "accelerate": {"train", "eval", "adapters"},
    "finestep_fast._core": {"ops", "positions", "sql"},
    "matplotlib": {"train", "eval"},
    "pydantic": {"config"},
    "rich": {"output", "train", "eval"},
    "sqlglot": {"sql"},
    "transformers": {"train", "eval", "adapters"},
    "triton": {"kernels"},
    "yaml": {"config"},
}

# folder of csrc -> the other folders that it may include; `python` alone includes Python's headers
MAY_INCLUDE: dict[str, set[str]] = {
    "compare": set(),
    "credit": {"numbers", "threads"},
    "loss": {"credit", "numbers", "threads"},
    "numbers": set(),
    "python": {"compare", "credit", "loss", "numbers", "sql", "threads", "workers"},
    "sql": {"compare", "threads"},
    "threads": set(),
    "workers": {"compare", "sql"},
}


def _imported_modules(source: str) -> Iterator[str]:
    """Return the dotted names of every import of a file, also those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_module(name: str) -> bool:
    """Return whether `finestep_fast.x` or `finestep_fast.x.y` lies in a module, not the package."""
    part = name.partition(".")[2].partition(".")[0]
    folder, file = PACKAGE / part, PACKAGE / f"{part}.py"
    return part == "_core" or (part != "" and (folder.is_dir() or file.is_file()))


def _part(path: Path) -> str:
    """Return the part: `finestep_fast/sql/engine.py` -> `sql`; `finestep_fast/ops.py` -> `ops`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_import_inside_a_function_is_found() -> None:
    source = "def f():\n    import triton.language as tl\n    from finestep_fast import _core\n"
    assert list(_imported_modules(source)) == ["triton.language", "finestep_fast._core"]


@pytest.mark.parametrize("module", sorted(KNOWN_BY))
def test_a_foreign_package_is_known_to_its_layer_only(module: str) -> None:
    strangers = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        for name in _imported_modules(path.read_text(encoding="utf-8"))
        if f"{name}.".startswith(f"{module}.") and _part(path) not in KNOWN_BY[module]
    }
    assert not strangers, f"only {sorted(KNOWN_BY[module])} may import {module}"


def test_only_programs_and_adapters_import_the_package_itself() -> None:
    """Everything below imports what `finestep_fast/__init__.py` offers from where it is made."""
    users = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if _part(path) not in {"__init__", "train", "eval", "adapters"}
        for name in _imported_modules(path.read_text(encoding="utf-8"))
        if name.startswith("finestep_fast") and not _is_module(name)
    }
    assert not users


def test_every_folder_with_modules_is_a_package() -> None:
    """import-linter does not see a module in a folder without `__init__.py`."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_importing_the_library_imports_torch_and_nothing_else_heavy() -> None:
    heavy = ["accelerate", "matplotlib", "pydantic", "sqlglot", "transformers", "triton", "yaml"]
    code = f"import sys, finestep_fast; print([m for m in {heavy!r} if m in sys.modules])"
    assert printed("-c", code, timeout_s=120) == "[]\n"


def _includes(folder: Path) -> dict[str, list[str]]:
    """Return, by path below the folder, what each source includes, with its quotes or angles."""
    include = re.compile(r'^\s*#\s*include\s+("[^"]+"|<[^>]+>)', re.MULTILINE)
    return {
        str(path.relative_to(folder)): include.findall(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".h", ".cpp"}
    }


def _cycle(includes: dict[str, list[str]]) -> list[str]:
    """Return some headers that include one another in a circle; empty if there are none."""
    done: set[str] = set()

    def found(path: str, trail: list[str]) -> list[str]:
        if path in trail:
            return [*trail[trail.index(path) :], path]
        if path in done:
            return []
        cycles = (found(name.strip('"'), [*trail, path]) for name in includes.get(path, ()))
        circle = next(filter(None, cycles), [])
        done.add(path)
        return circle

    return next(filter(None, (found(path, []) for path in includes)), [])


def test_a_circle_of_includes_is_found() -> None:
    includes = {"a.h": ['"b.h"', "<span>"], "b.h": ['"c.h"'], "c.h": ['"b.h"'], "d.cpp": ['"a.h"']}
    assert _cycle(includes) == ["b.h", "c.h", "b.h"]
    assert not _cycle({"a.h": ['"b.h"', '"c.h"'], "b.h": ['"c.h"'], "c.h": []})


def test_includes_are_written_from_csrc_and_never_in_a_circle() -> None:
    includes = _includes(CSRC)
    assert {path.partition("/")[0] for path in includes} == {*MAY_INCLUDE, "fuzz"}
    lost = {
        f"{path}: {name}"
        for path, names in includes.items()
        for name in names
        if name.startswith('"') and name.strip('"') not in includes
    }
    assert not lost
    assert not _cycle(includes)


def test_folders_of_the_core_include_only_what_they_may() -> None:
    strangers = {
        f"{path}: {name}"
        for path, names in _includes(CSRC).items()
        for folder, allowed in MAY_INCLUDE.items()
        if path.startswith(f"{folder}/")
        for name in names
        if name.startswith('"') and name.strip('"').partition("/")[0] not in {folder, *allowed}
    }
    assert not strangers


def test_only_the_bindings_include_python() -> None:
    knows = {
        path
        for path, names in _includes(CSRC).items()
        if any("Python.h" in name or "pybind11" in name for name in names)
    }
    assert knows
    assert all(path.startswith("python/") for path in knows)
