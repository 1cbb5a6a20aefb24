"""Settings of a process that only trains: memory kept between steps, compiled programs kept on disk.

Nothing happens at import. `flaxvision sweep` and its worker processes call `prepare`, and so may a script, as
the first thing it does; FLAXVISION_RUNTIME=off leaves a process as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision._files import cache_folder
from flaxvision._limits import most_cores

if TYPE_CHECKING:
    import jax

__all__ = ["prepare"]  # others are of use within the library
Setting = bool | str | None
SWITCH = "FLAXVISION_RUNTIME"
CACHE_BYTES = 2**30  # of compiled programs in the user's cache folder, at most
KEPT_BYTES = 2**31 - 2**20  # of freed memory that is not given back, at most (an int in mallopt)
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SWITCHES = {
    "jax_enable_x64": True,
    "jax_default_matmul_precision": True,
    "jax_default_prng_impl": False,  # see `same_draws`
    "jax_threefry_partitionable": False,
    "jax_numpy_dtype_promotion": False,
    "jax_numpy_rank_promotion": False,
    "jax_platforms": False,  # a record names its platform
}  # settings of JAX that a script may have changed -> whether a trained number depends on them
_TRIM_THRESHOLD, _MMAP_MAX, _HUGEPAGE = -1, -4, 14  # of mallopt (malloc.h) and madvise (mman.h)


def prepare() -> tuple[str, ...]:
    """Prepare this process for training; call it before anything is computed.

    - XLA allocates and frees its temporaries at every call. Large ones come fresh from the kernel each time, and
      faulting in their pages can take longer than computing them. On Linux with glibc, freed memory up to
      `KEPT_BYTES` is kept instead, in huge pages where the kernel gives them. It is not given back before the process
      ends.
    - Operations run when they are called, not on a thread of their own, whose memory would be another heap.
    - Compiled programs are kept in the user's cache folder, up to `CACHE_BYTES`, for each kind of machine apart:
      limit the process to some of its cores before, not after.
    - An accelerator is readied in a thread, as its driver takes seconds in which data can be read.

    Returns:
        What was done, of "cache", "accelerator", "dispatch" and "heap"; the last two only where JAX has no accelerator
        to look for.

    Raises:
        RuntimeError: JAX's own, if an accelerator is there and cannot be used.
    """
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "false"):
        return ()
    import jax

    done = ["cache"] if _keep_programs() else []
    backends = jax.config.values["jax_platforms"]
    if backends != "cpu" and _has_accelerator():
        device = jax.local_devices()[0]
        if device.platform != "cpu":
            threading.Thread(target=_ready, args=[device]).start()
            done.append("accelerator")
    elif backends in (None, "", "cpu"):
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        done += ["dispatch"] + (["heap"] if _keep_memory() else [])
    return tuple(done)


def __dir__() -> list[str]:
    return __all__


def on_host() -> contextlib.AbstractContextManager[object]:
    """Within it, new arrays lie in the host's memory; jitted functions take them to the accelerator.

    On an accelerator every small operation is compiled and launched by itself, which makes the start of many trials
    slow. Nothing changes where there is none.
    """
    import jax

    if jax.default_backend() != "cpu":
        with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS leaves the CPU out
            return jax.default_device(jax.local_devices(backend="cpu")[0])
    return contextlib.nullcontext()


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """Within it a seed gives the same numbers, whatever generator JAX is set to use (JAX_DEFAULT_PRNG_IMPL, …)."""
    import jax

    with jax.default_prng_impl("threefry2x32"), jax.threefry_partitionable(True):
        yield


def handed_on() -> dict[str, Setting]:
    """The settings of JAX in this process that hold in those that it starts, too."""
    import jax

    return {name: value for name, value in jax.config.values.items() if name in SWITCHES}


def hand_on(settings: dict[str, Setting]) -> None:
    """Set what `handed_on` gave in another process; before anything is computed."""
    import jax

    for name, value in settings.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)


def cores() -> list[int]:
    """The processor cores that this process may use, no more than its control group lets it keep busy."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return allowed[: math.ceil(max(1.0, min(most_cores(), len(allowed))))]


def _keep_programs() -> bool:
    import jax

    if jax.config.values["jax_compilation_cache_dir"]:  # the user has one
        return False
    folder = cache_folder() / "compiled" / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)  # the oldest programs go first
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small programs make up the start
    return True


def _ready(device: jax.Device) -> None:
    """Compile and run something small on a device, which starts its driver and the compiler for it."""
    import jax
    import numpy as np

    with contextlib.suppress(jax.errors.JaxRuntimeError):  # whoever computes next is told
        jax.block_until_ready(jax.jit(lambda x: x + 1)(jax.device_put(np.float32(0), device)))


def _machine() -> str:
    """What a program for the CPU is compiled for: its instructions and the number of threads."""
    return f"{instructions()}-{len(cores())}"


def instructions() -> str:
    """The kind of processor, by the instructions that it knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()}-{zlib.crc32(flags.encode()):08x}"


def _has_accelerator() -> bool:
    """Whether JAX has a plugin for another platform installed; asking JAX itself would start its backends."""
    from importlib.metadata import entry_points

    return bool(entry_points(group="jax_plugins"))


def _keep_memory() -> bool:
    """Keep freed memory in this process; False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if not (library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)):
        return False
    with contextlib.suppress(OSError):
        if "[never]" not in HUGE_PAGES.read_text(encoding="utf-8"):
            # One large block at the top of the heap, marked and freed: what is allocated later lies in it.
            memory, page = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 2**21
            size = min(KEPT_BYTES, memory // 4)
            if block := library.malloc(size):
                start = -(-block // page) * page
                library.madvise(start, (block + size - start) // page * page, _HUGEPAGE)
                library.free(block)
    return True
