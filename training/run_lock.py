"""One run at a time in a folder, on one machine or on many that share a file system."""

import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from util.errors import UserError

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10
SILENCE_SECONDS = 60
"""Another machine's lock without a heartbeat for as long belongs to nobody."""


class RunLock:
    """Holds ``run.lock`` in a run's folder, with the process, the host, and the scheduler's job.

    The time of the file's last change is the heartbeat, by the file system's own clock. The lock of a dead
    process of this host is taken over at once, and so is that of this Slurm job's earlier start; another
    host's after `SILENCE_SECONDS` without a heartbeat.

    Raises:
        UserError: on entering: another run holds it.
    """

    def __init__(self, folder: Path):
        self.path = folder / "run.lock"
        self.lost = False
        self._mine = {
            "token": secrets.token_hex(8),
            "pid": os.getpid(),
            "process": _process_identity(os.getpid()),
            "host": socket.gethostname(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
        }
        self._needed = os.environ.get("RANK", "0") == "0"  # under torchrun the first process locks for all
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        if not self._needed:
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            self._remove_if_abandoned()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._needed:
            self._thread.join()
            if self._is_mine():
                self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise a `UserError` if another run has taken the lock over, as it may after a long standstill."""
        if self.lost:
            raise UserError(
                f"{self.path}: this run stood still for more than {SILENCE_SECONDS} s, and another one has"
                " gone on in its place: it ends here without saving"
            )

    def _create(self) -> bool:
        """Make the lock, unless there is one; it has its content from the first moment on."""
        content = self._own_name()
        content.write_text(json.dumps(self._mine))
        try:
            os.link(content, self.path)
        except FileExistsError:
            return False
        finally:
            content.unlink()
        return True

    def _remove_if_abandoned(self) -> None:
        """Remove the lock that is there if its run is over; wait for a sign of life where that must show.

        Raises:
            UserError: its run goes on.
        """
        try:
            held, beat = self.path.read_bytes(), self.path.stat().st_mtime
        except FileNotFoundError:
            return
        owner = _parsed(held)
        if owner.get("host") == self._mine["host"]:
            alive = _is_alive(owner)
        elif owner.get("job") and owner["job"] == self._mine["job"]:
            alive = False
        else:
            alive = self._shows_life(owner, beat)
        if alive:
            raise UserError(
                f"{self.path.parent}: {_name(owner)} is training in this folder; wait for its end, or choose"
                f" another --name. If it is surely gone, remove {self.path}"
            )
        self._remove(held, owner)

    def _shows_life(self, owner: dict[str, Any], beat: float) -> bool:
        """Return whether the lock gets a heartbeat, as soon as it does or has not had one for long enough."""
        left = SILENCE_SECONDS - (self._clock() - beat)
        if left > 0:
            log.info("%s: waiting up to %.0f s for a sign of life of %s", self.path, left, _name(owner))
        ends = time.monotonic() + left
        while time.monotonic() < ends and self.path.exists():
            if self.path.stat().st_mtime != beat:
                return True
            time.sleep(min(1.0, max(0.0, ends - time.monotonic())))
        return False

    def _clock(self) -> float:
        """Return the time of the file system, which hosts share although their clocks may differ."""
        probe = self._own_name()
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now

    def _remove(self, held: bytes, owner: dict[str, Any]) -> None:
        """Remove the lock if it still is the one that was `held`, and not one that has just replaced it."""
        taken = self._own_name()
        try:
            self.path.rename(taken)
        except FileNotFoundError:
            return
        if taken.read_bytes() != held:
            os.link(taken, self.path)
        else:
            log.info("%s: taken over from %s, which is gone", self.path, _name(owner))
        taken.unlink()

    def _own_name(self) -> Path:
        return self.path.with_name(f"run.lock.{self._mine['token']}")

    def _is_mine(self) -> bool:
        try:
            return _parsed(self.path.read_bytes()).get("token") == self._mine["token"]
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                if not self._is_mine():
                    self.lost = self.path.exists()
                    continue
                os.utime(self.path)
            except OSError as error:
                log.warning("%s: no heartbeat (%s); trying again", self.path, error)


def _parsed(content: bytes) -> dict[str, Any]:
    # A lock whose process died while it wrote it says nothing.
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _name(owner: dict[str, Any]) -> str:
    if not owner:
        return "another run"
    job = f", job {owner['job']}" if owner.get("job") else ""
    return f"process {owner.get('pid')} on {owner.get('host')}{job}"


def _is_alive(owner: dict[str, Any]) -> bool:
    identity = _process_identity(int(owner["pid"]))
    return identity is not None and identity == owner["process"]


def _process_identity(pid: int) -> str | None:
    """Return what tells a live process from others that had or will have its number; None if it is dead."""
    try:
        with suppress(PermissionError):  # which says that it lives, and is another user's
            os.kill(pid, 0)
    except ProcessLookupError:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # a system without /proc
        return str(pid)
    state, started = fields[0], fields[19]
    return None if state in "ZX" else f"{boot} {started}"
