"""Choice and preparation of the device."""

import ctypes
import logging
import os
import resource
import sys
from functools import lru_cache

import torch

from util import distributed
from util.errors import UserError

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


def parse_gpu_ids(text: str) -> list[int]:
    """Return the GPU numbers in a value of ``--gpu_ids`` such as ``0``, ``0,1`` or ``-1`` (none: the CPU).

    Raises:
        UserError: the value has another form.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--gpu_ids {text}: expected numbers separated by commas, such as 0 or 0,1, or -1 for the CPU"
        ) from None
    return [number for number in numbers if number >= 0]


def processes_to_launch(gpu_ids: str) -> int:
    """Return how many processes to launch: one for each GPU, unless torchrun has launched them."""
    single = distributed.launched_by_torchrun() or not torch.cuda.is_available()
    return 1 if single else max(1, len(parse_gpu_ids(gpu_ids)))


def select_device(gpu_ids: str, explicit: bool) -> torch.device:
    """Return the device for ``--gpu_ids``; without a GPU fall back to the CPU unless the flag was given.

    If torchrun launched several processes on this machine, each selects the GPU of its local rank.

    Args:
        gpu_ids: the value of ``--gpu_ids``.
        explicit: whether the command line gives it.

    Raises:
        UserError: a requested GPU does not exist, or there are fewer GPUs than processes.
    """
    numbers = parse_gpu_ids(gpu_ids)
    if not numbers:
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and not explicit:
        log.info("No GPU found, using the CPU (--gpu_ids -1 selects it explicitly).")
        return torch.device("cpu")
    missing = [number for number in numbers if number >= count]
    if missing:
        raise UserError(
            f"--gpu_ids {gpu_ids}: there is no GPU {missing[0]} here ({count} found);"
            f" use {'a number below ' + str(count) + ' or ' if count else ''}-1 for the CPU"
        )
    local_rank, processes = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if processes > 1 and not explicit:
        numbers = list(range(count))
    if processes > len(numbers):
        raise UserError(
            f"--gpu_ids {','.join(map(str, numbers))}: {processes} processes need as many GPUs on this"
            " machine; name as many, or lower torchrun's --nproc_per_node"
        )
    torch.cuda.set_device(numbers[local_rank])
    return torch.device("cuda", numbers[local_rank])


def prepare_device(gpu_ids: str, explicit: bool, deterministic: bool) -> torch.device:
    """Return the device of `select_device`, ready for use, after joining the other ranks."""
    device = select_device(gpu_ids, explicit)
    if deterministic:
        use_deterministic_algorithms()
    if device.type == "cpu":
        keep_freed_memory()
    distributed.init_process_group(device)
    return device


@lru_cache
def constant(values: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return constant values on a device; cached: a copy in every step would be slow."""
    with torch.inference_mode(False):
        return values.to(device, dtype)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensors, which mostly have the same sizes.

    By default it returns large blocks to the system at once, and a training step on a CPU spends much of its
    time on page faults.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in GiB: of tensors on a GPU, otherwise of the process.

    This does not synchronise with the GPU.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def use_deterministic_algorithms() -> None:
    """Make torch use deterministic algorithms and raise a `RuntimeError` where there is none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is initialised
    torch.use_deterministic_algorithms(True)
