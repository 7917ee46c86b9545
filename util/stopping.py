"""Stop cleanly on signals from the keyboard, a closing terminal or a cluster's scheduler."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Self

STOPPED_STATUS = 75
"""Exit status of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h."""

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
    signal.SIGHUP,
)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop this process: not SIGHUP where it is ignored, as under nohup."""
    return [
        number
        for number in SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    ]


class Stopped(KeyboardInterrupt):
    """A stop signal ends a wait or a command; the message is the signal's name."""

    @property
    def status(self) -> int:
        """The exit status that a shell reports for a process ended by this signal."""
        return 128 + signal.Signals[str(self)]


class _Wait:
    """A block that stop signals interrupt, see `interruptible`."""

    def __init__(self, patience: float):
        self.patience = patience
        self.deadline = 0.0
        self.timer: threading.Timer | None = None

    def is_over(self) -> bool:
        """Return whether to interrupt the block; if not yet, a further signal will ask again."""
        if not self.patience:
            return True
        if self.timer is None:
            self.deadline = time.monotonic() + self.patience
            self.timer = threading.Timer(self.patience, os.kill, (os.getpid(), signal.SIGTERM))
            self.timer.daemon = True
            self.timer.start()
        return time.monotonic() >= self.deadline


class StopSignals:
    """Context in which stop signals are recorded instead of ending the process.

    In `interruptible` blocks they raise `Stopped`. A second SIGINT ends the process immediately.

    Args:
        at_once: raise `Stopped` everywhere.

    Attributes:
        received: name of the first signal received; empty before.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.received = ""
        self.wait = _Wait(0) if at_once else None
        self._shown: set[int] = set()

    def __enter__(self) -> Self:
        global _active
        self._pid = os.getpid()
        self._outer, _active = _active, self
        self._before = {number: signal.signal(number, self._record) for number in stop_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        _active = self._outer
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Stopped` if a signal was received and the present block is to be interrupted."""
        if self.received and self.wait is not None and self.wait.is_over():
            raise Stopped(self.received)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked process
            return
        self.received = self.received or signal.Signals(number).name
        hint = ""
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            hint = "; once more to end at once"
        self.check()
        if number not in self._shown:  # SIGXCPU comes every second
            self._shown.add(number)
            # The handler may interrupt a print, and buffered writes are not reentrant.
            text = f"\n{signal.Signals(number).name}: finishing this step, then saving{hint}\n"
            with suppress(OSError):  # a terminal or a reader that has ended, as with SIGHUP
                os.write(2, text.encode())


_active: StopSignals | None = None


@contextmanager
def interruptible(patience: float = 0.0) -> Iterator[None]:
    """Within it, stop signals that a `StopSignals` context receives raise `Stopped`.

    Args:
        patience: seconds after a signal before it is raised: the block may end by itself until then.

    Raises:
        Stopped: A signal was received, now or before.
    """
    stop = _active
    if stop is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    outer = stop.wait
    wait = _Wait(patience if outer is None else min(patience, outer.patience))
    try:
        stop.wait = wait
        stop.check()
        yield
    finally:
        stop.wait = outer
        if wait.timer is not None:
            wait.timer.cancel()
