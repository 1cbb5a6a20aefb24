"""What `from_torch` cannot read: one line that has the user's line, the operation, and what would do instead."""

from __future__ import annotations

import linecache
import re

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import flaxvision as fv  # noqa: E402
from flaxvision import UserError  # noqa: E402

pytestmark = pytest.mark.quick

SHAPE = (8, 8, 3)


def network(forward, **parts):
    """A module whose `forward` is a function of the module and the images."""
    own = type("Own", (nn.Module,), {"forward": forward})()
    own.conv = nn.Conv2d(3, 4, 3)
    own.fc = nn.Linear(4, 10)
    for name, part in parts.items():
        setattr(own, name, part)
    return own


def scores(self, x):
    return self.fc(x.mean((2, 3)))


def branch(self, x):
    x = self.conv(x)
    if x.sum() > 0:  # HERE
        x = -x
    return scores(self, x)


def loop(self, x):
    x = self.conv(x)
    for _ in range(int(x.max())):  # HERE
        x = x / 2
    return scores(self, x)


def number(self, x):
    x = self.conv(x)
    return scores(self, x / x.max().item())  # HERE


def own_operation(self, x):
    x = self.conv(x)
    return scores(self, torch.sort(x, dim=1)[0])  # HERE


def method(self, x):
    return scores(self, self.conv(x).cumsum(1))  # HERE


def bicubic(self, x):
    x = F.interpolate(x, scale_factor=2, mode="bicubic")  # HERE
    return scores(self, self.conv(x))


def recurrent(self, x):
    x, _ = self.rnn(self.conv(x).flatten(2))  # HERE
    return self.fc(x[:, 0])


def two_values(self, x):
    x = self.conv(x)
    return scores(self, x), x


def quotient(self, x):
    x = self.conv(x)
    return scores(self, 1 / x)  # HERE


def stacked_examples(self, x):
    return scores(self, torch.stack([self.conv(x), self.conv(x)]).sum(0))  # HERE


def class_token(self, x):
    x = self.conv(x).flatten(2).transpose(1, 2)
    x = torch.cat([self.token.expand(x.size(0), -1, -1), x], dim=1)  # HERE
    return self.fc(x[:, 0])


def attention(self, x):
    x = self.conv(x).flatten(2)
    return self.fc((x @ x.transpose(1, 2)).mean(2))  # HERE


def mixes_examples(self, x):
    return self.fc(self.conv(x).mean((0, 2, 3)).expand(len(x), -1))  # HERE


def flattens_examples(self, x):
    return self.fc(self.conv(x).reshape(-1, 4))  # HERE


def always_drops(self, x):
    return scores(self, F.dropout(self.conv(x), 0.5))  # HERE


def one_mode(self, x):
    x = self.conv(x)
    if self.training:
        x = x * 2  # HERE
    return scores(self, F.relu(x))


def noise(self, x):
    return scores(self, self.conv(x) + torch.randn(4, 6, 6))  # HERE


def no_gradient(self, x):
    with torch.no_grad():
        x = F.relu(x)  # HERE
    return scores(self, self.conv(x))


def detached(self, x):
    return scores(self, self.conv(x).detach())  # HERE


def weighted_places(self, x):
    return scores(self, self.conv(x) * self.gamma)  # HERE


def unequal_average(self, x):
    return scores(self, F.adaptive_avg_pool2d(self.conv(x), 4))  # HERE


def parameter(self, x):
    return scores(self, self.conv(x) * self.gamma.exp())  # HERE


def closed_gate(self, x):
    return scores(self, self.conv(x) * torch.tanh(self.gamma))  # HERE


def scaled_weight(self, x):
    return scores(self, F.conv2d(x, self.conv.weight * self.gamma))  # HERE


def detached_parameter(self, x):
    return scores(self, self.conv(x) * self.gamma.detach())  # HERE


def expanded_parameter(self, x):
    x = self.conv(x)
    return scores(self, x * self.gamma.expand_as(x))  # HERE


def clipped_parameter(self, x):
    with torch.no_grad():
        self.gamma.clamp_(0, 1)  # HERE
    return scores(self, self.conv(x) * self.gamma)


def viewed_weight(self, x):
    return self.fc(F.linear(x[:, :, :3, :3].flatten(1), self.conv.weight.flatten(1), self.conv.bias))  # HERE


def three_axes(self, x):
    return self.fc(F.max_pool2d(x[:, 0], 4).flatten(1))  # HERE


def pooled_tokens(self, x):
    return self.fc(F.adaptive_avg_pool2d(self.conv(x).flatten(2), (4, 1)).flatten(1))  # HERE


def moved_axes(self, x):
    return self.fc(self.conv(x).movedim((2, 3), (1, 2)).mean((1, 2)))  # HERE


def transposed(self, x):
    return self.fc(self.conv(x).mT.mean((2, 3)))  # HERE


