"""What a number rests on: versions, device, data, configuration, command."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from flaxvision.data import Dataset
from flaxvision.runtime import cores
from flaxvision.sweep.trials import Record

PACKAGES = ("flaxvision", "jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def device() -> str:
    """The devices that compute, in words."""
    import jax

    devices, count = jax.local_devices(), len(cores())
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = _processor() or kind
    return f"{len(devices)} x {devices[0].platform} ({kind}), {count} core{'s' * (count != 1)}"


def data_sources(datasets: Iterable[Dataset]) -> dict[str, dict[str, Any]]:
    """Each data set's source; those of one name, such as two limits of it, are numbered."""
    found: dict[str, dict[str, Any]] = {}
    for dataset in datasets:
        source = {k: v for k, v in dataclasses.asdict(dataset.source).items() if v not in ("", ())}
        source |= {"counts": dict(dataset.source.counts)}
        if source not in found.values():
            same = sum(name == dataset.name or name.startswith(f"{dataset.name} (") for name in found)
            found[f"{dataset.name} ({same + 1})" if same else dataset.name] = source
    return found


def on_other_cores(records: Iterable[Record]) -> list[str]:
    """What is to be said where trials of one stage had other numbers of cores, as after a run went on elsewhere."""
    counts: dict[str, set[int]] = {}
    for record in records:
        if "cores" in record:
            counts.setdefault(record["stage"], set()).add(record["cores"])
    found = [" and ".join(map(str, sorted(each))) for each in counts.values() if len(each) > 1]
    return [f"trials were trained on {each} cores, on which their last bits may depend" for each in found]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
