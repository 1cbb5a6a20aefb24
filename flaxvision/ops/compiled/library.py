"""The kernels as a library: compiled when they are first needed, kept in the user's cache folder, known to XLA.

XLA stores what lies between the passes of a convolution, which for maps of 16 to 128 channels takes several times as
long as the arithmetic: 3 x 3 on 32 x 32 x 16 at batch 128 take 32 ms with their gradients by the best of its forms, 5
by a kernel that keeps them in the cache. Without a compiler, or with FLAXVISION_KERNELS=off, nothing but time is lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import math
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import jax

from flaxvision._files import cache_folder
from flaxvision._locks import try_lock

SWITCH = "FLAXVISION_KERNELS"
COMPILERS = ("c++", "g++", "clang++")  # the first that is there, unless CXX names one
OPTIONS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-w")
SOURCES = ("winograd.cc", "depthwise.cc")
HEADERS = ("common.h",)
TARGETS = ("winograd", "winograd_gradient", "depthwise", "depthwise_gradient")
SECONDS = 300  # that compiling may take
log = logging.getLogger("flaxvision")


@functools.cache
def compiler() -> str | None:
    """The path of a C++ compiler that may be used; None without one."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "false") or not sys.platform.startswith(("linux", "darwin")):
        return None
    named = os.environ.get("CXX")
    found = next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)
    if found is None:
        log.info("no C++ compiler (%s): convolutions train in their JAX forms", named or ", ".join(COMPILERS))
    return found


@functools.cache
def ready() -> bool:
    """Whether XLA knows the kernels; compiles them if this machine has not done so yet.

    What keeps a compiler that is there from it is logged once, as a warning.
    """
    tool = compiler()
    if tool is None:
        return False
    try:
        library = _loaded(tool)
        for name in TARGETS:
            capsule = jax.ffi.pycapsule(getattr(library, f"flaxvision_{name}"))
            jax.ffi.register_ffi_target(target(name), capsule, platform="cpu")
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        line = next((line for line in said.splitlines() if "error" in line), said.strip())
        log.warning("%s cannot compile the kernels, convolutions train in their JAX forms: %s", tool, line)
        return False
    return True


def target(name: str) -> str:
    """The name by which XLA knows a kernel."""
    return f"flaxvision_{name}"


def _loaded(tool: str) -> ctypes.CDLL:
    path = cache_folder() / "kernels" / f"{_key(tool)}.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # without locks several compile, each its own file
            try_lock(held, path.with_suffix(".lock"), math.inf)  # one of several processes compiles
        if not path.exists():
            log.info("compiling convolutions for this processor by %s, once: about ten seconds", tool)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            here = Path(__file__).parent
            include = ["-I", jax.ffi.include_dir(), "-I", str(here)]
            command = [tool, *OPTIONS, *include, *(str(here / name) for name in SOURCES), "-o", str(temporary)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return ctypes.CDLL(str(path))


def _key(tool: str) -> str:
    """What a compiled library depends on: sources, options, compiler, JAX's headers and the processor."""
    from flaxvision.runtime import instructions

    there = os.stat(os.path.realpath(tool))
    sources = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in (*SOURCES, *HEADERS)]
    facts = (*sources, *OPTIONS, os.path.realpath(tool), there.st_size, there.st_mtime_ns, jax.__version__)
    return hashlib.sha256(repr((*facts, instructions())).encode()).hexdigest()[:24]
