"""What a number rests on: versions, device, data, configuration, command."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any, TypeVar

from flaxvision.data import Dataset
from flaxvision.identity import AROUND, switches
from flaxvision.runtime import cores
from flaxvision.sweep.spec import Spec, config_hash
from flaxvision.sweep.spec_file import dump_spec
from flaxvision.sweep.trials import Record

Kind = TypeVar("Kind", int, str)
PACKAGES = ("flaxvision", "jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-datasets")


def provenance_of(
    spec: Spec,
    command: str,
    executors: str,
    datasets: Iterable[Dataset],
    records: Sequence[Record],
    notes: Sequence[str],
) -> dict[str, Any]:
    """All that a table rests on, now that it is filled, and what is to be said of it."""
    notes = [*notes, *on_other_hardware(records, notes)]
    return {
        "command": command,
        "config hash": config_hash(dump_spec(spec)),
        "executor": executors,
        "seeds": list(spec.seeds),
        "data sets": data_sources(datasets),
        "device": device(),
        "JAX switches": switches(),
        "versions": versions(),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        **({"notes": notes} if notes else {}),
    }


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


def on_other_hardware(records: Iterable[Record], told: Sequence[str] = ()) -> list[str]:
    """What is to be said where trials of one stage had other numbers of cores, or other circumstances.

    As in a cluster of several kinds of nodes, or after a run went on elsewhere, of which `told` may already say some.
    """
    trained = [record for record in records if "cores" in record]
    around = [(record["stage"], record.get("identity", {}).get(AROUND, {})) for record in trained]
    cores = _several((record["stage"], record["cores"]) for record in trained)
    platforms = _several((stage, where.get("platform", "cpu")) for stage, where in around)
    others: list[str] = []
    for key in dict.fromkeys(key for _, where in around for key in where if key != "platform"):
        kinds = [(stage, where[key]) for stage, where in around if key in where]
        untold = [each for each in kinds if not any(f"{key} was {each[1]}, is " in note for note in told)]
        others += [f"{key} {each}" for each in _several((stage, kind or "none") for stage, kind in untold)]
    return [
        *(f"trials were trained on {each} cores, on which their last bits may depend" for each in cores),
        *(f"trials were trained on {each}, on which their last bits depend" for each in platforms),
        *([f"trials were trained with {'; '.join(others)}, on which their last bits may depend"] if others else []),
    ]


def _several(found: Iterable[tuple[str, Kind]]) -> list[str]:
    """The kinds of each stage that has several: "1 and 8"."""
    kinds: dict[str, set[Kind]] = {}
    for stage, kind in found:
        kinds.setdefault(stage, set()).add(kind)
    several = [" and ".join(map(str, sorted(each))) for each in kinds.values() if len(each) > 1]
    return list(dict.fromkeys(several))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
