"""One run at a time in a folder, on one machine or on several that share a file system."""

import json
import logging
import os
import secrets
import socket
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from util.checking import Rule, parse_json
from util.errors import UserError
from util.files import create_exclusively
from util.text import printable

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10
SILENCE_SECONDS = 60
"""A lock of another host without a heartbeat for this long is abandoned."""

MAX_BYTES = 1 << 16
"""More than the size of a lock."""

OWNER = {
    "token": str,
    "pid": Rule(int, lambda pid: 0 < pid < 1 << 31, "a process number"),
    "process": str | None,
    "host": str,
    "job": str,
}
"""The shape of a lock."""


class RunLock:
    """Holds ``run.lock`` in a run's folder, a file with the process, the host and the scheduler's job.

    The lock of a dead process of this host is taken over at once, and so is that of an earlier start of this
    Slurm job. A process of another host cannot be looked up, so its lock needs a heartbeat: a thread sets the
    file's modification time, because an epoch's validation or a compilation has no steps for minutes.

    Args:
        activity: what holds the lock, for the message.

    Attributes:
        found_folder: whether the folder existed before. If not, it is removed at the end if it is empty.

    Raises:
        UserError: on entering: another run holds the lock.
    """

    def __init__(self, folder: Path, activity: str = "is training"):
        self.path = folder / "run.lock"
        self._mine = {
            "token": secrets.token_hex(8),
            "pid": os.getpid(),
            "process": _process_identity(os.getpid()),
            "host": socket.gethostname(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
        }
        self.activity = activity
        self.found_folder = True
        self._needed = os.environ.get("RANK", "0") == "0"  # under torchrun rank 0 locks for all
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        if not self._needed:
            return self
        self.found_folder = self.path.parent.is_dir()
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
            if self._token() == self._mine["token"]:
                self.path.unlink(missing_ok=True)
            if not self.found_folder:
                with suppress(OSError):  # it has files
                    self.path.parent.rmdir()

    def check(self) -> None:
        """Raise a `UserError` if another run has taken the lock over, as it may after a long standstill."""
        if self._needed and self._token() not in (None, self._mine["token"]):
            raise UserError(
                f"{self.path}: this run stood still for more than {SILENCE_SECONDS} s and another run has"
                " taken its place: it ends here without saving"
            )

    def _create(self) -> bool:
        """Create the lock with its content in one step; return False if there is one already."""
        return create_exclusively(self.path, json.dumps(self._mine).encode())

    def _remove_if_abandoned(self) -> None:
        """Remove the present lock if its run is over; on another host, wait for a heartbeat.

        Raises:
            UserError: its run is alive.
        """
        try:
            held, beat = _read(self.path), self.path.stat().st_mtime
        except FileNotFoundError:
            return
        owner = _parsed(held)
        if owner.get("host") == self._mine["host"]:
            alive = _is_alive(owner)
        elif owner.get("job") and owner["job"] == self._mine["job"]:
            alive = False
        else:
            alive = self._has_heartbeat(owner, beat)
        if alive:
            raise UserError(
                f"{self.path.parent}: {_name(owner)} {self.activity} in this folder; wait until it ends or"
                f" choose another --name. If that process no longer exists, remove {self.path}"
            )
        self._remove(held, owner)

    def _has_heartbeat(self, owner: dict[str, Any], beat: float) -> bool:
        """Wait for the next heartbeat after `beat`; return False if `SILENCE_SECONDS` pass without one."""
        # A beat in the future, by a wrong clock, is no older than one of now.
        left = SILENCE_SECONDS - max(0.0, self._clock() - beat)
        if left > 0:
            log.info("%s: waiting up to %.0f s for a heartbeat of %s", self.path, left, _name(owner))
        ends = time.monotonic() + left
        while time.monotonic() < ends and self.path.exists():
            if self.path.stat().st_mtime != beat:
                return True
            time.sleep(min(1.0, max(0.0, ends - time.monotonic())))
        return False

    def _clock(self) -> float:
        """Return the file system's time, which hosts share although their clocks may differ."""
        probe = self._own_path()
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now

    def _remove(self, held: bytes, owner: dict[str, Any]) -> None:
        """Remove the lock if it still has the content `held`, and is not one that has just replaced it."""
        removed = self._own_path()
        try:
            self.path.rename(removed)
        except FileNotFoundError:
            return
        if (content := _read(removed)) != held:
            create_exclusively(self.path, content)
        else:
            log.info("%s: taken over from %s, which is gone", self.path, _name(owner))
        removed.unlink()

    def _own_path(self) -> Path:
        return self.path.with_name(f"run.lock.{self._mine['token']}")

    def _token(self) -> str | None:
        """Return the token of the run that holds the lock; None without a lock."""
        try:
            return _parsed(_read(self.path)).get("token", "")
        except FileNotFoundError:
            return None

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                if self._token() == self._mine["token"]:
                    os.utime(self.path)
            except (OSError, UserError) as error:
                log.warning("%s: heartbeat failed (%s); trying again", self.path, error)


def _read(path: Path) -> bytes:
    """Return the content of a lock.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is no file.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise UserError(f"{path}: not the file of a lock, but a link or something else; remove it")
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        return parse_json(content, OWNER, "run.lock")
    except UserError:  # written incompletely by a process that died
        return {}


def _name(owner: dict[str, Any]) -> str:
    if not owner:
        return "another run"
    job = f", job {printable(owner['job'])}" if owner["job"] else ""
    return f"process {owner['pid']} on {printable(owner['host'])}{job}"


def _is_alive(owner: dict[str, Any]) -> bool:
    identity = _process_identity(owner["pid"])
    return identity is not None and identity == owner["process"]


def _process_identity(pid: int) -> str | None:
    """Return boot and start time of a live process, which tell it from others with its number; else None."""
    try:
        with suppress(PermissionError):  # another user's process, so it lives
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
