"""`flaxvision models`: the networks of the package, and what any network is made of."""

from __future__ import annotations

import argparse
import inspect
import re

from flaxvision.cli.parser import Call, Parser, positive
from flaxvision.cli.text import paragraph

DESCRIPTION = """\
List the networks of the package with their arguments, or look at one: its layers, shapes, parameters and multiply-adds.
A network of your own is package.module:function, file.py:function or torch:file.py:Class."""
EXAMPLES = """\
{program}
{program} resnet20
{program} my_networks.py:small --input-shape 32x32x3 --classes 5 --set width=16"""
INDENT = 4


def add_options(parser: Parser) -> None:
    """What may be typed."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a network (default: list them)")
    add("--input-shape", metavar="HxWxC", type=_shape, help="shape of an example (default: its paper's or report's)")
    add("--classes", metavar="N", type=positive(int), help="how many outputs (default: its paper's or report's)")
    add("--set", metavar="KEY=V", nargs="+", action="extend", default=[], help="arguments of the network")


def run(options: argparse.Namespace, call: Call) -> int:
    """List networks, or summarize one."""
    if options.name is None:
        print("\n".join(_list()))
        return 0
    from flaxvision.models import create, summary
    from flaxvision.sweep.overrides import parse_setting

    arguments = {key: values[0] for key, values in map(parse_setting, options.set)}
    print(summary(create(options.name, input_shape=options.input_shape, num_classes=options.classes, **arguments)))
    return 0


def _list() -> list[str]:
    from flaxvision.models.registry import MODELS
    from flaxvision.sweep.spec import as_typed

    lines = []
    for name, (grow, shape, outputs) in MODELS.items():
        parameters = list(inspect.signature(grow).parameters.values())[2:]
        arguments = ", ".join(f"{each.name} = {as_typed(each.default)}" for each in parameters)
        about = (inspect.getdoc(grow) or "").partition("\n")[0]
        takes = f"{' x '.join(map(str, shape))}, {outputs} output{'s' * (outputs != 1)}"
        lines += [f"{name}  ({takes})", paragraph(about, INDENT)]
        lines += [paragraph(arguments, INDENT)] if arguments else []
    return lines


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){0,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape: give height, width and channels, such as 32x32x3")
    return tuple(map(int, text.split("x")))
