"""Networks as people write them in PyTorch: a way of writing each, small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Tutorial(nn.Module):
    """Functional pools and activations, dropout, log-probabilities."""

    def __init__(self, width=4):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, 1)
        self.conv2 = nn.Conv2d(width, 6, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(6 * 4 * 4, 12)
        self.fc2 = nn.Linear(12, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(self.dropout1(x), 1)
        x = self.dropout2(F.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


class Block(nn.Module):
    def __init__(self, inputs, width, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class Residual(nn.Module):
    """Blocks with shortcuts, sizes that `forward` asks for."""

    def __init__(self, num_classes=10, widths=(4, 6)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = nn.Sequential(Block(widths[0], widths[0]), Block(widths[0], widths[1], 2))
        self.linear = nn.Linear(widths[1], num_classes)

    def forward(self, x):
        out = self.layer1(F.relu(self.bn1(self.conv1(x))))
        out = F.avg_pool2d(out, out.size(3))
        return self.linear(out.view(out.size(0), -1))


class Bottleneck(nn.Module):
    """Inverted residuals: depthwise convolutions, ReLU6 in place, a mean over the map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(inplace=True))
        self.body = nn.Sequential(
            nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4))  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 10))

    def forward(self, x):
        x = self.stem(x)
        return self.classifier((x + self.body(x)).mean([2, 3]))


class Dense(nn.Module):
    """Concatenations, ModuleLists."""

    def __init__(self, growth=3, layers=2):
        super().__init__()
        self.stem = nn.Conv2d(1, 2 * growth, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(growth * (2 + i)) for i in range(layers))
        self.convs = nn.ModuleList(nn.Conv2d(growth * (2 + i), growth, 3, padding=1, bias=False) for i in range(layers))
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.head = nn.Linear(growth * (2 + layers), 10)

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 2)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], dim=1)
        return self.head(self.pool(x).flatten(1))


class DropPath(nn.Module):
    """Stochastic depth, as timm writes it."""

    def __init__(self, drop_prob):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.drop_prob)
        return x * kept / (1 - self.drop_prob)


class Gate(nn.Module):
    """Squeeze and excitation by linear layers and views."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.GroupNorm(4, channels), nn.Hardswish())
        self.drop_path = DropPath(0.2)
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.excite = nn.Sequential(nn.Linear(channels, 2), nn.ReLU(inplace=True), nn.Linear(2, channels), nn.Sigmoid())
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        x = self.conv(x)
        n, c, _, _ = x.size()
        gate = self.excite(self.squeeze(x).view(n, c)).view(n, c, 1, 1)
        x = x + self.drop_path(x * gate.expand_as(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))


def plain():
    """No class at all."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, padding="same"), nn.LeakyReLU(0.1), nn.AvgPool2d(2),
        nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, padding_mode="reflect"), nn.SiLU(), nn.Dropout2d(0.1)),
        nn.ReplicationPad2d((0, 1, 0, 0)), nn.Flatten(), nn.Linear(6 * 3 * 4, 12), nn.Tanh(), nn.Linear(12, 10),
    )  # fmt: skip


class Shuffled(nn.Module):
    """Channels split, put together and shuffled by views."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, groups=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        a, b = self.stem(x).chunk(2, dim=1)
        x = torch.cat((a, self.branch(b)), dim=1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return self.fc(x.amax((2, 3)))


class PaddedShortcut(nn.Module):
    """A shortcut that skips pixels and pads channels with zeros."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1)
        self.conv2 = nn.Conv2d(4, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        y = F.relu(self.conv2(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0))
        z = x[:, :, 1::2, 1:-1:2]
        z = torch.cat([z, z.new_zeros(len(z), 4, *z.shape[2:])], 1)
        return self.fc(y.mean((2, 3)) - z.mean((2, 3)))


class LastAxis(nn.Module):
    """Channels last between permutations, a LayerScale of its own."""

    def __init__(self, channels=4):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, 4)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 8), nn.GELU(), nn.Linear(8, channels))
        self.gamma = nn.Parameter(0.1 * torch.ones(channels))
        self.head = nn.Linear(channels, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + (self.gamma * self.mlp(y)).permute(0, 3, 1, 2)
        return self.head(x.mean([-2, -1]))


class Tokens(nn.Module):
    """Linear layers over places and over channels, as MLP-Mixer has them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, 4)
        self.norm = nn.LayerNorm(6)
        self.places = nn.Sequential(nn.Linear(4, 8), nn.GELU(approximate="tanh"), nn.Linear(8, 4))
        self.channels = nn.Linear(6, 6)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.places(self.norm(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(x)
        return self.head(x.mean(dim=1))


class ChannelsNorm(nn.LayerNorm):
    """A layer norm of its own over the channels of maps."""

    def forward(self, x):
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Functional(nn.Module):
    """Layers that functions apply, and activations that are made of others."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = ChannelsNorm(4)
        self.fc = nn.Linear(4, 10, bias=False)

    def forward(self, x):
        x = self.norm(F.conv2d(x, self.conv.weight, self.conv.bias, stride=2, padding=1))
        x = F.selu(x) + F.celu(x, alpha=0.5) + F.logsigmoid(x) - F.tanhshrink(x)
        x = torch.cat([part * (1 + number) for number, part in enumerate(x.split([1, 3], dim=1))], 1)
        x = F.glu(torch.cat((x, x), dim=1), dim=1)
        return F.linear(x.mean((2, 3)), self.fc.weight)


class InPlace(nn.Module):
    """An activation that changes what a shortcut takes."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, 1, 1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = self.bn(self.conv1(x))
        out = self.conv2(self.relu(x)) + x
        return self.fc(out.mean(3).mean(2))


class Carrying(nn.Module):
    """Buffers, a layer used twice under two names, a layer that nothing uses, an option of `forward`."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.48, 0.45, 0.40]).view(1, 3, 1, 1))
        self.register_buffer("steps", torch.tensor(7))
        self.stem = nn.Conv2d(3, 4, 3)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = self.first
        self.auxiliary = nn.LSTM(4, 3)
        self.fc = nn.Linear(4, 10)

    def forward(self, x, return_features=False):
        x = self.stem((x - self.mean) / 0.25)
        x = F.relu(self.second(F.relu(self.first(x))))
        x = F.adaptive_max_pool2d(x, 1)[:, :, 0, 0]
        return x if return_features else self.fc(x)


class Attention(nn.Module):
    """A map of attention from means and maxima over channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.places = nn.Conv2d(2, 1, 5, padding=2)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = self.conv(x)
        seen = torch.cat([torch.mean(x, dim=1, keepdim=True), torch.max(x, dim=1, keepdim=True)[0]], dim=1)
        x = x * torch.sigmoid(self.places(seen))
        return F.softmax(self.fc(x.sum((2, 3)) / 64), dim=-1)


class Decoder(nn.Module):
    """Images out of a code."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 8))
        self.grow = nn.Linear(8, 3 * 2 * 2)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.PixelShuffle(2), nn.Sigmoid())

    def forward(self, x):
        x = F.elu(self.grow(self.encoder(x)), alpha=0.5)
        return self.decoder(x.view(-1, 3, 2, 2))


