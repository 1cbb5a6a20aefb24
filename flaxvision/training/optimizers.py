"""The optimizers by name: an entry each, from which recipes, messages and updates are made.

Same numbers, same updates as `torch.optim`: momentum `b = m b + g`, weight decay added to the gradient or, where an
entry says so, decoupled, epsilon outside the square root. (Paszke et al., torch.optim; Loshchilov and Hutter,
"Decoupled Weight Decay Regularization", ICLR 2019.) What PyTorch lacks is the papers': Lion (Chen et al., "Symbolic
Discovery of Optimization Algorithms", NeurIPS 2023), LAMB (You et al., "Large Batch Optimization for Deep Learning",
ICLR 2020). Muon is PyTorch's on every kernel as a matrix (outputs, all other axes), with Adam for biases and norms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax
    import optax

    Parts = list[optax.GradientTransformation]
    Scalar = float | jax.Array  # an array where trials of one program may differ in it


@dataclasses.dataclass(frozen=True, slots=True)
class Optimizer:
    """What an optimizer's name stands for."""

    defaults: Mapping[str, float | bool]  # its settings, fields of `Recipe`, and what they are unless given
    make: Callable[..., Parts]  # of all its settings: from gradients to updates, still to be scaled by the rate
    decoupled: bool = False  # weight decay is added to the update, otherwise (L2) to the gradient
    trusted: bool = False  # at last each tensor's update gets the norm of the tensor (LAMB)

    def settings(self, given: Mapping[str, object]) -> dict[str, object]:
        """All its settings, those of `given` in place of its defaults."""
        return {name: given.get(name, default) for name, default in self.defaults.items()}


def _sgd(momentum: Scalar, nesterov: bool = False) -> Parts:
    import optax

    off = isinstance(momentum, float)  # the default, 0; a momentum that was given is an array
    return [] if off else [optax.trace(decay=momentum, nesterov=nesterov)]


def _rmsprop(smoothing: Scalar, epsilon: Scalar, momentum: Scalar, centered: bool) -> Parts:
    import optax

    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    return [scale(smoothing, epsilon, eps_in_sqrt=False), *_sgd(momentum)]


def _lion(beta1: Scalar, beta2: Scalar) -> Parts:
    import optax

    return [optax.scale_by_lion(beta1, beta2)]


def _adam(beta1: Scalar, beta2: Scalar, epsilon: Scalar) -> Parts:
    import optax

    return [optax.scale_by_adam(beta1, beta2, epsilon)]


def _adagrad(epsilon: Scalar) -> Parts:
    from flaxvision.training import transforms

    return [transforms.adagrad(epsilon)]


def _adadelta(smoothing: Scalar, epsilon: Scalar) -> Parts:
    import optax

    return [optax.scale_by_adadelta(smoothing, epsilon)]


def _adamax(beta1: Scalar, beta2: Scalar, epsilon: Scalar) -> Parts:
    import optax

    return [optax.scale_by_adamax(beta1, beta2, epsilon)]


def _nadam(beta1: Scalar, beta2: Scalar, epsilon: Scalar, momentum_decay: Scalar) -> Parts:
    from flaxvision.training import transforms

    return [transforms.nadam(beta1, beta2, epsilon, momentum_decay)]


def _radam(beta1: Scalar, beta2: Scalar, epsilon: Scalar) -> Parts:
    import optax

    return [optax.scale_by_radam(beta1, beta2, epsilon)]


def _muon(beta1: Scalar, vector_scale: Scalar) -> Parts:
    from flaxvision.training import transforms

    return [transforms.muon(beta1, vector_scale)]


ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
OPTIMIZERS = {
    "sgd": Optimizer({"momentum": 0.0, "nesterov": False}, _sgd),
    "adam": Optimizer(ADAM, _adam),
    "adamw": Optimizer(ADAM, _adam, decoupled=True),
    "rmsprop": Optimizer({"smoothing": 0.99, "epsilon": 1e-8, "momentum": 0.0, "centered": False}, _rmsprop),
    "lion": Optimizer({"beta1": 0.9, "beta2": 0.99}, _lion, decoupled=True),
    "adagrad": Optimizer({"epsilon": 1e-10}, _adagrad),
    "adadelta": Optimizer({"smoothing": 0.9, "epsilon": 1e-6}, _adadelta),
    "adamax": Optimizer(ADAM, _adamax),
    "nadam": Optimizer({**ADAM, "momentum_decay": 4e-3}, _nadam),
    "radam": Optimizer(ADAM, _radam),
    "lamb": Optimizer({**ADAM, "epsilon": 1e-6}, _adam, decoupled=True, trusted=True),
    "muon": Optimizer({"beta1": 0.95, "vector_scale": 1.0}, _muon, decoupled=True),
}


CYCLED = ("momentum", "beta1")  # of which `base_momentum` moves the one that an optimizer has


def is_own(name: object) -> bool:
    """Whether an optimizer is a function of one's own, "module:function" or "file.py:function"."""
    return isinstance(name, str) and ":" in name


def code_of_optimizer(name: object) -> dict[str, str] | None:
    """A checksum of each part that an optimizer of one's own runs; None for another.

    Raises:
        UserError: If it cannot be imported.
    """
    from flaxvision._own_code import code_of

    return code_of("optimizer", str(name)) if is_own(name) else None


def settings_of_optimizers() -> list[str]:
    """The fields of `Recipe` that only some optimizers have."""
    return list(dict.fromkeys(name for optimizer in OPTIMIZERS.values() for name in optimizer.defaults))


def optimizers_with(setting: str) -> list[str]:
    """The names of the optimizers that have a setting."""
    return [name for name, optimizer in OPTIMIZERS.items() if setting in optimizer.defaults]