def scores_or_probabilities(self, x):
    x = scores(self, self.conv(x))
    if self.training:
        return x
    return F.softmax(x, 1)  # HERE


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def reversed_gradient(self, x):
    return scores(self, Reversed.apply(self.conv(x)))  # HERE


def functional_layer(self, x):
    return scores(self, F.conv2d(x, self.conv.weight, self.bias))  # HERE


def around(self, x):
    return scores(self, self.conv(F.pad(x, (1, 1, 1, 1), mode="circular")))  # HERE


def fails(self, x):
    return self.fc(self.conv(x).flatten(1))  # HERE


BY_LINE = {
    "a branch on data": (branch, {}, "a branch on what a tensor holds .*: decide by what __init__ is given"),
    "a loop on data": (loop, {}, "Python that needs a tensor's numbers .*compute with PyTorch's operations"),
    "a number": (number, {}, "Tensor.item, which takes the numbers out of a tensor, .*compute with PyTorch's"),
    "an operation": (own_operation, {}, "torch.sort cannot be read .*: write it with convolutions"),
    "a method": (method, {}, "Tensor.cumsum cannot be read"),
    "bicubic": (bicubic, {}, r"F.interpolate with mode='bicubic' from \(8, 8\) to \(16, 16\) .*mode='nearest'"),
    "recurrent": (recurrent, {"rnn": nn.LSTM(36, 4)}, "nn.LSTM cannot be read .*: recurrent layers are outside it"),
    "a number divided": (quotient, {}, "the operator truediv of a number by a tensor .*: divide a tensor by a tensor"),
    "examples stacked": (stacked_examples, {}, r"torch.stack along the examples \(dim=0\) .*: dim=1 stacks"),
    "a parameter joined": (
        class_token, {"token": nn.Parameter(torch.ones(1, 1, 4))},
        "Tensor.expand on the parameter 'token' .*: use parameters of a block as they are"),
    "attention": (attention, {}, "the operator @ cannot be read .*: a product, or a linear"),
    "a mean over examples": (mixes_examples, {}, "Tensor.mean over the examples .*: give the axes"),
    "examples flattened": (flattens_examples, {}, "Tensor.reshape to the shape .* from 3 examples .*: keep the"),
    "dropout in evaluation": (always_drops, {}, "F.dropout that drops in evaluation, too, .*: give training=self"),
    "one mode": (one_mode, {}, "forward, which does the operator mul in training and does F.relu in evaluation, "),
    "noise": (noise, {}, "a constant that is another one each time, .*: make it in __init__"),
    "no_grad": (no_gradient, {}, r"F.relu under torch.no_grad\(\) .*: gradients flow .*frozen = "),
    "detach": (detached, {}, "Tensor.detach cannot be read .*: gradients flow"),
    "a parameter a place": (
        weighted_places, {"gamma": nn.Parameter(torch.rand(4, 6, 6))},
        r"the operator mul of a tensor \('N', 4, 6, 6\) and numbers of the shape \(4, 6, 6\) .*: give one number"),
    "pools that do not divide": (unequal_average, {}, r"F.adaptive_avg_pool2d from \(6, 6\) to \(4, 4\) .*that divide"),
    "a function of a parameter": (
        parameter, {"gamma": nn.Parameter(torch.ones(4, 1, 1))}, "Tensor.exp on the parameter 'gamma'"),
    "a closed gate": (
        closed_gate, {"gamma": nn.Parameter(torch.zeros(1))}, "torch.tanh on the parameter 'gamma' .*: use parameters"),
    "a scaled weight": (
        scaled_weight, {"gamma": nn.Parameter(torch.ones(1))}, "the operator mul on the parameter 'conv.weight'"),
    "a detached parameter": (
        detached_parameter, {"gamma": nn.Parameter(torch.ones(1))}, "Tensor.detach on the parameter 'gamma'"),
    "an expanded parameter": (
        expanded_parameter, {"gamma": nn.Parameter(torch.ones(1, 4, 1, 1))}, "Tensor.expand_as on the parameter"),
    "a clipped parameter": (
        clipped_parameter, {"gamma": nn.Parameter(torch.ones(1))}, r"Tensor.clamp_ under torch.no_grad\(\)"),
    "a viewed weight": (viewed_weight, {}, "F.linear with a view of conv.weight .*: use the layer as it is"),
    "three axes": (three_axes, {}, r"F.max_pool2d on a tensor of 3 axes \('N', 8, 8\) .*: give it one of 4 axes"),
    "tokens": (pooled_tokens, {}, r"F.adaptive_avg_pool2d on a tensor of 3 axes \('N', 4, 36\)"),
    "axes moved": (moved_axes, {}, r"Tensor.movedim with these arguments \(TypeError: .*: write it with"),
    "transposed": (transposed, {}, "Tensor.mT cannot be read"),
    "probabilities in evaluation": (
        scores_or_probabilities, {},
        "forward, which returns in training and does F.softmax in evaluation, .*: return the scores in both"),
    "a gradient of its own": (
        reversed_gradient, {}, "the autograd.Function Reversed, whose gradient is code of its own, .*: compute with"),
    "a layer as a function": (
        functional_layer, {"bias": nn.Parameter(torch.zeros(4))},
        "F.conv2d with tensors that are no layer's weight and bias .*: use the layer, nn.Conv2d"),
    "round": (around, {}, "F.pad with mode='circular' .*: mode='constant', 'reflect'"),
}  # fmt: skip


def marked(function) -> int:
    """The line of a function that is marked."""
    start = function.__code__.co_firstlineno
    return next(n for n in range(start, start + 9) if "# HERE" in linecache.getline(__file__, n))


@pytest.mark.parametrize("case", BY_LINE)
def test_the_line_the_operation_and_what_would_do_are_named(case):
    forward, parts, words = BY_LINE[case]
    with pytest.raises(UserError, match=words) as caught:
        fv.models.from_torch(network(forward, **parts), SHAPE)
    message = str(caught.value)
    assert re.match(rf"\S*test_from_torch_refused\.py, line {marked(forward)}: ", message)
    assert "\n" not in message


LAYERS = {
    "statistics": (nn.BatchNorm2d(3, track_running_stats=False), "nn.BatchNorm2d without running statistics"),
    "average": (nn.BatchNorm2d(3, momentum=None), "running statistics, or with their plain average"),
    "whole maps": (nn.LayerNorm([3, 8, 8]), r"nn.LayerNorm over 3 axes .*: nn.GroupNorm\(1, channels\)"),
    "circular": (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), "nn.Conv2d with padding_mode='circular'"),
    "groups": (nn.ConvTranspose2d(3, 3, 2, groups=3), "nn.ConvTranspose2d with groups or dilation"),
    "instances": (nn.InstanceNorm2d(3, track_running_stats=True), "nn.InstanceNorm2d with running statistics"),
    "responses": (nn.LocalResponseNorm(3), "cannot be read"),
    "indices": (nn.MaxPool2d(2, dilation=2), "F.max_pool2d with dilation"),
    "embedding": (nn.Embedding(3, 3), "fails on an example"),
    "one axis": (nn.Conv1d(3, 3, 3), "fails on an example|images only"),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_settings_of_layers_are_named(case):
    layer, words = LAYERS[case]
    with pytest.raises(UserError, match=words) as caught:
        fv.models.from_torch(nn.Sequential(layer, nn.Flatten()), SHAPE)
    assert "\n" not in str(caught.value)


def hooked():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    module[1].register_forward_hook(lambda module, args, out: out * 2)
    return module


class TwoInputs(nn.Module):
    def forward(self, x, mask):
        return x * mask


def tied():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192))
    module[2].weight = module[1].weight
    return module


MODULES = {
    "two inputs": (TwoInputs, r"refused.py, line \d+: TwoInputs.forward, which takes 2 inputs, .*: one image"),
    "two outputs": (lambda: network(two_values), "Own.forward, which gives a tuple of 2, .*: return the one tensor"),
    "hooks": (hooked, "1 has forward hooks, which a graph cannot show"),
    "weights made anew": (
        lambda: nn.Sequential(nn.Flatten(), nn.utils.spectral_norm(nn.Linear(192, 10))),
        r"1 makes its weight anew each time \(torch.nn.utils.spectral_norm\): .*remove_spectral_norm\(layer\)"),
    "parametrized": (
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 10))),
        "1 is parametrized .*remove_parametrizations"),
    "scripted": (lambda: torch.jit.script(nn.Linear(3, 3)), "is TorchScript"),
    "meta": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10, device="meta")), "holds no numbers .*on 'cpu'"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "1 of Sequential has no shape yet: call the"),
    "tied": (tied, "1.weight and 2.weight of Sequential are one tensor"),
    "shapes": (lambda: network(fails), r"line \d+: Own fails on an example \(RuntimeError: mat1 and .*input_shape"),
    "nothing": (nn.Identity, "does nothing with its input"),
    "a state_dict": (lambda: {"weight": torch.ones(3)}, r"got a dict: give a torch.nn.Module; .*export.from_torch\("),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("case", MODULES)
def test_modules_are_refused_in_one_line(case):
    make, words = MODULES[case]
    with pytest.raises(UserError, match=words) as caught:
        fv.models.from_torch(make(), SHAPE)
    assert "\n" not in str(caught.value)


class Shifted(nn.Conv2d):
    """A convolution that torch.fx takes for PyTorch's own."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight, bias) + 1e-3


def test_a_difference_from_the_module_is_an_error():
    module = nn.Sequential(Shifted(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(UserError, match=r"Sequential in evaluation mode: the outputs of the network .* differ .* by"):
        fv.models.from_torch(module, SHAPE)


def test_arguments_are_checked():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with pytest.raises(UserError, match=r"unknown init 'flax'.*module, torch"):
        fv.models.from_torch(module, SHAPE, init="flax")
    with pytest.raises(UserError, match=r"input_shape is \(8, 8\): give \(H, W, C\)"):
        fv.models.from_torch(module, (8, 8))
