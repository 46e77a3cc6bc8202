#!/usr/bin/env bash
# The stub that pybind11-stubgen writes for a py::native_enum is no enum with members to a type checker.
#
# Guess: a native enum is an enum.Enum, so its stub reads `fast = 0` and a checker knows Mode.fast.
# Seen with pybind11 3.1.0, pybind11-stubgen 3.0.0 and mypy 2.4.1: the class does derive from enum.Enum, but every
# member is written as `fast: typing.ClassVar[Mode]`, which the typing rules say is an attribute, not a member. mypy
# takes it for an enum without members: it reports the stub itself, and a match over all members counts as incomplete.
# At run time all is well.
# Who meets it: extensions that moved from py::enum_ to py::native_enum and ship generated stubs. Rewrite those
# lines to `fast = 0` after generating them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
bin=$folder/venv/bin
"$bin/pip" install -q pybind11==3.1.0 pybind11-stubgen==3.0.0 mypy==2.4.1
cd "$folder"
cat >modes.cpp <<'CPP'
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>

enum class Mode { fast, exact };

PYBIND11_MODULE(modes, m) {
  pybind11::native_enum<Mode>(m, "Mode", "enum.Enum")
      .value("fast", Mode::fast)
      .value("exact", Mode::exact)
      .finalize();
}
CPP
g++ -std=c++17 -O0 -shared -fPIC $("$bin/python" -m pybind11 --includes) modes.cpp \
  -o "modes$("$bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')"
"$bin/python" -c 'import modes; print([(m.name, m.value) for m in modes.Mode])'
"$bin/python" -m pybind11_stubgen modes -o .
grep -nE "class Mode|fast|exact" modes.pyi | tee stub
cat >use.py <<'PYTHON'
import modes


def cost(mode: modes.Mode) -> int:
    match mode:
        case modes.Mode.fast:
            return 1
        case modes.Mode.exact:
            return 2


reveal_type(modes.Mode.fast)
PYTHON
"$bin/mypy" --strict use.py | tee seen || true
test "$(grep -cE "(fast|exact): typing.ClassVar\[Mode\]" modes.pyi)" -eq 2
grep -q "zero members" seen
grep -q "use.py:4: error: Missing return statement" seen
sed -i -E 's/^( +)(fast|exact): typing.ClassVar.*/\1\2 = 0/; s/^( +)exact = 0/\1exact = 1/' modes.pyi
"$bin/mypy" use.py | tee mended
grep -q "no issues found" mended
echo "as described; with members written as values the match is exhaustive"
