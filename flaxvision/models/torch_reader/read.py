"""The walk: a module's graph, node by node, into a network."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import operator
from typing import Any

import torch
from torch import fx, nn

from flaxvision.errors import UserError
from flaxvision.layers import Network
from flaxvision.layers.kinds import Shape
from flaxvision.models.reading.graph import Growth, Held
from flaxvision.models.torch_reader import layers, pointwise, pools, shaping  # noqa: F401 (they fill the table)
from flaxvision.models.torch_reader.calls import Call, operation_of
from flaxvision.models.torch_reader.chance import seeded
from flaxvision.models.torch_reader.drop_path import replace_drop_paths
from flaxvision.models.torch_reader.refusal import Line, refusal
from flaxvision.models.torch_reader.table import Loose, carry_out
from flaxvision.models.torch_reader.trace import facts, is_pytorchs, one_thread, trace, writes

CONSTANT = "_tensor_constant"
REMADE = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm"}  # PyTorch's hooks that make weights anew
EXAMPLES = (3, 2)  # of the trace in training mode, and of that in evaluation mode
KEEPING = {  # what leaves the numbers of a parameter as they are, in their order
    *(*shaping.VIEWS, *shaping.EXPANSIONS, operator.getitem),
    *("contiguous", "clone", torch.clone, "float", "double", "to", "type_as"),
}


def read(module: nn.Module, input_shape: Shape, kind: str) -> tuple[Network, str, str]:
    """The network that a module is, without its numbers; the activation at the end that it leaves out, or keeps.

    Args:
        module: It is not changed.
        input_shape: Of one example, (H, W, C) or (D,).
        kind: What to call the network.

    Raises:
        UserError: For what cannot be read; it names the line.
    """
    _check(module)
    mine = copy.deepcopy(module).float().cpu()
    replace_drop_paths(mine)
    shape = (input_shape[-1], *input_shape[:-1])
    generator = torch.Generator().manual_seed(0)
    with one_thread(), torch.enable_grad(), seeded(0):
        trained, evaluated = (
            _traced(mine, train, torch.randn(examples, *shape, generator=generator))
            for train, examples in zip((True, False), EXAMPLES, strict=True)
        )
    growth = _walk(mine, input_shape, kind, _paired(trained, evaluated))
    if not growth.nodes:
        raise UserError(f"{kind} does nothing with its input: give a network with a layer")
    network = Network(growth.layers.items(), input_shape=input_shape, kind=kind, nodes=growth.nodes)
    kept = None if growth.ending or len(network.output_shape) > 1 else growth.last_activation()
    return network, growth.ending, "" if kept is None else kept[1]


def _check(module: nn.Module) -> None:
    """Raise for a module that is read wrongly, or not at all, whatever its `forward` is."""
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(f"{name} is TorchScript, whose code is not Python any more: give the module that was scripted")
    taken = inspect.signature(module.forward).parameters.values()
    needed = [p.name for p in taken if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1 or not taken:
        raise refusal(
            _definition(module),
            f"{name}.forward, which takes {len(needed) or 'no'} inputs,",
            "one image a call is read: join several along the channels before, or set the others in __init__",
        )
    lazy = [path for path, each in module.named_modules() if isinstance(each, nn.modules.lazy.LazyModuleMixin)]
    if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
        raise UserError(f"{lazy[0]} of {name} has no shape yet: call the module once on images before")
    for path, each in module.named_modules():
        if torch.nn.utils.parametrize.is_parametrized(each):
            raise UserError(
                f"{path or name} is parametrized (weight_norm, spectral_norm, …): remove that, "
                "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
            )
        makers = [type(hook).__name__ for hook in each._forward_pre_hooks.values()]
        remade = next((REMADE[maker] for maker in makers if maker in REMADE), None)
        if remade is not None:
            raise UserError(
                f"{path or name} makes its weight anew each time (torch.nn.utils.{remade}): remove that, "
                f"torch.nn.utils.remove_{remade}(layer)"
            )
        if each._forward_hooks or each._forward_pre_hooks:
            raise UserError(f"{path or name} has forward hooks, which a graph cannot show: remove them")
        if each._backward_hooks or each._backward_pre_hooks:
            raise UserError(f"{path or name} has backward hooks, which change how it learns: remove them")
    for path, parameter in module.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise UserError(
                f"{path} of {name} has a hook on its gradient, which changes how it learns: remove it; "
                "requires_grad=False, or frozen = [...] in the recipe, keeps what it is"
            )
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise UserError(f"{name} holds no numbers (device 'meta'): create it on 'cpu'")


def _definition(module: nn.Module) -> object:
    """Where a module's `forward` is written, if the user wrote it."""
    code = getattr(type(module).forward, "__code__", None)
    if code is None or is_pytorchs(module):
        return type(module).__name__
    return Line(code.co_filename, code.co_firstlineno)


def _traced(module: nn.Module, train: bool, example: torch.Tensor) -> list[fx.Node]:
    """The nodes of `forward` in a mode, which layers whose training differs must be in, too."""
    module.train(train)  # what it gives back may be the user's
    nodes = trace(module, example)
    for node in (node for node in nodes if node.op == "call_module"):
        layer, path = module.get_submodule(str(node.target)), str(node.target)
        if train and isinstance(layer, nn.modules.batchnorm._NormBase) and not layer.training:
            raise refusal(
                facts(node).line or type(module).__name__,
                f"{path}, which stays in evaluation mode while the module trains,",
                f"leave train() and eval() to PyTorch, and give frozen = [{path!r}] in the recipe",
            )
    return nodes


