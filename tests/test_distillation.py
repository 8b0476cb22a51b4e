"""The parts of the loss, against sums written out here, and students that are narrower than their teacher."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from taco.device.images import Preprocessing
from taco.recovery.distillation import Losses, distillation_loss, fit_maps, objective
from taco.recovery.taps import LAST, answer, block_ends
from taco.recovery.teacher_bank import TeacherBank, ask_teacher

SIZE = Preprocessing((3, 32, 32), "bicubic", (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), 0.9, "center")
N = 10
INDEX = np.arange(N)


@lru_cache(maxsize=1)
def setting() -> tuple[nn.Module, nn.Module, TeacherBank]:
    torch.manual_seed(0)
    teacher = timm.create_model("test_resnet", num_classes=4).eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    for parameter in student.parameters():
        parameter.mul_(1 + 0.2 * torch.randn(parameter.shape))
    pixels = np.random.default_rng(1).integers(0, 256, (N, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    labels = np.array([0, 1, 2, 3, -1, 0, 1, -1, 2, 3])
    return teacher, student, ask_teacher(teacher, pixels, SIZE, ends=block_ends(teacher, (3, 32, 32)), labels=labels)


def loss(**weights: float) -> float:
    _, student, bank = setting()
    nothing = {"blocks": 0.0, "last": 0.0, "logits": 0.0, "labels": 0.0}
    with torch.no_grad():
        return float(distillation_loss(student, bank, INDEX, Losses(**{**nothing, **weights})))


def written_out() -> tuple[dict[str, float], torch.Tensor, torch.Tensor]:
    teacher, student, bank = setting()
    with torch.no_grad():
        t, s = (answer(m, bank.inputs(INDEX), block_ends(teacher, (3, 32, 32))) for m in (teacher, student))
    relative = {
        name: float(((s.features[name] - f).flatten(1).norm(dim=1) / f.flatten(1).norm(dim=1)).square().mean())
        for name, f in t.features.items()
    }
    return relative, t.logits, s.logits


def test_every_part_is_what_it_says() -> None:
    relative, t, s = written_out()
    blocks = [error for name, error in relative.items() if name != LAST]
    assert len(blocks) >= 4
    assert loss(blocks=1.0) == pytest.approx(np.mean(blocks), rel=2e-3)
    assert loss(last=1.0) == pytest.approx(relative[LAST], rel=2e-3)
    p, q = t.softmax(1).numpy(), s.softmax(1).numpy()
    assert loss(logits=1.0) == pytest.approx(float((p * np.log(p / q)).sum(1).mean()), rel=1e-3)
    told = setting()[2].labels >= 0
    expected = F.cross_entropy(s[torch.from_numpy(told)], torch.from_numpy(setting()[2].labels[told]))
    assert loss(labels=1.0) == pytest.approx(float(expected), rel=1e-4)


def test_parts_add_up_with_their_weights_and_labels_are_optional() -> None:
    alone = {name: loss(**{name: 1.0}) for name in ("blocks", "last", "logits", "labels")}
    expected = 2 * alone["blocks"] + 3 * alone["last"] + 0.5 * alone["logits"]
    assert loss(blocks=2.0, last=3.0, logits=0.5) == pytest.approx(expected, rel=1e-5)
    assert Losses().labels == 0.0
    _, student, bank = setting()
    unknown = ask_teacher(student, bank.pixels, SIZE)
    assert objective(student, unknown, Losses(0, 0, 0, 1)) == 0.0


def test_the_objective_does_not_depend_on_the_batch() -> None:
    _, student, bank = setting()
    assert objective(student, bank, batch=3) == pytest.approx(objective(student, bank), rel=1e-4)


def test_the_teacher_itself_has_nearly_no_loss() -> None:
    teacher, _, bank = setting()
    assert objective(teacher, bank) < 1e-5  # what float16 leaves


class Narrow(nn.Module):
    """A two-block model whose stream has some of the teacher's channels."""

    def __init__(self, channels: list[int], wide: nn.Conv2d, head: nn.Linear) -> None:
        super().__init__()
        self.block = nn.Conv2d(3, len(channels), 3, stride=4)
        self.classifier = nn.Linear(len(channels), head.out_features)
        with torch.no_grad():
            self.block.weight.copy_(wide.weight[channels])
            self.block.bias.copy_(wide.bias[channels])  # type: ignore[union-attr, index]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(x.mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


@pytest.fixture(scope="module")
def wide() -> Narrow:
    """Its last two channels are sums of its first two: a map can restore them exactly."""
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 6, 3, stride=4), nn.Linear(6, 4)
    with torch.no_grad():
        for target, a, b in ((4, 0, 1), (5, 1, 2)):
            conv.weight[target] = conv.weight[a] + conv.weight[b]
            conv.bias[target] = conv.bias[a] + conv.bias[b] + 0.3
    return Narrow([0, 1, 2, 3, 4, 5], conv, head).eval()


def test_a_narrower_stream_is_compared_through_a_map(wide: Narrow) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    bank = ask_teacher(wide, pixels, SIZE, ends=["block"])
    enough = Narrow([0, 1, 2, 3], wide.block, wide.classifier).eval()
    too_few = Narrow([0, 1], wide.block, wide.classifier).eval()
    features = Losses(1.0, 1.0, 0.0, 0.0)
    maps = fit_maps(enough, bank)
    assert {name: tuple(m.weight.shape) for name, m in maps.items()} == {"block": (6, 4), LAST: (6, 4)}
    assert objective(enough, bank, features, maps) < 1e-2
    assert objective(too_few, bank, features, fit_maps(too_few, bank)) > 0.05
    assert objective(enough, bank, features) == 0.0  # without a map another width does not count
    assert fit_maps(wide, bank) == {}


def test_training_reaches_a_narrow_student_through_its_map(wide: Narrow) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    bank = ask_teacher(wide, pixels, SIZE, ends=["block"])
    student = Narrow([0, 1], wide.block, wide.classifier).eval()
    found = distillation_loss(student, bank, np.arange(8), Losses(1.0, 0.0, 0.0, 0.0), fit_maps(student, bank))
    found.backward()
    assert float(student.block.weight.grad.abs().max()) > 0  # type: ignore[union-attr]
