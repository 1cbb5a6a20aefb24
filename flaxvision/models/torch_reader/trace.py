"""Records what a module's `forward` does as a `torch.fx` graph whose nodes know their values and the user's lines."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from flaxvision.errors import UserError
from flaxvision.models.torch_reader.refusal import Line, line_at_hand, line_of, refusal

COMPUTE = "compute with PyTorch's operations on the tensor, and by shapes"
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
KNOWN = ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad", "itemsize")  # of an example's value
NUMBERS = ("item", "tolist", "numpy", "data")
ASKED = ("size", "dim", "numel", "nelement", "ndimension", "is_floating_point", "is_complex", "stride")


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a node beyond the graph."""

    value: Any  # for the example: a tensor, or what an operation gave otherwise
    line: Line | None  # of the user's code
    path: str  # of the innermost module that runs; "" for the whole
    in_torch: bool  # whether that module's `forward` is PyTorch's
    stops_gradient: bool  # whether it runs under `torch.no_grad`


def facts(node: fx.Node) -> Facts:
    """The facts of a node of `trace`."""
    return node.meta["facts"]


def writes(node: fx.Node) -> bool:
    """Whether an operation writes into the tensor that it takes."""
    name = str(getattr(node.target, "__name__", node.target))
    in_place = (name.endswith("_") and not name.endswith("__")) or bool(node.kwargs.get("inplace"))
    return in_place and node.op in ("call_function", "call_method")


def is_pytorchs(module: nn.Module) -> bool:
    """Whether what a module does is written in PyTorch, also where its class is the user's."""
    return str(type(module).forward.__module__).startswith("torch.nn.")