def _paired(trained: list[fx.Node], evaluated: list[fx.Node]) -> list[tuple[fx.Node, fx.Node]]:
    """Nodes of the two modes, which must do the same."""
    for first, second in zip(trained, evaluated, strict=False):
        if (first.op, _target(first)) != (second.op, _target(second)):
            held = facts(first) if first.op != "output" else facts(second)
            does = [f"does {operation_of(n)}" if n.op != "output" else "returns" for n in (first, second)]
            raise refusal(
                held.line or f"layer {held.path!r}",
                f"forward, which {does[0]} in training and {does[1]} in evaluation,",
                "return the scores in both: a softmax at the end is left off"
                if "returns" in does
                else "do the same in both; nn.Dropout and nn.BatchNorm2d know the mode themselves",
            )
    return list(zip(trained, evaluated, strict=True))  # both end in the one output


def _target(node: fx.Node) -> object:
    """What a node does; fx numbers the tensors that `forward` makes."""
    return CONSTANT if str(node.target).startswith(CONSTANT) else node.target


def _walk(module: nn.Module, input_shape: Shape, kind: str, nodes: list[tuple[fx.Node, fx.Node]]) -> Growth:
    taken = {name for name, _ in module.named_modules(remove_duplicate=False)} | set(module.state_dict())
    growth = Growth(kind, input_shape, taken)
    parameters = dict(module.named_parameters())
    values: dict[object, Any] = {}
    result = nodes[-1][0].args[0]
    last: Call | None = None
    for node, twin in nodes[:-1]:
        inner = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        call = Call(node, twin, inner)
        if node.op == "placeholder":
            values[node] = growth.entry() if not values else facts(node).value
        elif node.op == "get_attr" and str(node.target) in parameters:
            parameter = parameters[str(node.target)]
            values[node] = Loose(str(node.target), parameter, parameter)
        elif node.op == "get_attr":
            values[node] = _constant(call)
        else:
            values[node] = _carried_out(growth, call, values)
            into = node.args[0] if writes(node) and node.args else None
            if isinstance(into, fx.Node) and isinstance(values[into], torch.Tensor):
                values[into] = values[node]  # a constant is from here on what was written into it
        last = call if node is result else last
    held = values.get(result) if isinstance(result, fx.Node) else result
    if last is None or not isinstance(held, Held):
        raise refusal(
            _definition(module),
            f"{type(module).__name__}.forward, which gives {_words(held)},",
            "return the one tensor of scores, or of images, that is trained on",
        )
    plain = growth.plain(last, held) if held.shape else growth.with_base(last, held, ((),))
    growth.end_at(plain)
    return growth


def _words(value: Any) -> str:
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list, dict)) else "no tensor"


def _carried_out(growth: Growth, call: Call, values: dict[object, Any]) -> Any:
    args, kwargs = fx.node.map_arg((call.node.args, call.node.kwargs), lambda node: values[node])
    inputs = [values[node] for node in call.node.all_input_nodes]
    held = any(isinstance(value, Held) or _holds(value) for value in inputs)
    loose = next((value for value in inputs if isinstance(value, Loose)), None)
    if not held and loose is None:
        return _constant(call)
    if facts(call.node).stops_gradient:
        call.refuse(
            f"{call.words} under torch.no_grad()",
            "gradients flow through the whole network here; frozen = [...] in the recipe keeps layers as they are",
        )
    keeps = call.node.target in KEEPING and (args[0] if args else None) is loose
    if loose is not None and (keeps or not held):
        return _viewed(call, loose)
    result = carry_out(growth, call, args, kwargs)
    return _constant(call) if isinstance(result, torch.Tensor) else result


def _viewed(call: Call, loose: Loose) -> Loose:
    """A parameter in another shape, its numbers as they are."""
    value = facts(call.node).value
    if call.node.target not in KEEPING or value.numel() != loose.tensor.numel() or not value.is_floating_point():
        call.refuse(
            f"{call.words} on the parameter {loose.name!r}",
            "use parameters of a block as they are, or viewed as (C, 1, 1)",
        )
    return dataclasses.replace(loose, tensor=value)


def _holds(value: Any) -> bool:
    """Whether several values hold a tensor of the network, as those of `chunk` do."""
    return isinstance(value, (tuple, list)) and any(isinstance(each, Held) for each in value)


def _constant(call: Call) -> Any:
    """What does not depend on the input, if it is the same in both traces."""
    value, twin = facts(call.node).value, facts(call.twin).value
    if not isinstance(value, torch.Tensor):
        return value
    numbers = {*value.flatten().tolist(), *twin.flatten().tolist()}
    if not (value.shape == twin.shape and torch.equal(value, twin)) and len(numbers) > 1:
        call.refuse(
            f"{call.words}, a constant that is another one each time,",
            "make it in __init__ and keep it by register_buffer; dropout is what draws anew",
        )
    return value
