"""The child process of a `SubprocessEngine`: runs what it is asked to, until a query hangs.

A program that imports nothing of the package except its compiled module, so that it starts fast:
`python subprocess_worker.py COMPILED_MODULE`. A message is a marshalled value after its length;
members of enumerations cross by name.
"""

from __future__ import annotations

import importlib.util
import marshal
import struct
import sys
from typing import IO, Any


def send(pipe: IO[bytes], message: Any) -> None:
    """Write one message."""
    data = marshal.dumps(message)
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()


def received(pipe: IO[bytes]) -> Any:
    """Read one message.

    Raises:
        EOFError: There are no more.
    """
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError("the other side is gone")
    (size,) = struct.unpack("<Q", head)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("the other side is gone")
    return marshal.loads(data)


def main() -> None:
    """Answer messages until there are no more."""
    spec = importlib.util.spec_from_file_location("_core", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)

    def run(jobs: Any, limits: Any) -> Any:
        reports, hanging = engine.run(jobs, **limits, grace_s=grace_s)
        return [report and (report[0].name, *report[1:]) for report in reports], hanging

    def match(pairs: Any, ordered: Any, comparison: Any, settings: Any) -> Any:
        comparison["semantics"] = core.Semantics[comparison["semantics"]]
        how = core.ComparisonSettings(**comparison)
        reports, unit_of_pair, hanging = engine.match(
            pairs, ordered, how, **settings, grace_s=grace_s
        )
        spelled = [
            report and (report[0], report[1].name, *report[2:4], report[4].name, report[5])
            for report in reports
        ]
        return spelled, unit_of_pair, hanging

    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    library, settings, grace_s = received(requests)
    engine = core.SqlEngine(core.SqliteLibrary(library), **settings)
    answer_to = {"run": run, "match": match, "counters": engine.counters}
    while True:
        try:
            what, arguments = received(requests)
        except EOFError:
            break
        send(answers, answer_to[what](*arguments))


if __name__ == "__main__":
    main()