def is_layer(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's that holds tensors, and so one node."""
    if not is_pytorchs(module) or isinstance(module, CONTAINERS):
        return False
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


class Dropping(nn.Module):
    """What stands for a module of `drop_path` in a graph."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Give the input."""
        return input


class Known(fx.Proxy):
    """A stand-in for a tensor in `forward` that answers questions of shape and type."""

    def __getattr__(self, name: str) -> Any:
        held = self.node.meta.get("facts")
        if held is not None and isinstance(held.value, torch.Tensor) and name in (*KNOWN, *ASKED):
            return getattr(held.value, name)
        if held is not None and isinstance(held.value, tuple) and name in (fields := _fields(held.value)):
            return self.tracer.create_proxy("call_function", operator.getitem, (self, fields.index(name)), {})
        if name in NUMBERS:
            where = line_at_hand(trace.__code__) or "the module"
            raise refusal(where, f"Tensor.{name}, which takes the numbers out of a tensor,", COMPUTE)
        return super().__getattr__(name)

    def __len__(self) -> int:
        return len(facts(self.node).value)

    def __iter__(self) -> Iterator[Any]:
        if not isinstance(facts(self.node).value, (tuple, list)):
            return super().__iter__()
        pick = operator.getitem
        return iter([self.tracer.create_proxy("call_function", pick, (self, n), {}) for n in range(len(self))])

    def __iadd__(self, other: object) -> Any:
        return self.tracer.create_proxy("call_method", "add_", (self, other), {})

    def __isub__(self, other: object) -> Any:
        return self.tracer.create_proxy("call_method", "sub_", (self, other), {})

    def __imul__(self, other: object) -> Any:
        return self.tracer.create_proxy("call_method", "mul_", (self, other), {})

    def __itruediv__(self, other: object) -> Any:
        return self.tracer.create_proxy("call_method", "div_", (self, other), {})


def _fields(value: tuple) -> tuple[str, ...]:
    """The names of what a tuple holds, as `values` and `indices` are of what `max` gives."""
    return getattr(type(value), "__match_args__", ())


class Tracer(fx.Tracer):
    """Runs every operation on an example while it is recorded, so that shapes are numbers in the user's code."""

    def __init__(self, example: torch.Tensor, fixed: dict[str, Any], entry: Callable[..., object]):
        super().__init__()
        self.example = example
        self.fixed = fixed  # further arguments of `forward` -> their defaults
        self._entry = entry.__code__
        self._within: list[tuple[str, nn.Module]] = []
        self._runs = False  # whether an operation runs on the example, rather than being recorded

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node."""
        return is_layer(m) or isinstance(m, Dropping)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The stand-in for a node's value."""
        return Known(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A module's attribute: a stand-in for a parameter, unless an operation runs."""
        return attr_val if self._runs else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Record a layer, or what another module does."""
        if self._runs:
            return forward(*args, **kwargs)
        self._within.append((self.path_of_module(m), m))
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._within.pop()

    def create_node(self, kind: str, target: Any, *more: Any, **named: Any) -> fx.Node:
        """Record a node; fx makes those of constants, tensors that `forward` makes, by itself."""
        node = super().create_node(kind, target, *more, **named)
        if kind == "get_attr":
            path = self._within[-1][0] if self._within else ""
            node.meta["facts"] = Facts(self._attribute(str(target)), line_at_hand(self._entry), path, False, False)
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> fx.Proxy:
        """Record an operation and run it on the example."""
        made = super().create_proxy(kind, target, args, kwargs, *more, **named)
        path, module = self._within[-1] if self._within else ("", self.root)
        stops = not torch.is_grad_enabled()
        if kind == "get_attr":
            return made
        value = None if kind == "output" else self._run(made.node)
        made.node.meta["facts"] = Facts(value, line_at_hand(self._entry), path, is_pytorchs(module), stops)
        return made

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._argument(node)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: facts(each).value)
        if writes(node) and args and isinstance(args[0], torch.Tensor):
            args = (args[0].clone(), *args[1:])  # what is known of a node stays what it gave
        self._runs = True
        try:
            with torch.no_grad():
                if node.op == "call_module":
                    return self.root.get_submodule(str(node.target))(*args, **kwargs)
                if node.op == "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                assert callable(node.target)
                return node.target(*args, **kwargs)
        finally:
            self._runs = False

    def _argument(self, node: fx.Node) -> Any:
        name = str(node.target)
        if node is next(iter(node.graph.nodes)):
            return self.example
        if name.startswith("*"):  # of which none are given
            return {} if name.startswith("**") else ()
        return self.fixed.get(name.rpartition("_")[0])

    def _attribute(self, target: str) -> Any:
        self._runs = True
        try:
            value: Any = self.root
            for part in target.split("."):
                value = getattr(value, part)
            return value
        finally:
            self._runs = False


def trace(module: nn.Module, example: torch.Tensor) -> list[fx.Node]:
    """The nodes of what `forward` does with an example, in the mode that the module is in.

    Raises:
        UserError: Where that depends on the values of the example, or fails.
    """
    _, *others = inspect.signature(module.forward).parameters.values()
    fixed = {each.name: each.default for each in others if each.default is not inspect.Parameter.empty}
    tracer = Tracer(example, fixed, trace)
    try:
        with _refused_functions():
            graph = tracer.trace(module, fixed or None)
    except UserError:
        raise
    except Exception as error:  # whatever the user's code, PyTorch or fx raises
        raise _explained(module, error) from error
    return list(graph.nodes)


@contextlib.contextmanager
def _refused_functions() -> Iterator[None]:
    """Within it, an `autograd.Function` of stand-ins is refused: a graph does not show the gradient that it has."""
    function: Any = torch.autograd.Function
    plain = vars(function)["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(each, Known) for each in (*args, *kwargs.values())):
            where = line_at_hand(trace.__code__) or "the module"
            what = f"the autograd.Function {cls.__name__}, whose gradient is code of its own,"
            raise refusal(where, what, "compute with PyTorch's operations; leave torch.utils.checkpoint out")
        return plain.__func__(cls, *args, **kwargs)

    function.apply = classmethod(apply)
    try:
        yield
    finally:
        function.apply = plain


def _explained(module: nn.Module, error: Exception) -> UserError:
    name = type(module).__name__
    where = line_of(error.__traceback__, trace.__code__) or name
    said = " ".join(str(error).split()).replace("'Known'", "a tensor")
    if isinstance(error, fx.proxy.TraceError) and "control flow" in said:
        what, instead = "a branch on what a tensor holds", "decide by what __init__ is given, or by shapes"
        return refusal(where, what, f"{instead}; a gate multiplies instead")
    if isinstance(error, fx.proxy.TraceError) or any(word in said for word in ("symbolic", "Proxy", "not a tensor")):
        return refusal(where, f"Python that needs a tensor's numbers ({said[:150]})", COMPUTE)
    return UserError(
        f"{where}: {name} fails on an example ({type(error).__name__}: {said[:300]}): mend it, or give the "
        "input_shape=(H, W, C) that it takes"
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it PyTorch starts no threads: those that wait would hinder XLA's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
