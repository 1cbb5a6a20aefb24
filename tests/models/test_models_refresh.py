"""A network of one's own is what its file holds now, and what Python holds where nobody touched the file."""

from __future__ import annotations

import sys

import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.models.registry import code_of

pytestmark = pytest.mark.quick

NETWORK = '''
"""Networks."""
import functools
import {name}_parts as parts

WIDTH = 3
SIZES = {{"narrow": (2, 3)}}

def grow(build, outputs, width):
    build.flatten("flat")
    for number, size in enumerate(SIZES["narrow"]):
        build.linear(f"hidden{{number}}", size)
    build.linear("wide", width)
    parts.end(build, outputs)

small = functools.partial(grow, width=WIDTH)
'''
PARTS = """
import logging

LOGGER = logging.getLogger("mine")
FILE = open(__file__)
FILE.close()

def end(build, outputs):
    LOGGER.debug("%s", FILE)
    build.linear("out", outputs)
"""


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """Writes two modules with a replacement, and gives the name of the network."""
    monkeypatch.syspath_prepend(tmp_path)
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)

    def write(old="", new=""):
        for module, source in ((name, NETWORK.format(name=name)), (f"{name}_parts", PARTS)):
            (tmp_path / f"{module}.py").write_text(source.replace(old, new) if old else source)
        return f"{name}:small"

    yield write
    for module in (name, f"{name}_parts"):
        sys.modules.pop(module, None)


def layers(name):
    model = fv.models.create(name, input_shape=(2, 2, 1), num_classes=2)
    return [layer.out_features for _, layer in model.named_layers() if hasattr(layer, "out_features")]


def test_a_file_changed_since_it_was_imported(package):
    name = package()
    assert layers(name) == [2, 3, 3, 2]
    package("WIDTH = 3", "WIDTH = 5")
    assert layers(name) == [2, 3, 5, 2]
    package('build.linear("out", outputs)', 'build.linear("out", outputs); build.activation("end", "tanh")')
    model = fv.models.create(name, input_shape=(2, 2, 1), num_classes=2)
    assert model.names[-1] == "end"
    package("def grow(", "def grow(:")
    with pytest.raises(UserError, match=rf"model '{name}' cannot be imported \(SyntaxError: .*\): give package.module"):
        layers(name)


def test_what_a_program_sets_in_a_module_is_kept(package):
    name = package()
    assert layers(name) == [2, 3, 3, 2]
    before = code_of(name)
    sys.modules[name.partition(":")[0]].SIZES = {"narrow": (4,)}
    assert layers(name) == [4, 3, 2]
    assert code_of(name) != before


@pytest.mark.parametrize(
    ("old", "new", "equal"),
    [
        ('"""Networks."""', '"""Networks of mine."""\n# and a comment\n', True),
        ("SIZES[", "SIZES [", True),
        ('    LOGGER.debug("%s", FILE)\n', "    # nothing to say\n    LOGGER.debug('%s', FILE)\n", True),
        ("WIDTH = 3", "WIDTH = 4", False),
        ("(2, 3)", "(2, 4)", False),
        ('"hidden{number}"', '"hidden.{number}"', False),
        ('build.linear("out", outputs)', 'build.linear("out", outputs + 0)', False),
    ],
)
def test_what_counts_as_the_code_of_a_network(package, old, new, equal):
    name = package()
    before = code_of(name)
    assert before
    assert code_of("mlp") is None
    package(old, new)
    fv.models.registry.refresh(name)
    assert (code_of(name) == before) == equal
