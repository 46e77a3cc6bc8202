"""Ctrl-C, SIGTERM, SIGHUP and lost standard output as a request to stop at a safe point."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Self

import torch
from accelerate import Accelerator

from finestep_fast.errors import FinestepError


class Stopped(FinestepError):
    """The run was asked to stop; `signal_number` says by what."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class NothingCounts(FinestepError):
    """The rollouts fail for reasons outside the policy; the state of the run is saved."""


class DivergedError(FinestepError):
    """Training has come to numbers that are not finite; what is kept was written before."""


class StopRequest:
    """Catches SIGINT, SIGTERM and SIGHUP while it is entered; a second one acts at once, as ever.

    Where SIGHUP is ignored, as under nohup, it stays so.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        """Install the handlers."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the former handlers back."""
        self._restore()

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            Stopped: A signal has come.
        """
        if self.signal_number is not None:
            raise Stopped(self.signal_number)

    def stop_for_lost_output(self, reason: str) -> None:
        """Ask to stop as SIGPIPE would; for standard output that cannot be written any more."""
        print(reason, file=sys.stderr)
        self.signal_number = signal.SIGPIPE

    def check_output(self) -> None:
        """Stop here if standard output was lost.

        Raises:
            Stopped: It was.
        """
        if self.signal_number == signal.SIGPIPE:
            raise Stopped(self.signal_number)

    def check_together(self, accelerator: Accelerator) -> None:
        """Stop here if any process was asked to; all processes must call this.

        Raises:
            Stopped: A signal has come to one of them.
        """
        if accelerator.num_processes > 1:
            mine = torch.tensor(float(self.signal_number or 0), device=accelerator.device)
            number = int(accelerator.gather(mine[None]).max())
            self.signal_number = number or None
        self.check()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
