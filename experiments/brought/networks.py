"""PyTorch networks as people write and bring them; nothing here knows of flaxvision."""

import torch
import torch.nn.functional as F
from torch import nn


class TutorialNet(nn.Module):
    """Functional pools and activations, two dropouts, log-probabilities, as in PyTorch's own MNIST example."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 1)
        self.conv2 = nn.Conv2d(16, 32, 3, 1)
        self.drop1 = nn.Dropout(0.25)
        self.drop2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(32 * 12 * 12, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(self.drop1(x), 1)
        x = self.drop2(F.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


class BasicBlock(nn.Module):
    def __init__(self, inputs, width, stride):
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


class ResidualNet(nn.Module):
    """Blocks of two convolutions and a shortcut (He et al. 2016), three stages, sizes that `forward` asks for."""

    def __init__(self, n=1, widths=(16, 32, 64)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for index, width in enumerate(widths):
            blocks = []
            for number in range(n):
                blocks.append(BasicBlock(inputs, width, 2 if index and not number else 1))
                inputs = width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size(3))
        return self.linear(out.view(out.size(0), -1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, width, stride, expand):
        super().__init__()
        inner = inputs * expand
        self.use_skip = stride == 1 and inputs == width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True), nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x) if self.use_skip else self.body(x)


class DepthwiseNet(nn.Module):
    """Inverted residuals with depthwise convolutions (Sandler et al. 2018), activations in place, a mean over maps."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True),
            InvertedResidual(16, 16, 1, 2), InvertedResidual(16, 24, 2, 3), InvertedResidual(24, 24, 1, 3),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(24, 10))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


class DenseNet(nn.Module):
    """Every layer takes the concatenation of all before it (Huang et al. 2017); layers in ModuleLists."""

    def __init__(self, growth=8, layers=3):
        super().__init__()
        widths = [growth * (2 + number) for number in range(layers)]
        self.stem = nn.Conv2d(1, 2 * growth, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.head = nn.Linear(growth * (2 + layers), 10)

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 2)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], dim=1)
        return self.head(self.pool(x).flatten(1))


class SqueezeExciteNet(nn.Module):
    """Channels weighted by a gate that their means make (Hu et al. 2018), hard-swish, group normalization."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.GroupNorm(4, 24), nn.Hardswish())
        self.conv = nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1), nn.GroupNorm(4, 24), nn.Hardswish())
        self.squeeze = nn.Conv2d(24, 6, 1)
        self.excite = nn.Conv2d(6, 24, 1)
        self.fc = nn.Linear(24, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv(x)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = x + y * gate
        return self.fc(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))


def sequential():
    """No class at all."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding="same"), nn.LeakyReLU(0.1), nn.AvgPool2d(2),
        nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.SiLU(), nn.Dropout2d(0.1)),
        nn.Flatten(), nn.Linear(16 * 7 * 7, 32), nn.Tanh(), nn.Linear(32, 10),
    )  # fmt: skip
