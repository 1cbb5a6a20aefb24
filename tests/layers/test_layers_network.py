"""Networks that are graphs: what a node takes, layers used twice, freezing, files, and the walk."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.layers import Add, Context, Flatten, Linear, Network, Node
from flaxvision.models import Build
from flaxvision.models.files import variables
from flaxvision.ops.policy import CPU_TRAINING

pytestmark = pytest.mark.quick


def residual(b: Build, outputs: int) -> None:
    """Blocks with a skip connection, a gate, branches and a shared layer."""
    b.conv("stem", 8, 3, padding=1, bias=False)
    skip = b.here()
    b.conv("layer1.0.conv1", 8, 3, padding=1, bias=False)
    b.batch_norm("layer1.0.bn1")
    b.activation("layer1.0.relu", "relu")
    b.again("layer1.0.conv1:2", "layer1.0.conv1")
    b.add("layer1.0.add", skip)
    block = b.here()
    b.global_avg_pool("se.pool")
    b.conv("se.fc", 8, 1)
    b.activation("se.sigmoid", "sigmoid")
    b.multiply("se.scale", block)
    gated = b.here()
    b.back_to(block)
    b.conv("branch", 4, 1)
    b.concat("cat", gated)
    b.max_pool("pool", 3, 2, padding=1)
    b.linear("fc", outputs)


def built(seed=0, **settings):
    b = Build("residual", (8, 8, 3), seed=seed, **settings)
    residual(b, 5)
    return b.network()


def reference(torch):
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            block = nn.Module()
            block.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
            block.bn1 = nn.BatchNorm2d(8)
            self.layer1 = nn.ModuleList([block])
            self.se = nn.ModuleDict({"fc": nn.Conv2d(8, 8, 1)})
            self.branch = nn.Conv2d(8, 4, 1)
            self.fc = nn.Linear(12 * 16, 5)

        def forward(self, x):
            skip = self.stem(x)
            block = self.layer1[0]
            x = block.conv1(block.bn1(block.conv1(skip)).relu()) + skip
            gated = x * self.se["fc"](x.mean((2, 3), keepdim=True)).sigmoid()
            x = torch.cat([self.branch(x), gated], 1)
            return self.fc(nn.functional.max_pool2d(x, 3, 2, 1).flatten(1))

    return Residual()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(0, 1, (6, 8, 8, 3)).astype(np.float32)


def test_a_residual_network_trains_as_pytorchs(torch, images):
    from flaxvision.models._state_dict import state_dict, whole_state_dict

    model, theirs = built(), reference(torch)
    weights = {name: torch.tensor(value) for name, value in whole_state_dict(model).items()}
    theirs.load_state_dict(weights, strict=True)
    theirs.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest):
        net = nnx.merge(graphdef, params, rest, copy=True)
        y = net(jnp.asarray(images), Context(train=True, key=jax.random.key(0), policy=CPU_TRAINING))
        return (y**2).sum(), (y, nnx.state(net, nnx.BatchStat))

    (_, (y, stats)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, rest)
    x = torch.tensor(images.transpose(0, 3, 1, 2))
    outputs = theirs(x)
    (outputs**2).sum().backward()
    np.testing.assert_allclose(y, outputs.detach(), atol=1e-5)
    nnx.update(model, grads)
    ours = state_dict(model)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(ours[name], parameter.grad, atol=2e-4 * float(parameter.grad.abs().max()))
    mean = jax.tree.leaves(stats)[0]
    np.testing.assert_allclose(mean, theirs.layer1[0].bn1.running_mean, atol=1e-6)


def test_it_comes_back_from_its_file_in_another_process(images, tmp_path):
    model = built()
    path = fv.save_model(model, tmp_path / "residual.safetensors")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, flaxvision as fv; m = fv.load_model(sys.argv[1]);"
        "np.save(sys.argv[3], m(np.load(sys.argv[2])))"
    )
    files = [str(path), str(tmp_path / "images.npy"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model(images), atol=1e-6)
    again = fv.load_model(path)
    assert (again.nodes, again.names) == (model.nodes, model.names)
    assert variables(again).keys() == variables(model).keys()


def test_the_walk_and_the_summary_tell_of_every_node():
    model = built()
    steps = {step.node.name: step for step in model.walk()}
    assert steps["cat"].inputs == ((8, 8, 4), (8, 8, 8))
    assert steps["cat"].output == (8, 8, 12)
    assert steps["pool"].output == (4, 4, 12)
    assert steps["layer1.0.conv1"].multiply_adds == 8 * 8 * 8 * 8 * 9
    assert steps["fc"].multiply_adds == 5 * 192
    assert model.output_shape == (5,)
    counted = fv.models.summary(model)
    assert counted.parameters == fv.models.count_parameters(model)  # a shared layer counts once
    printed = str(counted)
    assert "layer1.0.conv1, stem" not in printed
    line = next(line for line in printed.splitlines() if line.startswith("layer1.0.add"))
    assert line.split()[-2:] == ["layer1.0.conv1:2,", "stem"]
    line = next(line for line in printed.splitlines() if line.startswith("branch"))
    assert line.endswith("layer1.0.add")


def test_frozen_prefixes_hold_blocks_and_warm_starts_fill_them(make_dataset, tmp_path):
    data = make_dataset((8, 8, 3), 5, train=60, test=20)
    recipe = fv.Recipe(epochs=1, batch_size=20, frozen=("stem", "layer1", "se"))
    model = built()
    trained = fv.fit(model, data, recipe).model
    before, after = variables(model), variables(trained)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.split(".")[0] for name in moved} == {"branch", "fc"}
    path = fv.save_model(trained, tmp_path / "pretrained.safetensors")
    other = built(seed=7)
    recipe = fv.Recipe(epochs=1, batch_size=60, learning_rate=1e-9, warm_start=str(path), warm_start_only=("layer1",))
    warm = variables(fv.fit(other, data, recipe).model)
    np.testing.assert_allclose(warm["layer1.0.conv1.kernel"], after["layer1.0.conv1.kernel"], atol=1e-6)
    assert not np.allclose(warm["stem.kernel"], after["stem.kernel"])


@pytest.mark.parametrize("init", ["torch", "keras"])
def test_initialisations_know_groups(init):
    b = Build("grouped", (9, 9, 64), init=init)
    b.conv("grouped", 256, 3, groups=16)
    kernel = np.asarray(b.network().layers[0].kernel[...])
    assert kernel.shape == (3, 3, 4, 256)
    fan_in = 4 * 9
    bound = 1 / np.sqrt(fan_in) if init == "torch" else np.sqrt(6 / (fan_in + 9 * 256))
    assert 0.99 * bound < np.abs(kernel).max() <= bound


MISFITS = {
    "channels": (lambda b: b.add("sum", b.shallow), r"layer 'sum' takes values of one shape.*\(8, 8, 8\).*\(8, 8, 3\)"),
    "sides": (lambda b: (b.max_pool("p", 2), b.concat("cat", b.shallow)), "layer 'cat' takes maps that differ in"),
    "axes": (lambda b: (b.flatten("f"), b.add("sum", b.shallow)), "'sum' takes values of one number of axes"),
    "groups": (lambda b: b.conv("c", 8, 3, groups=3), "layer 'c' has groups=3: give a divisor of 8 and 8 channels"),
    "another network's": (lambda b: b.add("sum", Build("x", (8, 8, 3)).conv("y", 8, 1)), "'sum' takes .*handles of"),
    "not a handle": (lambda b: b.add("sum", "c1"), "'sum' takes 'c1': give handles of this network"),
    "no such layer": (lambda b: b.again("twice", "c9"), "has no layer 'c9' to apply again: it has c1"),
    "one value": (lambda b: b.add("sum"), "layer 'sum' takes two or more values, not 1"),
    "one too many": (lambda b: b.layer("c2", Flatten(), b.shallow), "layer 'c2' takes 1 values, not 2"),
}


@pytest.mark.parametrize("fault", MISFITS)
def test_a_misfit_names_the_node_and_both_shapes(fault):
    make, message = MISFITS[fault]
    b = Build("mine", (8, 8, 3))
    b.shallow = b.here()
    b.conv("c1", 8, 3, padding=1)
    with pytest.raises(UserError, match=message):
        make(b)


def test_the_container_is_closed_and_checks_its_nodes():
    with pytest.raises(TypeError, match="no subclasses"):
        type("Mine", (Network,), {})
    flat = [("a", Flatten()), ("b", Add())]
    for nodes, message in (
        ([Node("a", "c", (None,))], "applies 'c', which is not a layer"),
        ([Node("a", "a", (None,)), Node("a", "a", ("a",))], "two nodes are named 'a'"),
        ([Node("b", "b", (None, "a")), Node("a", "a", (None,))], "takes 'a', which no node before it gives"),
    ):
        with pytest.raises(UserError, match=message):
            Network(flat, input_shape=(2, 2, 1), nodes=nodes)


def test_a_chain_is_as_easy_as_ever():
    chain = fv.layers.Chain([("flat", Flatten()), ("fc", Linear(12, 3, rngs=nnx.Rngs(0)))], input_shape=(2, 2, 3))
    assert chain.is_chain
    assert [node.takes for node in chain.nodes] == [(None,), ("flat",)]
    assert "nodes" not in fv.models.files.describe_model(chain)
