"""PyTorch modules as they are drawn, written as code: the vocabulary in the ways in which people write it."""

from __future__ import annotations

import numpy as np

HEAD = '''"""Drawn with seed {seed}."""

import torch
import torch.nn.functional as F
from torch import nn


class Drawn(nn.Module):
    def __init__(self):
        super().__init__()
'''
ACTIVATIONS = (
    *(
        "x = F.relu(x)",
        "x = x.relu()",
        "x = torch.tanh(x)",
        "x = F.silu(x)",
        "x = F.gelu(x)",
        "x = F.leaky_relu(x, 0.2)",
    ),
    *(
        "x = torch.sigmoid(x)",
        "x = x * torch.sigmoid(x)",
        "x = F.elu(x, alpha=0.7)",
        "x = F.hardswish(x)",
        "x = F.mish(x)",
    ),
    *(
        "x = F.relu6(x)",
        "x = x.clamp(min=0)",
        "x = torch.clamp(x, -0.5, 1.5)",
        "x = F.softplus(x)",
        "x = F.hardtanh(x)",
    ),
    *("x = torch.relu(x)", "x = F.relu(x, inplace=True)", "x = F.gelu(x, approximate='tanh')", "x = F.hardsigmoid(x)"),
)
LAYERS = (
    *("nn.ReLU()", "nn.ReLU(inplace=True)", "nn.GELU()", "nn.SiLU()", "nn.Tanh()", "nn.LeakyReLU(0.1)", "nn.ELU()"),
    *(
        "nn.Hardswish()",
        "nn.PReLU()",
        "nn.Mish()",
        "nn.ReLU6()",
        "nn.Identity()",
        "nn.Softplus(beta=2)",
        "nn.Sigmoid()",
    ),
)
ARITHMETIC = (
    "x = 2 * x - 1",
    "x = 1 - x",
    "x = x / 3 + 0.5",
    "x = -x",
    "x = x ** 2",
    "x = x.mul(0.5).add(1)",
    "x *= 0.5",
)


