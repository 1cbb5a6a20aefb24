"""DenseNets: those of CIFAR, and those of ImageNet; all under torchvision's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.errors import UserError, check_choice
from flaxvision.models import _checks
from flaxvision.models.residual import STEMS, convolve

if TYPE_CHECKING:
    from flaxvision.models.build import Build

IMAGENET = {  # depth -> layers of each block
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
}


def densenet(
    b: Build,
    outputs: int,
    depth: int = 100,
    growth: int = 12,
    bottleneck: bool = True,
    stem: str = "cifar",
    dropout: float = 0.0,
) -> None:
    """DenseNet (Huang et al., "Densely Connected Convolutional Networks", CVPR 2017).

    Each layer of a block sees the `growth` channels of all layers before it. With `bottleneck` it is the paper's
    DenseNet-BC: a 1 x 1 convolution before each 3 x 3 one, and blocks that are left with half of their channels. `stem`
    "cifar" gives three blocks, `depth` layers together; "imagenet" gives those of torchvision: `depth` 121, 169 and 201
    with `growth` 32, 161 with 48. `dropout` stands after every layer of a block.
    """
    check_choice("stem", stem, STEMS)
    grown, bottled = _checks.width("growth", growth), _checks.flag("bottleneck", bottleneck)
    blocks = _blocks(depth, bottled, stem)
    b.draw(conv="kaiming_fan_in", linear="torch_kernel")
    features = 2 * grown if bottled else 16
    if stem == "cifar":
        b.conv("features.conv0", features, 3, padding=1, bias=False)
    else:
        convolve(b, "features.conv0", "features.norm0", features, 7, stride=2)
        b.activation("features.relu0", "relu")
        b.max_pool("features.pool0", 3, 2, padding=1)
    for number, layers in enumerate(blocks, 1):
        for layer in range(1, layers + 1):
            _layer(b, f"features.denseblock{number}.denselayer{layer}", grown, bottled, dropout)
        if number < len(blocks):
            name = f"features.transition{number}"
            _activated(b, f"{name}.norm", f"{name}.relu")
            b.conv(f"{name}.conv", b.shape[-1] // 2 if bottled else b.shape[-1], 1, bias=False)
            if dropout and stem == "cifar":
                b.dropout(f"{name}.dropout", dropout)
            b.avg_pool(f"{name}.pool", 2)
    _activated(b, f"features.norm{len(blocks) + 1}", "relu")
    b.global_avg_pool("avgpool")
    b.linear("classifier", outputs)


def _blocks(depth: int, bottleneck: bool, stem: str) -> tuple[int, ...]:
    if stem == "cifar":
        return (_checks.depth(depth, fixed=4, block=6 if bottleneck else 3),) * 3
    if depth not in IMAGENET or not bottleneck:
        given = f"depth is {depth!r}" if depth not in IMAGENET else "bottleneck is false"
        raise UserError(f'{given}, but stem "imagenet" has bottlenecks and a depth of {", ".join(map(str, IMAGENET))}')
    return IMAGENET[depth]


def _layer(b: Build, name: str, growth: int, bottleneck: bool, dropout: float) -> None:
    before = b.here()
    _activated(b, f"{name}.norm1", f"{name}.relu1")
    if bottleneck:
        b.conv(f"{name}.conv1", 4 * growth, 1, bias=False)
        _activated(b, f"{name}.norm2", f"{name}.relu2")
    new = b.conv(f"{name}.conv{2 if bottleneck else 1}", growth, 3, padding=1, bias=False)
    if dropout:
        new = b.dropout(f"{name}.dropout", dropout)
    b.back_to(before)
    b.concat(f"{name}.concat", new)


def _activated(b: Build, norm: str, relu: str) -> None:
    b.batch_norm(norm)
    b.activation(relu, "relu")
