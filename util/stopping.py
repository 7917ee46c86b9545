"""Stop cleanly on signals from the keyboard or a cluster's scheduler."""

import os
import signal
from types import FrameType, TracebackType
from typing import Self

STOPPED_STATUS = 75
"""Exit status of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Context in which SIGINT, SIGTERM and SIGUSR1 are recorded instead of ending the process.

    A second SIGINT ends the process immediately.

    Attributes:
        received: name of the first signal received; empty before.
    """

    def __init__(self) -> None:
        self.received = ""

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        hint = ""
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            hint = "; once more to end at once"
        # The handler may interrupt a print, and buffered writes are not reentrant.
        os.write(2, f"\n{signal.Signals(number).name}: finishing this step, then saving{hint}\n".encode())
