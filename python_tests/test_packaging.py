"""What is shipped: version, stub, configs, pins, README's commands and example."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import finestep_fast
from finestep_fast.config import read_yaml
from finestep_fast.config_files import config_path
from finestep_fast.errors import InputError


@pytest.fixture(scope="module")
def pyproject(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def _run(*command: str | Path, cwd: Path) -> str:
    """Return what a command prints; its error output is part of the failure."""
    done = subprocess.run(
        command, cwd=cwd, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of one language in a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def _requirements(pyproject: dict[str, Any]) -> Iterator[Requirement]:
    """Yield every requirement of the project, its extras and its build, except the project."""
    project = pyproject["project"]
    groups = [
        project["dependencies"],
        pyproject["build-system"]["requires"],
        *project["optional-dependencies"].values(),
    ]
    for line in (line for group in groups for line in group):
        requirement = Requirement(line)
        if requirement.name != project["name"]:
            yield requirement


def test_the_installed_version_is_the_one_of_pyproject(pyproject: dict[str, Any]) -> None:
    assert version("finestep_fast") == pyproject["project"]["version"]


def test_the_package_says_that_it_is_typed() -> None:
    assert finestep_fast.__file__ is not None
    assert Path(finestep_fast.__file__).with_name("py.typed").is_file()


def test_the_stub_is_the_one_generated_from_the_compiled_module(root: Path, tmp_path: Path) -> None:
    _run(sys.executable, root / ".ci" / "stub.py", tmp_path, cwd=tmp_path)
    expected = (tmp_path / "finestep_fast" / "_core.pyi").read_text(encoding="utf-8")
    assert (root / "finestep_fast" / "_core.pyi").read_text(encoding="utf-8") == expected


def test_every_requirement_is_bounded_on_both_sides(pyproject: dict[str, Any]) -> None:
    for requirement in _requirements(pyproject):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, requirement


def test_every_requirement_has_a_tested_version_within_its_bounds(
    root: Path, pyproject: dict[str, Any]
) -> None:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in (Requirement(line) for line in lines if line and not line.startswith("#"))
    }
    required = {canonicalize_name(r.name): r.specifier for r in _requirements(pyproject)}
    assert set(pins) == set(required)
    assert not [name for name, pin in pins.items() if pin not in required[name]]


def test_building_does_not_need_torch(pyproject: dict[str, Any]) -> None:
    names = {Requirement(line).name for line in pyproject["build-system"]["requires"]}
    assert names == {"scikit-build-core", "pybind11"}


def test_every_config_of_the_checkout_is_shipped_and_readable(root: Path) -> None:
    names = sorted(path.stem for path in (root / "configs").glob("*.yaml"))
    assert "quickstart" in names
    for name in names:
        path = config_path(name)
        assert path.read_bytes() == (root / "configs" / f"{name}.yaml").read_bytes()
        assert read_yaml(path)


def test_an_unknown_config_is_refused_and_the_shipped_ones_are_named() -> None:
    with pytest.raises(InputError, match=r"config is 'quikstart'; .*'quickstart'"):
        config_path("quikstart")


def test_the_first_screen_of_the_readme_holds_two_commands_of_one_line(readme: str) -> None:
    first_screen = "\n".join(readme.splitlines()[:24])
    train, tests = (block.strip() for block in _blocks(first_screen, "bash"))
    set_up = r"python3 -m venv \.venv && \.venv/bin/pip install -c constraints\.txt -e '\.\[%s\]'"
    assert re.fullmatch(set_up % "train" + r" && \.venv/bin/python -m finestep_fast\.train", train)
    assert re.fullmatch(set_up % "train,test" + r" && \.venv/bin/pytest", tests)


def test_the_example_of_the_readme_prints_what_the_readme_says(readme: str, tmp_path: Path) -> None:
    (example,) = _blocks(readme, "python")
    (printed,) = _blocks(readme, "text")
    assert _run(sys.executable, "-W", "error", "-c", example, cwd=tmp_path) == printed


def test_every_file_the_documents_link_to_exists(root: Path) -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (root / document).read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
        assert not [link for link in links if not (root / link).exists()], document


def test_no_tracked_file_names_a_path_or_an_index_of_some_machine(root: Path) -> None:
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    forbidden = re.compile(r"/(?:home|root|Users|work)/\w|/tmp/\w|pypi\.org|pythonhosted\.org")
    found = []
    for name in _run("git", "ls-files", "-z", cwd=root).split("\0"):
        path = root / name
        if not path.is_file() or b"\0" in (content := path.read_bytes()):
            continue
        lines = enumerate(content.decode("utf-8").splitlines(), start=1)
        found += [f"{name}:{number}" for number, line in lines if forbidden.search(line)]
    assert not found


def test_the_ci_script_can_be_executed(root: Path) -> None:
    assert os.access(root / ".ci" / "run", os.X_OK)
