"""onnxruntime, imported in one place, as its import decides whom it tells of it."""

from __future__ import annotations

import os
from types import ModuleType


def onnxruntime() -> ModuleType:
    """The package, without the telemetry that it has from 1.32 on, unless ORT_DISABLE_TELEMETRY=0 asks for it.

    That keeps a device id in the user's folders and sends what it notes over the network. It is read at the import:
    `onnxruntime.disable_telemetry_events` comes too late.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime
