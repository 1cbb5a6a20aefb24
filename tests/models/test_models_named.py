"""The networks that the field knows by name: published counts, torchvision's names, the papers' initializations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flax import nnx

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.layers import BatchNorm, Conv, Linear
from flaxvision.models._state_dict import correspondence
from flaxvision.models.build import Build
from flaxvision.models.registry import MODELS
from flaxvision.sweep.parse import parse_spec
from flaxvision.training.state import split_model
from tests.conftest import slow

pytestmark = pytest.mark.quick

IMAGENET = {"input_shape": (224, 224, 3), "num_classes": 1000}
PUBLISHED = [  # call, arguments, parameters
    # torchvision's documentation of its weights
    ("resnet18", {}, 11_689_512),
    ("resnet34", {}, 21_797_672),
    ("resnet50", {}, 25_557_032),
    ("vgg11", {}, 132_863_336),
    ("vgg11", {"batch_norm": True}, 132_868_840),
    ("vgg13", {}, 133_047_848),
    ("vgg13", {"batch_norm": True}, 133_053_736),
    ("vgg16", {}, 138_357_544),
    ("vgg16", {"batch_norm": True}, 138_365_992),
    ("mobilenet_v2", {}, 3_504_872),
    ("densenet", {"depth": 121, "growth": 32, "stem": "imagenet", **IMAGENET}, 7_978_856),
    ("densenet", {"depth": 161, "growth": 48, "stem": "imagenet", **IMAGENET}, 28_681_000),
    ("densenet", {"depth": 169, "growth": 32, "stem": "imagenet", **IMAGENET}, 14_149_480),
    ("densenet", {"depth": 201, "growth": 32, "stem": "imagenet", **IMAGENET}, 20_013_928),
    # papers, which give two or three digits
    ("resnet20", {}, "0.27M"),
    ("resnet32", {}, "0.46M"),
    ("resnet44", {}, "0.66M"),
    ("resnet56", {}, "0.85M"),
    ("wide_resnet", {}, "36.5M"),
    ("wide_resnet", {"depth": 16, "width": 4}, "2.7M"),
    ("wide_resnet", {"depth": 16, "width": 8}, "11.0M"),
    ("wide_resnet", {"depth": 22, "width": 8}, "17.2M"),
    ("wide_resnet", {"depth": 40, "width": 4}, "8.9M"),
    ("densenet", {}, "0.8M"),
    ("densenet", {"depth": 250, "growth": 24}, "15.3M"),
    ("densenet", {"depth": 190, "growth": 40}, "25.6M"),
    ("densenet", {"depth": 40, "bottleneck": False}, "1.0M"),
    ("densenet", {"bottleneck": False}, "7.0M"),
    ("densenet", {"growth": 24, "bottleneck": False}, "27.2M"),
    ("convmixer", {"width": 1536, "depth": 20, "kernel": 9, "patch": 7, **IMAGENET}, "51.6M"),
    ("convmixer", {"width": 768, "depth": 32, "kernel": 7, "patch": 7, **IMAGENET}, "21.1M"),
    ("airbench94", {}, "1.97M"),
    ("resnet9", {}, "6.57M"),
    # what the authors' or the usual code has
    ("resnet20", {"shortcut": "B"}, 272_474),
    ("preact_resnet18", {}, 11_172_170),
    ("convmixer", {}, 594_186),
    # by hand: (25 + 1) 6 + (25 * 6 + 1) 16 + (400 + 1) 120 + (120 + 1) 84 + (84 + 1) 10
    ("lenet5", {}, 61_706),
]


def abstract(name, **arguments):
    """The network without drawing its parameters."""
    return nnx.eval_shape(lambda: fv.models.create(name, **arguments))


def long(name, arguments):
    """Whether it takes seconds to build."""
    return name == "densenet" and arguments.get("depth", 0) > 121


@pytest.mark.parametrize(
    ("name", "arguments", "published"),
    [slow(*row) if long(*row[:2]) else row for row in PUBLISHED],
    ids=lambda value: str(value)[:40],
)
def test_parameter_counts_are_the_published_ones(name, arguments, published):
    model = abstract(name, **arguments)
    count = fv.models.count_parameters(model)
    if isinstance(published, str):
        digits = len(published.partition(".")[2]) - 1
        assert f"{count / 1e6:.{digits}f}M" == published
    else:
        assert count == published
    assert model.output_shape == (arguments.get("num_classes", MODELS[name][2]),)


# torchvision's names in the order of its state_dicts, without num_batches_tracked.


def weight(name):
    return [f"{name}.weight"]


def linear(name):
    return [f"{name}.weight", f"{name}.bias"]


def norm(name):
    return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]


def resnet(blocks, convolutions):
    names = weight("conv1") + norm("bn1")
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            for number in range(1, convolutions + 1):
                names += weight(f"{at}.conv{number}") + norm(f"{at}.bn{number}")
            if block == 0 and (stage > 1 or convolutions == 3):
                names += weight(f"{at}.downsample.0") + norm(f"{at}.downsample.1")
    return names + linear("fc")


def vgg(convolutions, norms=()):
    names = []
    for position in convolutions:
        names += linear(f"features.{position}") + (norm(f"features.{position + 1}") if norms else [])
    return names + [name for position in (0, 3, 6) for name in linear(f"classifier.{position}")]


def mobilenet():
    names = weight("features.0.0") + norm("features.0.1")
    names += weight("features.1.conv.0.0") + norm("features.1.conv.0.1")
    names += weight("features.1.conv.1") + norm("features.1.conv.2")
    for block in range(2, 18):
        for part in ("0", "1"):
            names += weight(f"features.{block}.conv.{part}.0") + norm(f"features.{block}.conv.{part}.1")
        names += weight(f"features.{block}.conv.2") + norm(f"features.{block}.conv.3")
    return names + weight("features.18.0") + norm("features.18.1") + linear("classifier.1")


def densenet121():
    names = weight("features.conv0") + norm("features.norm0")
    for block, layers in enumerate((6, 12, 24, 16), 1):
        for layer in range(1, layers + 1):
            at = f"features.denseblock{block}.denselayer{layer}"
            names += norm(f"{at}.norm1") + weight(f"{at}.conv1") + norm(f"{at}.norm2") + weight(f"{at}.conv2")
        if block < 4:
            names += norm(f"features.transition{block}.norm") + weight(f"features.transition{block}.conv")
    return names + norm("features.norm5") + linear("classifier")


@pytest.mark.parametrize(
    ("name", "arguments", "names"),
    [
        ("resnet18", {}, resnet((2, 2, 2, 2), 2)),
        ("resnet34", {}, resnet((3, 4, 6, 3), 2)),
        ("resnet50", {}, resnet((3, 4, 6, 3), 3)),
        ("vgg11", {}, vgg((0, 3, 6, 8, 11, 13, 16, 18))),
        ("vgg11", {"batch_norm": True}, vgg((0, 4, 8, 11, 15, 18, 22, 25), norms=True)),
        ("vgg13", {}, vgg((0, 2, 5, 7, 10, 12, 15, 17, 20, 22))),
        ("vgg16", {}, vgg((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))),
        ("vgg16", {"batch_norm": True}, vgg((0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40), norms=True)),
        ("mobilenet_v2", {}, mobilenet()),
        ("densenet", {"depth": 121, "growth": 32, "stem": "imagenet", **IMAGENET}, densenet121()),
    ],
    ids=lambda value: str(value)[:20],
)
def test_names_are_torchvisions(name, arguments, names):
    assert [pair.name for pair in correspondence(abstract(name, **arguments))] == names


def test_multiply_adds_are_torchvisions():
    """Its documentation lists them in 1e9, of convolutions and linear layers."""
    published = {"resnet18": 1.81, "resnet50": 4.09, "vgg11": 7.61, "vgg16": 15.47, "mobilenet_v2": 0.3}
    counted = {name: fv.models.summary(abstract(name)).multiply_adds / 1e9 for name in published}
    assert counted == pytest.approx(published, abs=0.006)


def deviations(model, kind):
    """The standard deviation of each kernel of a kind over what 1 / sqrt(fan-in) gives, and the fans."""
    layers = [layer for _, layer in model.named_layers() if isinstance(layer, kind)]
    return [(float(np.std(layer.kernel[...])), layer.kernel.shape) for layer in layers]


@pytest.mark.slow
def test_residual_networks_are_drawn_as_in_torchvision():
    model = fv.models.create("resnet18", input_shape=(32, 32, 3), num_classes=100, width=16)
    for deviation, (height, width, _, outputs) in deviations(model, Conv):
        assert deviation == pytest.approx(math.sqrt(2 / (height * width * outputs)), rel=0.1)
    (_, linear), *_ = [(n, layer) for n, layer in model.named_layers() if isinstance(layer, Linear)]
    bound = 1 / math.sqrt(linear.in_features)
    for values in (linear.kernel[...], linear.bias[...]):
        assert 0.9 * bound < np.abs(values).max() <= bound
    for _, layer in model.named_layers():
        if isinstance(layer, BatchNorm):
            assert np.all(layer.scale[...] == 1)
            assert np.all(layer.bias[...] == 0)


@pytest.mark.slow
def test_vgg_is_drawn_as_in_torchvision():
    model = fv.models.create("vgg11", input_shape=(32, 32, 3), num_classes=10, pooled=1, hidden=(512,))
    for deviation, (_, _, _, outputs) in deviations(model, Conv):
        assert deviation == pytest.approx(math.sqrt(2 / (9 * outputs)), rel=0.1)
    for deviation, _ in deviations(model, Linear):
        assert deviation == pytest.approx(0.01, rel=0.05)
    for _, layer in model.named_layers():
        if isinstance(layer, (Conv, Linear)):
            assert np.all(layer.bias[...] == 0)


@pytest.mark.slow
def test_densenet_is_drawn_by_the_fan_in():
    model = fv.models.create("densenet", depth=16, growth=12)
    for deviation, (height, width, inputs, _) in deviations(model, Conv):
        assert deviation == pytest.approx(math.sqrt(2 / (height * width * inputs)), rel=0.1)


def test_lenet_is_drawn_as_its_paper_says():
    model = fv.models.create("lenet5")
    for _, layer in model.named_layers():
        if isinstance(layer, (Conv, Linear)):
            bound = 2.4 / math.prod(layer.kernel.shape[:-1])
            assert 0.85 * bound < np.abs(layer.kernel[...]).max() <= bound * (1 + 1e-6)


def test_convolutions_of_airbench94_begin_as_the_identity():
    layers = dict(fv.models.create("airbench94", width=4).named_layers())
    kernel = np.asarray(layers["3.conv1"].kernel[...])  # 4 channels to 16
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(layers["3.conv1"](x)[..., :4], x, rtol=1e-6)
    bound = 1 / math.sqrt(9 * 4)  # PyTorch's default
    assert 0.9 * bound < np.abs(kernel[..., 4:]).max() <= bound
    narrowing = np.asarray(layers["2.conv1"].kernel[...])  # 24 channels to 4
    assert narrowing.sum() == 4
    assert (layers["3.norm2"].momentum, layers["3.norm2"].epsilon) == (0.6, 1e-12)


@pytest.mark.parametrize("init", ["flax", slow("torch"), slow("keras")])
def test_a_framework_may_draw_instead(init):
    model = fv.models.create("resnet20", input_shape=(8, 8, 3), init=init)
    (first, shape), *_ = deviations(model, Conv)
    fan_in, fan_out = 27, 9 * 16
    variance = {"flax": 1 / fan_in, "torch": 1 / (3 * fan_in), "keras": 2 / (fan_in + fan_out)}[init]
    assert shape == (3, 3, 3, 16)
    assert first == pytest.approx(math.sqrt(variance), rel=0.1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet18", {"stem": "cifra"}, "unknown stem 'cifra': did you mean 'cifar'"),
        ("resnet18", {"width": 0}, "width is 0: give a whole number, 1 or more"),
        ("resnet20", {"shortcut": "C"}, "unknown shortcut 'C'"),
        ("resnet20", {"depth": 20}, "unknown size of resnet20 'depth'"),
        ("wide_resnet", {"depth": 27}, "depth is 27: give 4 and a multiple of 6, such as 10, 16, 22"),
        ("densenet", {"depth": 41, "bottleneck": False}, "depth is 41: give 4 and a multiple of 3"),
        ("densenet", {"stem": "imagenet"}, 'depth is 100, but stem "imagenet" has bottlenecks and a depth of 121, 161'),
        ("densenet", {"stem": "imagenet", "depth": 121, "bottleneck": False}, "bottleneck is false, but stem"),
        ("densenet", {"growth": 1.5}, "growth is 1.5"),
        ("mobilenet_v2", {"width_factor": -1}, "width_factor is -1: give a number above 0"),
        ("vgg11", {"hidden": 4}, "hidden is 4: give a list of widths"),
        ("vgg11", {"input_shape": (96, 96, 3), "pooled": 2}, "layer 'avgpool' pools a map of 3 x 3 to 2 x 2"),
        ("vgg16", {"input_shape": (28, 28, 3)}, r"would turn a map of \(1, 1, 512\) into"),
        ("vgg16", {"batch_norm": 1}, "batch_norm is 1: give true or false"),
        ("lenet5", {"activation": "relus"}, "did you mean 'relu'"),
        ("lenet5", {"input_shape": (2,)}, r"does not fit examples of shape \(2,\)"),
        ("convmixer", {"patch": 40}, "use larger images or a smaller network"),
        ("resnet9", {"input_shape": (4, 4, 3)}, "use larger images or a smaller network"),
    ],
)
def test_a_mistake_is_one_helpful_line(name, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        abstract(name, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [1, 2, 3, 6, 12, 24])
def test_adaptive_pools_are_pytorchs(side):
    torch = pytest.importorskip("torch")
    build = Build("pool", (6, 12, 2))
    build.affine("start")
    build.adaptive_avg_pool("pool", side)
    x = np.random.default_rng(side).standard_normal((2, 6, 12, 2)).astype(np.float32)
    theirs = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), side)
    np.testing.assert_allclose(build.network()(x), theirs.numpy().transpose(0, 2, 3, 1), rtol=1e-6)


def test_single_variables_of_airbench94_may_be_frozen():
    model = abstract("airbench94", width=4)
    _, params, _, others = split_model(model, ("0.kernel", "2.norm1.scale"))
    names = model.parameter_names()
    learning = {names[path] for path, _ in nnx.to_flat_state(params)}
    assert {names[path] for path, _ in nnx.to_flat_state(others)} == {"0.kernel", "2.norm1.scale"}
    assert {"0.bias", "2.norm1.bias", "2.norm2.scale", "7.kernel"} < learning


def test_every_argument_can_stand_in_toml():
    table = {"name": "named", "dataset": "glyphs", "model": "resnet18", "sizes": {"stem": "cifar", "width": 32}}
    spec = parse_spec({**table, "grid": {"model": ["resnet18", "resnet50"], "width": [16, 32]}})
    assert [axis.key for axis in spec.axes] == ["model", "width"]
    for sizes in ({"shortcut": "B"}, {"growth": 12, "bottleneck": False}, {"pooled": 1}, {"width_factor": 0.5}):
        assert parse_spec({**table, "sizes": sizes}).base.items() >= sizes.items()


@pytest.mark.slow
def test_airbench94_learns_with_its_first_layer_frozen(make_dataset):
    data = make_dataset((16, 16, 1), 4, train=256, test=64)
    model = fv.models.create("airbench94", input_shape=(16, 16, 1), num_classes=4, width=8)
    recipe = fv.Recipe(optimizer="adam", learning_rate=0.03, batch_size=32, epochs=4, frozen=("0.kernel",))
    result = fv.fit(model, data, recipe)
    assert result.history["train_loss"][-1] < 0.7 * result.history["train_loss"][0]
    before, after = (dict(each.named_layers())["0"] for each in (model, result.model))
    np.testing.assert_array_equal(before.kernel[...], after.kernel[...])
    assert np.any(before.bias[...] != after.bias[...])
