"""Run a job on many files in several processes: no error is lost, and a stop signal ends it at once."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from util.errors import UserError, user_message
from util.files import DISK_FULL_ERRORS
from util.image_limits import max_image_bytes, set_max_image_gb
from util.remarks import Remark, collecting, show
from util.stopping import SIGNALS

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 0.5
"""Seconds that processes get to remove their temporary files after a stop signal."""


class Outcome(NamedTuple, Generic[R]):
    """What a job returned; or the error that the user is to see, and no value."""

    value: R | None
    error: str
    remarks: list[Remark]


def run_jobs(
    job: Callable[[T], R], items: Sequence[T], processes: int, unit: str = "image"
) -> list[R | None]:
    """Return what ``job(item)`` returns for every item; None where it failed, which is logged.

    A job fails by an error that the user can resolve (`util.errors.user_message`), or because its process
    died. A full disk ends all jobs.

    Args:
        job: a function at the top of a module.
        processes: 1 runs the jobs in this process.
        unit: what an item is, for the progress bar.

    Raises:
        OSError: The disk is full.
        Stopped: A stop signal came.
    """
    results: list[R | None] = [None] * len(items)
    outcomes = _in_turn(job, items) if min(processes, len(items)) <= 1 else _at_once(job, items, processes)
    with tqdm(total=len(items), unit=f" {unit}s", disable=None) as bar, logging_redirect_tqdm():
        for position, outcome in outcomes:
            for remark in outcome.remarks:
                show(remark)
            if outcome.error:
                log.warning("%s", outcome.error)
            results[position] = outcome.value
            bar.update()
    return results


def _in_turn(job: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, Outcome[R]]]:
    for position, item in enumerate(items):
        yield position, _outcome(job, item)


def _at_once(job: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[tuple[int, Outcome[R]]]:
    """Yield the outcomes of jobs in several processes, in the order in which they end."""
    waiting = deque(enumerate(items))
    suspects: deque[tuple[int, T]] = deque()
    while waiting or suspects:
        # A process that dies breaks the pool. Which job killed it shows when each that ran runs alone.
        source, count = (suspects, 1) if suspects else (waiting, min(processes, len(waiting)))
        running: dict[Future[Outcome[R]], tuple[int, T]] = {}
        with _pool(count) as pool:
            try:
                while source or running:
                    while source and len(running) < (2 * count if source is waiting else 1):
                        future = _submit(pool, job, source[0][1])
                        running[future] = source.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        outcome = future.result()
                        yield running.pop(future)[0], outcome
            except BrokenProcessPool:
                if source is waiting:
                    suspects.extend(running.values())
                    continue
                for position, item in running.values():
                    yield (
                        position,
                        Outcome(None, f"{item}: the process that worked on it died; out of memory?", []),
                    )


def _outcome(job: Callable[[T], R], item: T) -> Outcome[R]:
    remarks: list[Remark] = []
    try:
        with collecting(remarks):
            return Outcome(job(item), "", remarks)
    except SystemExit:  # by the handler of `_in_worker`
        os._exit(1)
    except Exception as error:
        message = user_message(error, memory_advice="Lower --num_threads")
        if message is None or getattr(error, "errno", None) in DISK_FULL_ERRORS:
            raise
        return Outcome(None, message, remarks)


def _submit(pool: ProcessPoolExecutor, job: Callable[[T], R], item: T) -> Future[Outcome[R]]:
    try:
        return pool.submit(_outcome, job, item)  # the first starts the processes
    except OSError as error:
        raise UserError(f"--num_threads: processes cannot be started ({error}); lower it") from error


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Within it there are processes for jobs; after an error they are ended at once."""
    others = multiprocessing.active_children()
    # What is imported is there at once in a forked process.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    limit = max_image_bytes() / 1e9
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context(method), _in_worker, (os.getpid(), limit)
    )
    try:
        yield pool
        pool.shutdown()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        _end([child for child in multiprocessing.active_children() if child not in others])


def _end(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


def _in_worker(parent: int, max_image_gb: float) -> None:
    """Leave the stop signals of a terminal to the main process, and end with it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    set_max_image_gb(max_image_gb)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
