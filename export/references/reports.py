"""The reports' networks in PyTorch, as the reports print them."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NONLINEARITIES = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "identity": nn.Identity}


class Linear(nn.Module):
    """One linear map (reports C1 and C2)."""

    def __init__(self, inputs: int = 784, outputs: int = 10):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """Scores of `x`."""
        return self.layers[0](x.flatten(1))


class PolarLinear(nn.Module):
    """(x, y) to (r, phi), then one linear map (report C1)."""

    def __init__(self, outputs: int = 1):
        super().__init__()
        self.layers = nn.ModuleDict({"1": nn.Linear(2, outputs)})

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the points `x`, (N, 2)."""
        polar = torch.stack([x.pow(2).sum(1).sqrt(), torch.atan2(x[:, 1], x[:, 0])], 1)
        return self.layers["1"](polar)


class PlanarNetwork(nn.Module):
    """2-16-16-1 with ReLU (report C1), or any such stack on points."""

    def __init__(self, inputs: int = 2, hidden: tuple[int, ...] = (16, 16), outputs: int = 1):
        super().__init__()
        sizes = [inputs, *hidden]
        modules: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            modules += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*modules, nn.Linear(sizes[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the points `x`."""
        return self.layers(x)


class NeuralNetwork(nn.Module):
    """Report E's stack of linear layers, and report B2's with BatchNorm after each hidden layer."""

    def __init__(
        self,
        inputs: int = 784,
        hidden: tuple[int, ...] = (256, 512),
        outputs: int = 10,
        activation: str = "relu",
        batch_norm: bool = False,
    ):
        super().__init__()
        modules: list[nn.Module] = []
        for width in hidden:
            modules.append(nn.Linear(inputs, width))
            if batch_norm:
                modules.append(nn.BatchNorm1d(width))
            modules.append(NONLINEARITIES[activation]())
            inputs = width
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(*modules, nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`."""
        return self.linear_relu_stack(self.flatten(x))


class WideCNN(nn.Module):
    """Report A's network: 5x5 convolutions of 32 and 64 channels, two linear layers.

    "SAME" pads by 2 and has no activation between the linear layers, as its PyTorch part prints; "VALID" is its Keras
    part, with a ReLU there.
    """

    def __init__(self, padding: str = "SAME", outputs: int = 10):
        super().__init__()
        pad = 2 if padding == "SAME" else 0
        self.convnet = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=pad),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=pad),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.fc = nn.ModuleList([nn.Linear(3136 if padding == "SAME" else 1024, 1024), nn.Linear(1024, outputs)])
        self.between = nn.Identity() if padding == "SAME" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, 1, 28, 28)."""
        x = self.convnet(x).flatten(1)
        return self.fc[1](self.between(self.fc[0](x)))


class MNISTNet(nn.Module):
    """Report B1's MNIST_Net."""

    def __init__(self, dropout: float = 0.25, outputs: int = 10):
        super().__init__()
        self.conv0 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv0_bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 16, 3, padding=1)
        self.conv1_bn = nn.BatchNorm2d(16)
        self.fc = nn.Linear(784, 256)
        self.fc1 = nn.Linear(256, outputs)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, 1, 28, 28)."""
        x = F.dropout(F.max_pool2d(F.relu(self.conv0_bn(self.conv0(x))), 2), self.dropout, self.training)
        x = F.dropout(F.max_pool2d(F.relu(self.conv1_bn(self.conv1(x))), 2), self.dropout, self.training)
        return self.fc1(F.relu(self.fc(torch.flatten(x, 1))))


class StridedCNN(nn.Module):
    """Report B2's small convolutional network, with or without a max-pool."""

    def __init__(self, pool: bool = False, outputs: int = 10):
        super().__init__()
        self.conv0 = nn.Conv2d(1, 8, 6, stride=2)
        self.conv0_bn = nn.BatchNorm2d(8)
        self.pool = pool
        self.fc = nn.Linear(288 if pool else 1152, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, 1, 28, 28)."""
        x = F.relu(self.conv0_bn(self.conv0(x)))
        if self.pool:
            x = F.max_pool2d(x, 2)
        return self.fc(x.flatten(1))


class VGG19(nn.Module):
    """Report B3's VGG-19 with BatchNorm, torchvision's names, and the report's head."""

    def __init__(self, outputs: int = 10):
        super().__init__()
        layout: tuple[int | str, ...] = (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M")
        modules: list[nn.Module] = []
        channels = 3
        for width in layout:
            if isinstance(width, str):
                modules.append(nn.MaxPool2d(2, 2))
            else:
                modules += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Sequential(
            nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, 3, 32, 32)."""
        return self.classifier(torch.flatten(self.features(x), 1))


class TinyCNN(nn.Module):
    """Report C2's convolutional classifier."""

    def __init__(self, outputs: int = 10):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
        )
        self.classifier = nn.Sequential(nn.Linear(32, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, 1, 28, 28)."""
        return self.classifier(self.layers(x).flatten(1))


class Encoder(nn.Module):
    """Report D's encoder, (N, 1, 28, 28) to (N, 32, 1, 1); `inner` stands after the third convolution."""

    def __init__(self, inner: str):
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "0": nn.Conv2d(1, 4, 3),
                "2": nn.Conv2d(4, 8, 3, stride=2),
                "4": nn.Conv2d(8, 16, 3, stride=2),
                "6": nn.Conv2d(16, 32, 3),
            }
        )
        self.inner = NONLINEARITIES[inner]()

    def encode(self, x: Tensor) -> Tensor:
        """The code of `x`."""
        x = F.relu(self.encoder["2"](F.relu(self.encoder["0"](x))))
        x = F.max_pool2d(self.inner(self.encoder["4"](x)), 3, stride=1)
        return torch.sigmoid(self.encoder["6"](x))


class EMNISTNet(Encoder):
    """Report D's classifier."""

    def __init__(self, hidden: int = 64, inner_activation: str = "identity", outputs: int = 47):
        super().__init__(inner_activation)
        self.predictor = nn.Sequential(nn.Linear(32, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`."""
        return self.predictor(self.encode(x).flatten(1))


class Autoencoder(Encoder):
    """Report D's autoencoder."""

    def __init__(self, inner_activation: str = "identity"):
        super().__init__(inner_activation)
        self.decoder = nn.ModuleDict(
            {
                "0": nn.ConvTranspose2d(32, 16, 3),
                "2": nn.ConvTranspose2d(16, 8, 3),
                "4": nn.ConvTranspose2d(8, 8, 3, stride=2),
                "5": nn.ConvTranspose2d(8, 4, 3),
                "7": nn.ConvTranspose2d(4, 1, 4, stride=2),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of `x`."""
        d, x = self.decoder, self.encode(x)
        x = F.relu(d["2"](F.relu(d["0"](x))))
        x = F.relu(d["5"](self.inner(d["4"](x))))
        return torch.sigmoid(d["7"](x))
