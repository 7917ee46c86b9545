"""Signals that stop commands."""

import os
import signal

import pytest

from util.errors import run_command
from util.stopping import SIGNALS, StopSignals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_recorded_or_ends_a_command(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        os.kill(os.getpid(), number)
        assert stop.received == number.name
    assert capfd.readouterr().err.startswith(f"\n{number.name}: finishing this step, then saving")

    def main(_: list[str]) -> int:
        os.kill(os.getpid(), number)
        return 0

    assert run_command(main) == 128 + number
    assert capfd.readouterr().err == f"stopped by {number.name}\n"
    assert signal.getsignal(number) is before


def test_sighup_is_left_alone_if_it_was_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.received
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.received == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_recorded_although_nobody_reads_the_remark() -> None:
    reader, writer = os.pipe()
    stderr = os.dup(2)
    os.close(reader)
    os.dup2(writer, 2)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.received == "SIGTERM"
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(writer)


def test_a_forked_process_records_nothing() -> None:
    with StopSignals() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(bool(stop.received))
        assert os.waitpid(child, 0)[1] == 0