class _Writer:
    """A module under construction; `shape` is that of the value `x`, (C, H, W) or (D,)."""

    def __init__(self, random: np.random.Generator, shape: tuple[int, ...]):
        self.random = random
        self.shape = shape
        self.init: list[str] = []
        self.forward: list[str] = []

    def either(self, *options):
        return options[self.random.integers(len(options))]

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def layer(self, code: str) -> str:
        """A layer of the module, and how `forward` names it."""
        name = f"{self.either('conv', 'layer', 'block')}{len(self.init)}"
        self.init.append(f"self.{name} = {code}")
        return f"self.{name}"

    def say(self, code: str) -> None:
        self.forward.append(code)

    def conv_code(self, inputs: int, outputs: int, kernel: int = 3) -> str:
        """A convolution that keeps the map, alone or in a Sequential with the norm and activation that follow."""
        groups = self.either(1, 1, *(g for g in (2, inputs) if inputs % g == 0 and outputs % g == 0))
        dilation = self.either(1, 1, 2)
        padding = self.either(f"padding={dilation * (kernel - 1) // 2}", "padding='same'")
        bias = self.either("", ", bias=False")
        conv = f"nn.Conv2d({inputs}, {outputs}, {kernel}, dilation={dilation}, {padding}, groups={groups}{bias})"
        if self.chance(0.5):
            return conv
        return f"nn.Sequential({conv}, {self.norm_code(outputs)}, {self.either(*LAYERS)})"

    def norm_code(self, channels: int) -> str:
        groups = self.either(
            *(g for g in range(1, channels + 1) if channels % g == 0 and (g < channels or channels == 1))
        )
        return self.either(
            f"nn.BatchNorm2d({channels})",
            f"nn.BatchNorm2d({channels}, eps=1e-3, momentum=0.3)",
            f"nn.GroupNorm({groups}, {channels})",
            f"nn.BatchNorm2d({channels}, affine=False)",
            f"nn.GroupNorm({groups}, {channels}, affine=False)",
        )

    # Blocks on maps.

    def conv(self) -> None:
        width = int(self.random.choice([2, 4, 6]))
        self.say(f"x = {self.layer(self.conv_code(self.shape[0], width))}(x)")
        self.shape = (width, *self.shape[1:])

    def strided(self) -> None:
        channels, height, width = self.shape
        if min(height, width) < 4:
            return self.conv()
        kernel, pad = self.either((3, 1), (2, 0), (1, 0), (5, 2))
        self.say(f"x = {self.layer(f'nn.Conv2d({channels}, 4, {kernel}, stride=2, padding={pad})')}(x)")
        self.shape = (4, *((side + 2 * pad - kernel) // 2 + 1 for side in (height, width)))
        return None

    def transposed(self) -> None:
        channels, height, width = self.shape
        if max(height, width) > 8:
            return self.conv()
        kernel, pad, more = self.either((2, 0, 0), (3, 1, 1), (4, 1, 0))
        code = f"nn.ConvTranspose2d({channels}, 4, {kernel}, stride=2, padding={pad}, output_padding={more})"
        self.say(f"x = {self.layer(code)}(x)")
        self.shape = (4, 2 * height, 2 * width)
        return None

    def activation(self) -> None:
        self.say(self.either(*ACTIVATIONS) if self.chance(0.5) else f"x = {self.layer(self.either(*LAYERS))}(x)")

    def norm(self) -> None:
        channels = self.shape[0]
        if self.chance(0.3):
            norm = self.layer(f"nn.LayerNorm({channels}, eps=1e-6)")
            self.say(f"x = {norm}(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)")
        else:
            self.say(f"x = {self.layer(self.norm_code(channels))}(x)")

    def arithmetic(self) -> None:
        self.say(self.either(*ARITHMETIC))

    def parameter(self) -> None:
        channels = self.shape[0]
        name = f"gamma{len(self.init)}"
        self.init.append(
            f"self.{name} = nn.Parameter(torch.rand({self.either(f'{channels}, 1, 1', f'1, {channels}, 1, 1')}))"
        )
        self.say(self.either(f"x = x * self.{name}", f"x = self.{name} * x", f"x = x + self.{name}"))

    def buffer(self) -> None:
        name = f"mean{len(self.init)}"
        self.init.append(f"self.register_buffer('{name}', torch.arange({self.shape[0]}.0).view(-1, 1, 1))")
        self.say(self.either(f"x = x - self.{name}", f"x = x / (self.{name} + 1)"))

    def dropout(self) -> None:
        self.say(
            self.either("x = F.dropout(x, 0.3, training=self.training)", f"x = {self.layer('nn.Dropout2d(0.2)')}(x)")
        )

    def pool(self) -> None:
        channels, height, width = self.shape
        if min(height, width) < 4:
            return self.activation()
        code, side = self.either(
            ("F.max_pool2d(x, 2)", lambda n: n // 2),
            ("F.avg_pool2d(x, 2)", lambda n: n // 2),
            ("F.max_pool2d(x, 3, 2, 1)", lambda n: (n - 1) // 2 + 1),
            ("F.max_pool2d(x, 3, stride=2, ceil_mode=True)", lambda n: -(-(n - 3) // 2) + 1),
            ("F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)", lambda n: n),
            (f"{self.layer('nn.MaxPool2d(2, 1)')}(x)", lambda n: n - 1),
            (f"{self.layer('nn.AvgPool2d(3, 2, padding=1)')}(x)", lambda n: (n - 1) // 2 + 1),
        )
        self.say(f"x = {code}")
        self.shape = (channels, side(height), side(width))
        return None

    def upsample(self) -> None:
        channels, height, width = self.shape
        if max(height, width) > 8:
            return self.pool()
        up = self.either("x = F.interpolate(x, scale_factor=2)", f"x = {self.layer('nn.Upsample(scale_factor=2)')}(x)")
        self.say(up)
        self.shape = (channels, 2 * height, 2 * width)
        return None

    def resized(self) -> None:
        channels, _, width = self.shape
        side = int(self.random.integers(3, 11))
        corners = self.either("", ", align_corners=False", ", align_corners=True")
        upsample = self.layer(f"nn.Upsample({side}, mode='bilinear'{corners})")
        code, self.shape = self.either(
            (f"F.interpolate(x, size=({side}, {width}), mode='bilinear'{corners})", (channels, side, width)),
            (f"{upsample}(x)", (channels, side, side)),
        )
        self.say(f"x = {code}")

    def joined(self) -> None:
        """Maps put together along height or width, or along a new axis."""
        channels, height, width = self.shape
        code, self.shape = self.either(
            ("torch.cat([x, -x], dim=2)", (channels, 2 * height, width)),
            ("torch.cat((x, torch.tanh(x)), -1)", (channels, height, 2 * width)),
            ("torch.stack([x, x.mean((2, 3), keepdim=True) * x], 2).flatten(1, 2)", (2 * channels, height, width)),
            ("torch.stack((x, F.relu(x)), dim=-1).amax(-1)", (channels, height, width)),
        )
        self.say(f"x = {code}")

    def quotient(self) -> None:
        forms = "x = x / (1 + x.square())", "x = x / (1.5 + torch.tanh(x.mean((2, 3), keepdim=True)))"
        self.say(self.either(*forms))

    def edge(self) -> None:
        channels, height, width = self.shape
        code, more = self.either(
            ("F.pad(x, (1, 0, 2, 1))", (0, 3, 1)),
            ("F.pad(x, (0, 0, 0, 0, 1, 1))", (2, 0, 0)),
            (f"{self.layer('nn.ZeroPad2d(1)')}(x)", (0, 2, 2)),
            (
                "x[:, :, 1:, :-1]" if min(height, width) > 2 else "x",
                (0, -1, -1) if min(height, width) > 2 else (0, 0, 0),
            ),
        )
        self.say(f"x = {code}")
        self.shape = (channels + more[0], height + more[1], width + more[2])

    def shuffle(self) -> None:
        channels, height, width = self.shape
        if channels % 2 == 0 and self.chance(0.6):
            self.say("n, c, h, w = x.shape")
            self.say("x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)")
        elif height % 2 == 0 and width % 2 == 0:
            self.say("x = F.pixel_unshuffle(x, 2)")
            self.shape = (4 * channels, height // 2, width // 2)

    # Blocks that branch.

    def residual(self) -> None:
        channels = self.shape[0]
        code = self.layer(self.conv_code(channels, channels))
        forms = (
            "x = x + {0}(x)",
            "y = {0}(x); y += x; x = y",
            "x = torch.add(x, {0}(x))",
            "x = x - {0}(x)",
            "x = x + 0.5 * {0}(x)",
        )
        for line in self.either(*forms).format(code).split("; "):
            self.say(line)

    def branches(self) -> None:
        channels = self.shape[0]
        first, second = (self.layer(self.conv_code(channels, 2, kernel)) for kernel in (1, 3))
        self.say(f"x = torch.cat([{first}(x), {second}(x){', x' if self.chance(0.5) else ''}], dim=1)")
        self.shape = (4 + (channels if ", x]" in self.forward[-1] else 0), *self.shape[1:])

    def chunks(self) -> None:
        channels = self.shape[0]
        if channels % 2:
            return self.branches()
        self.say("a, b = x.chunk(2, dim=1)")
        code = self.layer(self.conv_code(channels // 2, channels // 2))
        self.say(f"x = torch.cat((a, {code}(b)), 1)")
        return None

    def gate(self) -> None:
        channels = self.shape[0]
        if self.chance(0.5):
            inner, outer = (self.layer(f"nn.Linear({a}, {b})") for a, b in ((channels, 2), (2, channels)))
            self.say(f"s = {outer}(F.relu({inner}(x.mean((2, 3)))))")
            self.say("x = x * torch.sigmoid(s).view(x.size(0), -1, 1, 1)")
        else:
            code = self.layer(f"nn.Conv2d({channels}, {channels}, 1)")
            self.say(f"x = x * torch.sigmoid({code}(F.adaptive_avg_pool2d(x, 1)))")

    def attention(self) -> None:
        code = self.layer("nn.Conv2d(2, 1, 3, padding=1)")
        self.say("m = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)")
        self.say(f"x = x * torch.sigmoid({code}(m))")

    def twice(self) -> None:
        code = self.layer(self.conv_code(self.shape[0], self.shape[0]))
        self.say(f"x = {code}(F.relu({code}(x)))")

    def several(self) -> None:
        """A ModuleList and a loop."""
        codes = ", ".join(self.conv_code(self.shape[0], self.shape[0]) for _ in range(2))
        self.say(f"for each in {self.layer(f'nn.ModuleList([{codes}])')}:")
        self.say("    x = x + each(x)")

    # From maps to scores.

    def head(self) -> None:
        channels, height, width = self.shape
        pool = self.layer("nn.AdaptiveAvgPool2d(1)")
        code, size = self.either(
            ("torch.flatten(x, 1)", channels * height * width),
            ("x.contiguous().view(x.size(0), -1)", channels * height * width),
            ("x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)", channels * height * width),
            ("x.mean([2, 3])", channels),
            ("x.amax(dim=(-2, -1))", channels),
            (f"{pool}(x).flatten(1)", channels),
            ("F.adaptive_max_pool2d(x, 1).squeeze(-1).squeeze(-1)", channels),
            ("torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)", 2 * channels),
            ("x.flatten(2).mean(-1)", channels),
            ("F.avg_pool2d(x, x.shape[2:])[:, :, 0, 0]", channels),
        )
        self.say(f"x = {code}")
        if self.chance(0.5):
            self.say(f"x = {self.layer(f'nn.Linear({size}, 6)')}(x)")
            size = 6
            if self.chance(0.5):
                self.say(f"x = {self.layer('nn.BatchNorm1d(6)')}(x)")
            self.activation()
        self.say(f"x = {self.layer(f'nn.Linear({size}, 5)')}(x)")
        self.say(self.either("return x", "return x", "return F.log_softmax(x, dim=1)", "return x.softmax(-1)"))


BLOCKS = {
    **dict.fromkeys(("conv", "strided", "residual", "activation"), 3.0),
    **dict.fromkeys(("norm", "pool", "branches", "gate", "chunks", "arithmetic"), 2.0),
    **dict.fromkeys(("transposed", "parameter", "buffer", "dropout", "upsample", "edge", "shuffle"), 1.0),
    **dict.fromkeys(("attention", "twice", "several", "resized", "joined", "quotient"), 1.0),
}


def draw_module(seed: int) -> tuple[str, tuple[int, int, int]]:
    """The code of a module, and the shape (H, W, C) of the images that it takes."""
    random = np.random.default_rng(seed)
    height, width, channels = int(random.integers(5, 11)), int(random.integers(5, 11)), int(random.choice([1, 2, 3]))
    writer = _Writer(random, (channels, height, width))
    shares = np.array(list(BLOCKS.values()))
    writer.conv()
    for _ in range(int(random.integers(2, 6))):
        getattr(writer, random.choice(list(BLOCKS), p=shares / shares.sum()))()
    writer.head()
    init = "".join(f"        {line}\n" for line in writer.init)
    forward = "".join(f"        {line}\n" for line in writer.forward)
    return f"{HEAD.format(seed=seed)}{init}\n    def forward(self, x):\n{forward}", (height, width, channels)
