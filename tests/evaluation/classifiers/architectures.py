"""Small networks after the six that the paper attacked (and its `cnn`), cut down to what two cores train: same shape, fewer and narrower layers."""

import torch
from torch import nn
from torch.nn import functional


def conv(inputs, outputs, side=3, stride=1, **more):
    """A convolution without a change of size, batch normalisation, ReLU."""
    layer = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False, **more)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def lenet():
    """LeNet-5 on three channels."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def cnn():
    """Two convolutions and two dense layers: all that the paper says of its `cnn`."""
    return nn.Sequential(
        *(nn.Conv2d(3, 24, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 48, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(48 * 64, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def pure_cnn():
    """All convolutional: strides instead of pooling, 1 x 1 convolutions instead of dense layers."""
    return nn.Sequential(
        *(conv(3, 32), conv(32, 32), conv(32, 64, stride=2)),
        *(conv(64, 64), conv(64, 96, stride=2)),
        *(conv(96, 96), conv(96, 96, side=1), nn.Conv2d(96, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def net_in_net():
    """Network in network: after each wide convolution two of 1 x 1."""
    return nn.Sequential(
        *(conv(3, 48, side=5), conv(48, 40, side=1), conv(40, 24, side=1), nn.MaxPool2d(2)),
        *(conv(24, 64, side=5), conv(64, 64, side=1), conv(64, 64, side=1), nn.AvgPool2d(2)),
        *(conv(64, 64), conv(64, 64, side=1), nn.Conv2d(64, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


class Residual(nn.Module):
    """Two convolutions and a way past them; normalisation before (`first`) or after each."""

    def __init__(self, inputs, outputs, stride, first=False):
        super().__init__()
        self.first = first
        self.norms = nn.ModuleList([nn.BatchNorm2d(inputs if first else outputs), nn.BatchNorm2d(outputs)])
        self.one = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.two = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        past = inputs != outputs or stride != 1
        self.past = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if past else nn.Identity()

    def forward(self, x):
        if self.first:
            x = functional.relu(self.norms[0](x))
            return self.past(x) + self.two(functional.relu(self.norms[1](self.one(x))))
        y = self.norms[1](self.two(functional.relu(self.norms[0](self.one(x)))))
        return functional.relu(self.past(x) + y)


def head(width):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)


def resnet():
    """ResNet-8: one residual block at each of three sizes."""
    return nn.Sequential(conv(3, 16), Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2), *head(64))


def wide_resnet():
    """Wide ResNet 10-2: the same depth, twice the width, normalisation first."""
    blocks = [Residual(16, 32, 1, True), Residual(32, 64, 2, True), Residual(64, 128, 2, True)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), *blocks, nn.BatchNorm2d(128), nn.ReLU(), *head(128))


class Dense(nn.Module):
    """A layer whose output is set beside its input."""

    def __init__(self, inputs, growth):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat([x, self.conv(functional.relu(self.norm(x)))], 1)


def densenet(growth=8, layers=4):
    """DenseNet: three blocks of four layers, growth 8."""
    parts, width = [nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)], 2 * growth
    for block in range(3):
        for _ in range(layers):
            parts.append(Dense(width, growth))
            width += growth
        parts += [nn.BatchNorm2d(width), nn.ReLU()]
        if block < 2:
            parts += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*parts, *head(width))


class Served(nn.Module):
    """A network as it is served: 8-bit pictures, height x width x 3, to probabilities."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return functional.softmax(self.network(prepared(image)), dim=1)


def prepared(image):
    """What every network here is trained on: channels first, -2..2."""
    return (image.permute(0, 3, 1, 2).float() - 127.5) / 63.75
