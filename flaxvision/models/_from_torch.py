"""Networks that were written in PyTorch: a module in memory, or a class or function of the user's by its name."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import logging
import multiprocessing
import operator
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flaxvision import _own_code
from flaxvision._cache import shared_cache
from flaxvision._describe import Indescribable, Plain, describe, digest
from flaxvision.errors import UserError, check_choice, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flaxvision.layers import Network

PREFIX = "torch:"  # of a model's name, before "file.py:Class"
STARTS = ("module", "torch")
CLASSES = "num_classes"  # the argument that is given the number of classes, where a class has it
_ONE_AT_A_TIME = threading.RLock()  # PyTorch's generator and torch.fx's tracing are the whole process's
_LOG = logging.getLogger("flaxvision")


def from_torch(
    module: nn.Module, input_shape: tuple[int, ...] = (32, 32, 3), *, init: str = "module", seed: int = 0
) -> Network:
    """The network that a PyTorch module is: read by `torch.fx`, compared with it, trained and exported from then on.

    Layers have the module's dotted names, so that `frozen=("features",)` in a recipe freezes what it would there.
    Parameters whose `requires_grad` is False do not learn and keep their numbers, whatever `init` says. A softmax or
    log_softmax at the end, or the sigmoid of one output, is left off, as losses here take scores; exports have it.
    `export.save_torch` writes a `state_dict` that the module loads strictly.

    Args:
        module: A network that takes one image tensor (N, C, H, W), or vectors (N, D); it is not changed.
        input_shape: Shape of one example as it is here, (H, W, C) or (D,).
        init: "module" starts from the module's weights, "torch" draws PyTorch's default initialization of every layer.
        seed: Of that draw.

    Returns:
        The network; on random images it gives the module's outputs, which was checked in evaluation and training mode.

    Raises:
        UserError: If PyTorch is missing; for what cannot be read, with the line of the module's code; and where the
            network would differ from the module.

    >>> import flaxvision as fv
    >>> from torch import nn
    >>> module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    >>> model = fv.models.from_torch(module, input_shape=(28, 28, 1))
    >>> model.names
    ('0', '1', '2', '3')
    """
    torch = _torch()
    check_choice("init", init, STARTS)
    if not isinstance(module, torch.nn.Module):
        raise UserError(
            f"from_torch got a {type(module).__name__}: give a torch.nn.Module; for weights alone there is "
            "export.from_torch(weights, model)"
        )
    shape, module = _shape_of(input_shape), _unwrapped(module)
    return _started(_read(module, shape, type(module).__name__), module, init, seed)


def grown(
    name: str, input_shape: tuple[int, ...], outputs: int | None, seed: int, init: str, arguments: Mapping[str, Any]
) -> Network:
    """The network of "torch:file.py:Class", whose class or function is called with the arguments.

    Raises:
        UserError: As `from_torch`, and for a name or argument that it does not have.
    """
    check_choice("init", init, STARTS)
    shape = _shape_of(input_shape)
    allowed = argument_names(name)
    for given in arguments:
        if allowed is not None and given not in allowed:
            raise unknown(f"argument of {name}", given, allowed or ["(none)"])
    module = module_of(name, outputs, arguments, seed)
    arguments = _filled(name, outputs, arguments)
    key = json.dumps(dict(arguments), sort_keys=True, default=str), json.dumps(code_of(name))
    network = _read_once(name, shape, *key, _constants(module), _Unseen(module))
    return _started(network, module, init, seed)


def _shape_of(input_shape: Any) -> tuple[int, ...]:
    """The shape of one example as it was given.

    Raises:
        UserError: If it is none.
    """
    try:
        shape = tuple(operator.index(size) for size in input_shape)
    except TypeError:  # a number alone, a text, a fraction
        shape = ()
    if len(shape) not in (1, 3) or min(shape) < 1:
        vectors = f"({input_shape},)" if isinstance(input_shape, int) else "(D,)"
        raise UserError(f"input_shape is {input_shape!r}: give (H, W, C), such as (32, 32, 3), or {vectors}")
    return shape


def _constants(module: nn.Module) -> str:
    """A checksum of what the network holds as settings and another seed may make otherwise: attributes and buffers."""
    from flaxvision.models.torch_reader.trace import is_pytorchs

    torch = _torch()
    every = vars(torch.nn.Module())
    found = []
    for path, each in module.named_modules():
        own = {name: value for name, value in vars(each).items() if name not in every}
        if not (isinstance(each, torch.nn.modules.batchnorm._NormBase) and is_pytorchs(each)):  # whose statistics move
            own |= each.named_buffers(recurse=False)
        found.append([path, _plain(own)])
    return digest(found)


def _plain(value: Any) -> Plain:
    """Numbers, texts, tensors and containers of them as plain data; of anything else its type."""
    torch = _torch()
    if isinstance(value, (torch.nn.Module, torch.nn.Parameter)):
        return type(value).__name__
    if isinstance(value, torch.Tensor):
        return _described(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    try:
        return describe(value)
    except Indescribable:
        return type(value).__name__


def _described(tensor: Tensor) -> Plain:
    try:
        tensor = tensor.detach().cpu()
        return describe((tensor.double() if tensor.is_floating_point() else tensor).numpy())
    except (TypeError, RuntimeError):  # sparse, quantized, without numbers
        return repr(tensor)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return digest([[name, _described(tensor)] for name, tensor in tensors.items()])


def _filled(name: str, outputs: int | None, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments with the number of classes, where the class takes that and it is not given."""
    plain = {key: float(value) if isinstance(value, float) else value for key, value in arguments.items()}
    return {CLASSES: outputs, **plain} if outputs and CLASSES in (argument_names(name) or ()) else plain


