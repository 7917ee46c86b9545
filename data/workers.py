"""Worker processes of a loader: whatever happens to them, the main process gets a batch or an error."""

import errno
import multiprocessing
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from data.url import end_downloads
from util import distributed
from util.errors import UserError
from util.stopping import SIGNALS, interruptible

RANK_PATIENCE = 20.0
"""Seconds that a rank waits for a batch after a stop signal; with the batch all ranks can save together."""

ORPHAN_SECONDS = 1.0
"""Time after which a worker process notices that the main process is gone."""

_END = object()


class Handover:
    """A value on its way from a worker process.

    It is pickled when a batch is made, where an error can be sent in its place. In the thread of the queue,
    which pickles otherwise, an error would be printed, and the main process would wait for ever.
    """

    def __init__(self, payload: bytes):
        self.payload = payload

    def __reduce__(self) -> tuple[Any, ...]:
        return unpack, (self.payload,)


def pack(value: Any) -> Any:
    """Return `value` ready to be sent by a worker process; in the main process return it as it is."""
    if get_worker_info() is None:
        return value
    try:
        return Handover(bytes(ForkingPickler.dumps(value)))
    # Of shared memory, file descriptors, or the socket that passes them.
    except (OSError, RuntimeError) as error:
        return _not_handed_over(error)


def unpack(payload: bytes) -> Any:
    """Return the value of a `Handover`, or a `UserError` if its worker cannot be reached."""
    try:
        return pickle.loads(payload)
    except (OSError, RuntimeError, EOFError) as error:
        return _not_handed_over(error)


def _not_handed_over(error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if getattr(error, "errno", None) == errno.EMFILE or "open files" in reason or "ancdata" in reason:
        remedy = "too many files are open: raise the limit (ulimit -n)"
    else:
        remedy = (
            "batches go through shared memory, /dev/shm, which in containers is small: enlarge it (docker run"
            " --shm-size 8g)"
        )
    return UserError(
        f"A worker process cannot hand over a batch ({reason}); {remedy}, lower --num_threads, or read in the"
        " main process with --num_threads 0"
    )


class Workers:
    """Iterates over a `DataLoader` as often as wanted; stop signals interrupt the waiting.

    After an error or a stop signal the worker processes are ended; a pause of theirs is waited for.

    Args:
        loader: has `in_worker` as its ``worker_init_fn`` and a ``collate_fn`` that returns `pack` of a batch.
    """

    def __init__(self, loader: DataLoader[Any]):
        self.loader = loader
        self.processes: list[BaseProcess] = []
        self.patience = RANK_PATIENCE if distributed.world_size() > 1 else 0.0
        # A stopped process (SIGSTOP) would be waited for for ever at exit.
        weakref.finalize(self, _end, self.processes, os.getpid())

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches.

        Raises:
            UserError: A worker process has died, or cannot hand over a batch.
            Stopped: A stop signal came while waiting.
        """
        try:
            items = self._start()
            while (item := self._next(items)) is not _END:
                if isinstance(item, UserError):
                    raise self._death() or item
                yield item
        except GeneratorExit:
            raise
        except BaseException:
            _end(self.processes, os.getpid())
            raise

    def _start(self) -> Iterator[Any]:
        """Begin an iteration; start the worker processes if there are none."""
        if self.processes:
            with interruptible(self.patience):
                return self._checked(iter, self.loader)
        others = multiprocessing.active_children()
        on_child = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
        # Until a worker ignores them, it must not get signals that are sent to all processes.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return self._checked(iter, self.loader)
        except OSError as error:
            raise UserError(
                f"--num_threads {self.loader.num_workers}: worker processes cannot be started ({error});"
                " lower it, or read in the main process with --num_threads 0"
            ) from error
        finally:
            self.processes += [child for child in multiprocessing.active_children() if child not in others]
            # The loader's handler would raise the death of a worker at any place, such as in a save.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, on_child)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _next(self, items: Iterator[Any]) -> Any:
        with interruptible(self.patience):
            return self._checked(next, items, _END)

    def _checked(self, call: Any, *arguments: Any) -> Any:
        """Return ``call(*arguments)``; raise a `UserError` if a worker process has died."""
        try:
            return call(*arguments)
        except RuntimeError as error:
            if "DataLoader worker (pid" in str(error) or "Pin memory thread exited" in str(error):
                raise self._death() or UserError(
                    f"A thread or process that reads images died ({error})"
                ) from error
            raise

    def _death(self) -> UserError | None:
        """Return the error of a worker process that has died; None if all are alive."""
        for process in self.processes:
            status = process.exitcode
            if status is None or status == 0:
                continue
            reason = signal.Signals(-status).name if status < 0 else f"status {status}"
            if status == -signal.SIGBUS:
                remedy = "If shared memory ran out, enlarge /dev/shm (docker run --shm-size 8g)"
            else:
                remedy = "If memory ran out, lower --num_threads"
            return UserError(
                f"A worker process that reads images died ({reason}). {remedy}; --num_threads 0 reads in the"
                " main process"
            )
        return None


def _end(processes: list[BaseProcess], owner: int) -> None:
    """End processes: ask them to, and kill those that do not react, such as stopped ones."""
    if os.getpid() != owner:
        return
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    deadline = time.monotonic() + 0.5
    for process in alive:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


def in_worker(worker: int) -> None:
    """Keep a worker process running until its parent ends it or is gone, whatever signals it gets."""
    # Terminals and schedulers signal all processes at once; a worker that ended would take the run down.
    parent = os.getppid()
    others = set(SIGNALS) - {signal.SIGTERM}
    for number in others:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, others)


def _end_with_parent(parent: int) -> None:
    # SIGTERM cannot just be ignored: the parent ends a worker by it.
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, ORPHAN_SECONDS)
        if received is not None and received.si_pid == parent:
            break
    end_downloads()
    os._exit(0)
