"""Stop cleanly when somebody asks for it: a user at the keyboard, or a cluster's scheduler."""

import os
import signal
from types import FrameType, TracebackType
from typing import Self

STOPPED_STATUS = 75
"""The exit status of a run that was stopped and can go on: EX_TEMPFAIL of sysexits.h, "try again later"."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Within it, SIGINT, SIGTERM and SIGUSR1 are noted instead of ending the process.

    A second SIGINT ends it at once, even in the middle of a computation.

    Attributes:
        received: the name of the first signal; empty as long as there is none.
    """

    def __init__(self) -> None:
        self.received = ""

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        hint = ""
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            hint = "; once more to end at once"
        # A signal may come in the middle of a print, which a second one would disturb.
        os.write(2, f"\n{signal.Signals(number).name}: finishing this step, then saving{hint}\n".encode())