def module_of(name: str, outputs: int | None, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """The module of "torch:file.py:Class", as its own code makes it for this seed."""
    return _made(name, _filled(name, outputs, arguments), seed)


def numbers_of(name: str, outputs: int, arguments: Mapping[str, Any]) -> str:
    """A checksum of the weights that the class or function makes under seed 0."""
    return _checksum(module_of(name, outputs, arguments, 0).state_dict())


def argument_names(name: str) -> list[str] | None:
    """The arguments that the class or function of a name takes; None where it takes any."""
    made = _imported(name)
    if isinstance(made, _torch().nn.Module):
        return []
    parameters = inspect.signature(made).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters]


def code_of(name: str) -> dict[str, str]:
    """A checksum of each part of one's own that the class or function runs."""
    _imported(name)
    return _own_code.code_of("model", name.removeprefix(PREFIX))


def _imported(name: str) -> Any:
    _torch()
    path = name.removeprefix(PREFIX)
    if ":" not in path:
        raise UserError(f"model is {name!r}: give torch:file.py:Class or torch:package.module:Class")
    return _own_code.import_function("model", path)


def _made(name: str, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """The module as its own code makes it for this seed."""
    torch, made = _torch(), _imported(name)
    from flaxvision.models.torch_reader.chance import seeded

    with _ONE_AT_A_TIME, seeded(seed):
        module = made if isinstance(made, torch.nn.Module) else made(**arguments)
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{name} gives a {type(module).__name__}: name a class of torch.nn.Module, or what makes one")
    return _unwrapped(module)


class _Unseen:
    """A module that is no part of a cache's key."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unseen)

    def __hash__(self) -> int:
        return 0


@shared_cache(8)
def _read_once(
    name: str, input_shape: tuple[int, ...], arguments: str, code: str, constants: str, module: _Unseen
) -> Network:
    return _read(module.module, input_shape, name)


def _read(module: nn.Module, shape: tuple[int, ...], kind: str) -> Network:
    import jax

    from flaxvision.models.torch_reader.compare import check_same
    from flaxvision.models.torch_reader.read import read
    from flaxvision.models.torch_reader.weights import narrowed, unused, with_tensors

    with _ONE_AT_A_TIME, jax.ensure_compile_time_eval():  # a sweep counts parameters by tracing what builds them
        network, ending, kept = read(module, shape, kind)
        network = with_tensors(network, module, ending)
        check_same(network, module)
    if types := narrowed(module):
        _say(f"{kind} holds {' and '.join(types)} numbers, read as float32")
    if idle := unused(network, module):
        _say(f"{kind} never uses {_few(idle)}: kept as they are")
    if ending:
        _say(f"{kind} ends in {ending}: trained on the scores before it, and exported with it")
    if kept:
        _say(f"{kind} ends in a {kept}, which stays: losses and predict take outputs for scores, so return those")
    return network


def _started(network: Network, module: nn.Module, init: str, seed: int) -> Network:
    """The network with the module's numbers, or others of PyTorch's default initialization."""
    from flaxvision.layers import TorchModule
    from flaxvision.models.torch_reader.weights import assigned, count_batches, frozen, of_module, own_way, redrawn
    from flaxvision.runtime import on_host, same_draws

    numbers, kept = of_module(network, module), frozen(network, module)
    if kept:
        _say(f"{network.kind}: {_few(list(kept))} with requires_grad=False: not trained here either")
    if init == "module":
        network = assigned(network, numbers)
        count_batches(network, module)
    else:
        own = own_way(network, module, numbers)
        if own:
            _say(
                f"{network.kind} does not begin as PyTorch's default would at {_few(own)}: init = 'module' keeps that, "
                "init = 'torch' draws the default"
            )
        layers = {name.rpartition(".")[0] for name in kept.values()}  # which keep all that they have
        with on_host(), same_draws():
            drawn = {
                name: value.astype(numbers[name].dtype)
                for name, value in redrawn(network, module, seed).items()
                if name.rpartition(".")[0] not in layers
            }
            network = assigned(network, {**numbers, **drawn})
    network.torch = dataclasses.replace(network.torch or TorchModule(()), frozen=tuple(kept.values()))
    return network


def _few(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


@functools.lru_cache(64)
def _say(sentence: str) -> None:
    """Say on standard error, once, and not in every process that a sweep starts."""
    if multiprocessing.parent_process() is None:
        _LOG.warning("%s", sentence)


def _unwrapped(module: nn.Module) -> nn.Module:
    """What `torch.compile` or a parallel wrapper holds."""
    inner = getattr(module, "_orig_mod", None)
    if inner is None and type(module).__name__ in ("DataParallel", "DistributedDataParallel"):
        inner = module.module
    return module if inner is None else _unwrapped(inner)


def _torch() -> Any:
    """PyTorch, or the `UserError` that says how to install it."""
    try:
        import torch
    except ImportError as error:
        raise UserError("a network in PyTorch needs it: pip install 'flaxvision[torch]'") from error
    return torch
