"""Modules that drop whole examples, drop path or stochastic depth: PyTorch has none, so networks bring their own.

They do nothing in evaluation and draw in training, which a graph of operations cannot show. What is called one of
`NAMES` and behaves so stands for the layer `DropPath`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from flaxvision.layers import DropPath
from flaxvision.models.reading.graph import Growth, Held
from flaxvision.models.torch_reader.calls import Call
from flaxvision.models.torch_reader.table import reads
from flaxvision.models.torch_reader.trace import Dropping

NAMES = ("DropPath", "StochasticDepth")  # timm's and most others', torchvision's
RATES = ("drop_prob", "p", "drop_rate", "prob", "rate")  # attributes that hold the probability
EXAMPLES = 4096  # of the trial


@reads(Dropping)
def _drop_path(growth: Growth, call: Call, module: Dropping, input: Held) -> Held:
    return growth.elementwise(call, DropPath(module.rate), input)


def replace_drop_paths(module: nn.Module, make: Callable[[float], nn.Module] = Dropping) -> None:
    """Put `make(rate)`, which passes its input on, in the place of every such module within `module`."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            rate = rate_of(child)
            if rate is not None:
                setattr(parent, name, make(rate))


def rate_of(module: nn.Module) -> float | None:
    """The probability with which a module drops examples; None if it is no drop path, as its name and a trial show."""
    rates = [getattr(module, name, None) for name in RATES]
    rate = next((float(rate) for rate in rates if isinstance(rate, (int, float)) and 0 < rate < 1), None)
    if type(module).__name__ not in NAMES or rate is None or module.state_dict():
        return None
    twin, ones = copy.deepcopy(module), torch.ones(EXAMPLES, 2, 1, 3)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            evaluated, trained = (twin.train(train)(ones.clone()) for train in (False, True))
        except Exception:  # of whatever the user's code raises; the graph shows it
            return None
    if not torch.equal(evaluated, ones) or trained.shape != ones.shape:
        return None
    kept = trained[:, :1, :1, :1]
    likely = 5 * math.sqrt(rate * (1 - rate) / EXAMPLES)
    wanted = torch.where(kept == 0, 0.0, 1 / (1 - rate)).expand_as(ones)
    alike = torch.allclose(trained, wanted) and abs(float((kept == 0).float().mean()) - rate) < likely
    return rate if alike else None
