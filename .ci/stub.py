#!/usr/bin/env python3
"""Write the stub of the compiled module to FOLDER/finestep_fast/_core.pyi: `.ci/stub.py FOLDER`.

Run with the Python of an environment that has the extra `test`. pybind11-stubgen (3.0.0) declares
the members of an enumeration as class variables, which no type checker takes for members, and
adds a `__new__`; here they get their values instead.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import finestep_fast._core as core

MEMBER = re.compile(r"^    (\w+): typing\.ClassVar\[(\w+)\]$", re.MULTILINE)
NEW = re.compile(r"^    @classmethod\n    def __new__\(cls, value\):\s+\.\.\.\n", re.MULTILINE)

folder = Path(sys.argv[1])
settings = Path(__file__).resolve().parents[1] / "pyproject.toml"
ruff = [sys.executable, "-m", "ruff"]
quiet = ["--quiet", "--no-cache", "--config", str(settings)]

subprocess.run(
    [sys.executable, "-m", "pybind11_stubgen", "finestep_fast._core", "-o", str(folder)], check=True
)
stub = folder / "finestep_fast" / "_core.pyi"
text = NEW.sub("", stub.read_text(encoding="utf-8"))
text = MEMBER.sub(lambda m: f"    {m[1]} = {getattr(core, m[2])[m[1]].value}", text)
stub.write_text(text, encoding="utf-8")
subprocess.run([*ruff, "check", "--fix-only", *quiet, str(stub)], check=True)
subprocess.run([*ruff, "format", *quiet, str(stub)], check=True)