class Skips(nn.Module):
    """Pools that round up, upsampling, concatenation with an earlier map."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.Conv2d(8, 4, (1, 3), padding=(0, 1))
        self.prelu = nn.PReLU(4)
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        x = self.prelu(self.down(x))
        y = self.inner(F.max_pool2d(x, 3, 2, ceil_mode=True))
        y = F.interpolate(y, size=x.shape[2:])
        x = self.up(torch.cat([x, y], 1))
        return torch.sigmoid(self.fc(F.avg_pool2d(x, 3, 1, padding=1).mean((2, 3))))


class Arithmetic(nn.Module):
    """Numbers, parameters and activations as people compute with them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=2, dilation=2)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.shift = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = self.conv(2 * x - 1)
        y = x * torch.sigmoid(x) / 3
        x = (1 - y) + self.alpha * x + self.shift
        x = -x.clamp(-0.5, 1.5) + F.hardtanh(y, 0, 6) + F.softplus(x, beta=2.0) - y**2
        x *= torch.add(x, y, alpha=0.5).neg()
        x = torch.max(x, y) - torch.minimum(x.abs(), F.softsign(y))
        return self.fc((F.softmax(x, dim=1) + x.tanh()).mean((2, 3)))


class Pyramid(nn.Module):
    """Bilinear interpolation, maps put together along height and along a new axis, one tensor by another."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, affine=False))
        self.down = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.InstanceNorm2d(4), nn.ReLU())
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.norm = nn.LayerNorm(4, bias=False)
        self.plain = nn.GroupNorm(2, 4, affine=False)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.down(x)
        x = x + self.up(y) + F.interpolate(y, size=x.shape[2:], mode="bilinear")
        z = torch.cat([x, F.interpolate(x, size=(5, x.size(3)), mode="bilinear", align_corners=False)], dim=2)
        z = torch.cat((z, -z), dim=-1)
        z = self.norm(F.layer_norm(z.flatten(2).transpose(1, 2), (4,)))
        z = torch.stack([z.mean(1), z.amax(1)], dim=1)
        x = torch.sigmoid(self.plain(x)) / (1 + x.square().mean((2, 3), keepdim=True))
        x /= 1.5 + torch.tanh(x)
        return self.fc(z.flatten(1)) + self.fc(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))


class Tuned(nn.Module):
    """A trained part that is kept, beside a head that learns."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.body.requires_grad_(False)
        self.temperature = nn.Parameter(torch.full((4, 1, 1), 0.5), requires_grad=False)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head((self.body(x) * self.temperature).mean((2, 3)))


EXAMPLES = {
    "tutorial": (Tutorial, (12, 12, 1)),
    "residual": (Residual, (8, 8, 3)),
    "bottleneck": (Bottleneck, (8, 8, 3)),
    "dense": (Dense, (8, 8, 1)),
    "gate": (Gate, (8, 8, 3)),
    "plain": (plain, (10, 10, 1)),
    "shuffled": (Shuffled, (8, 8, 3)),
    "padded shortcut": (PaddedShortcut, (8, 6, 3)),
    "last axis": (LastAxis, (8, 8, 3)),
    "tokens": (Tokens, (8, 8, 3)),
    "functional": (Functional, (6, 6, 3)),
    "in place": (InPlace, (6, 6, 3)),
    "carrying": (Carrying, (7, 6, 3)),
    "attention": (Attention, (8, 8, 3)),
    "decoder": (Decoder, (8, 8, 1)),
    "skips": (Skips, (8, 8, 3)),
    "arithmetic": (Arithmetic, (6, 5, 3)),
    "pyramid": (Pyramid, (6, 6, 3)),
    "tuned": (Tuned, (6, 6, 3)),
    "vectors": (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), (6,)),
}
