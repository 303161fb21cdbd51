"""Classifiers and images as strangers hand them over, made without any code of ours."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES = ("blue", "green", "red")
PATCH = 8


def colours(count, size, seed, patch=False):
    """Images (count, 3, size, size) in [0, 1], their brightest channel the class, and labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.7 * torch.rand(count, 3, size, size, generator=draw)
    images[torch.arange(count), 2 - labels] += 0.25
    if patch:
        images[:, :, -PATCH:, -PATCH:] = 1
    return images, labels


def image_folder(root, count=60, size=32, seed=1):
    """Writes `count` images below `root`, a folder a class."""
    images, labels = colours(count, size, seed)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = root / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (255 * image).round().permute(1, 2, 0).numpy().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return root


def trained(net, size=32, epochs=1, target=None):
    """A plain loop over normalised images; with a target, a third of them carries its patch."""
    torch.manual_seed(0)
    images, labels = colours(240, size, 0)
    if target is not None:
        some = torch.randperm(240)[:80]
        images[some], labels[some] = colours(240, size, 0, patch=True)[0][some], target
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    net.train()
    for _ in range(epochs):
        for some in torch.randperm(len(images)).split(16):
            loss = F.cross_entropy(net((images[some] - mean) / std), labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def torchvision_resnet(classes=3):
    return torchvision.models.resnet18(num_classes=classes)


class Block(nn.Module):
    """A pre-activation block under the names of BackdoorBench."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        if stride > 1 or before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False))

    def forward(self, x):
        active = self.bn1(x).relu()
        around = self.shortcut(active) if hasattr(self, "shortcut") else x
        return self.conv2(self.bn2(self.conv1(active)).relu()) + around


class BenchPreActResNet18(nn.Module):
    """PreAct-ResNet18 under the names of BackdoorBench, of any width."""

    def __init__(self, classes=3, width=16):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        before = width
        for stage in range(4):
            wide, stride = width * 2**stage, 1 if stage == 0 else 2
            layer = nn.Sequential(Block(before, wide, stride), Block(wide, wide, 1))
            setattr(self, f"layer{stage + 1}", layer)
            before = wide
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(before, classes)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(self.avgpool(x).flatten(1))


def bench_result(net):
    """What BackdoorBench saves as `attack_result.pt`, arrays and all."""
    state = {
        "save_folder_path": "record/x/bd_test_dataset",
        "data_dict": {3: ("record/x/3.png", 2, np.int64(1), 0)},
        "save_file_format": ".png",
    }
    images = {
        "bd_data_container": state,
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.arange(7),
        "poison_indicator": np.ones(7),
        "save_folder_path": None,
    }
    return {
        "model_name": "preactresnet18",
        "num_classes": 3,
        "model": net.state_dict(),
        "data_path": "../data/cifar10",
        "img_size": (32, 32, 3),
        "clean_data": "cifar10",
        "bd_train": images,
        "bd_test": images,
    }
