"""The settings in which PyTorch is run: on a CPU eight, of which the fastest on a network counts."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil


@dataclasses.dataclass(frozen=True, slots=True)
class TorchSetting:
    """How PyTorch trains a network; the default is how a first script does it."""

    compiled: bool = False  # by torch.compile
    channels_last: bool = False  # images and weights in memory; else contiguous
    fused: bool = False  # whether the optimizer updates all parameters in one kernel

    @property
    def name(self) -> str:
        """In tables and in the results.

        >>> TorchSetting(channels_last=True).name
        'eager, channels last, plain'
        """
        words = ("compiled" if self.compiled else "eager", "channels last" if self.channels_last else "contiguous")
        return ", ".join((*words, "fused" if self.fused else "plain"))


FIRST = TorchSetting()  # eager, contiguous, plain
SETTINGS = tuple(itertools.starmap(TorchSetting, itertools.product((False, True), repeat=3)))


def settings_here() -> tuple[TorchSetting, ...]:
    """All eight, or the eager four where torch.compile would lack a C++ compiler."""
    if shutil.which(os.environ.get("CXX", "g++")):  # as PyTorch looks for it
        return SETTINGS
    print("torch.compile is left out: there is no g++ and no compiler named by CXX", flush=True)
    return tuple(setting for setting in SETTINGS if not setting.compiled)
