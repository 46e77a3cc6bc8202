"""The process behind the fence: runs what it is asked to, until one query hangs.

A program that knows nothing of the package but its compiled module, so that it starts at once:
`python fence_worker.py COMPILED_MODULE`. Messages are marshalled values behind their length.
"""

from __future__ import annotations

import importlib.util
import marshal
import struct
import sys
from typing import IO, Any


def send(pipe: IO[bytes], message: Any) -> None:
    """Writes one message."""
    data = marshal.dumps(message)
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()


def received(pipe: IO[bytes]) -> Any:
    """Reads one message.

    Raises:
        EOFError: There is none any more.
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
    """Answers messages until there are no more."""
    spec = importlib.util.spec_from_file_location("_core", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    library, settings, grace_s = received(requests)
    engine = core.SqlEngine(core.SqliteLibrary(library), *settings)
    while True:
        try:
            what, arguments = received(requests)
        except EOFError:
            break
        if what == "counters":
            send(answers, engine.counters())
        else:
            send(answers, getattr(engine, what)(*arguments, grace_s))


if __name__ == "__main__":
    main()
