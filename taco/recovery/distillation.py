"""The loss of recovery: relative errors of features, divergence of logits, and, where asked, cross-entropy of labels.

loss = blocks * mean over blocks of ||s - t||^2 / ||t||^2 + last * the same of the last feature map
     + logits * KL(teacher || student) + labels * cross-entropy                                        (METHOD.md 6)

Where channels that blocks hand to each other were cut, the student's features are narrower than the teacher's. They are
then compared through a fixed affine map, student to teacher, that is fitted once in closed form (ridge) before the
first step: what the map cannot reach stays in the loss as a constant. FitNets (Romero et al., ICLR 2015, eq. 3) trains
such a regressor; a map that is fixed has nothing to over-fit to few pictures with.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from taco.compute import device_of
from taco.recovery.taps import LAST, answer
from taco.recovery.teacher_bank import UNLABELLED, Index, Targets, TeacherBank
from taco.surgery.fused import faster_form

_BATCH = 32
#: Views that maps are fitted on.
_FIT_VIEWS = 256
_RIDGE = 1e-3


@dataclasses.dataclass(frozen=True, slots=True)
class Losses:
    """Weights of the parts of the loss; a part with weight 0 is not computed."""

    blocks: float = 1.0
    last: float = 1.0
    logits: float = 1.0
    labels: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ChannelMap:
    """A fixed affine map from a student's channels to the teacher's.

    Attributes:
        axis: Of the channels.
        weight: (teacher's channels, student's) float32, where the student lies.
        bias: (teacher's channels,) float32, likewise.
    """

    axis: int
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Map features with the student's number of channels along `axis`."""
        return F.linear(features.movedim(self.axis, -1), self.weight, self.bias).movedim(-1, self.axis)


Maps = Mapping[str, ChannelMap]


def distances(
    model: nn.Module, bank: TeacherBank, index: Index, losses: Losses, maps: Maps | None = None
) -> torch.Tensor:
    """Return the loss on each of the views `index`, (n,) float32.

    Args:
        model: The student; where it lies, the loss is computed.
        bank: Views and answers.
        index: (n,) int64.
        losses: Weights of the parts. That of labels is spread over the views that have one, so that the mean over all
            views is the mean over those.
        maps: From `fit_maps`; a block of another width without a map does not count.
    """
    named = [name for name in bank.features if name != LAST] if losses.blocks else []
    found = answer(model, bank.inputs(index, device_of(model)), named)
    errors = {
        name: _errors(features.float(), bank.features[name], index, (maps or {}).get(name))
        for name, features in found.features.items()
        if name != LAST or losses.last
    }
    last = errors.pop(LAST, None)
    blocks = [error for error in errors.values() if error is not None]
    logits = found.logits.float()
    total = logits.new_zeros(len(index))
    if blocks:
        total = total + losses.blocks * torch.stack(blocks).mean(0)
    if last is not None:
        total = total + losses.last * last
    if losses.logits:
        target = torch.from_numpy(bank.logits[index]).to(logits.device).log_softmax(1)
        divergence = F.kl_div(logits.log_softmax(1), target, log_target=True, reduction="none").sum(1)
        total = total + losses.logits * divergence
    labels = torch.from_numpy(bank.labels[index])
    labelled = int((labels != UNLABELLED).sum())
    if losses.labels and labelled:
        right = F.cross_entropy(logits, labels.to(logits.device), ignore_index=UNLABELLED, reduction="none")
        total = total + losses.labels * right * (len(index) / labelled)
    return total


def distillation_loss(
    model: nn.Module, bank: TeacherBank, index: Index, losses: Losses, maps: Maps | None = None
) -> torch.Tensor:
    """Return the mean of `distances`, a scalar."""
    return distances(model, bank, index, losses, maps).mean()


def objectives(
    student: nn.Module, bank: TeacherBank, losses: Losses | None = None, maps: Maps | None = None, batch: int = _BATCH
) -> npt.NDArray[np.float32]:
    """Return the loss on every view of a bank, (n,), in eval mode.

    Args:
        student: Not modified; computes where it lies.
        bank: Views and answers.
        losses: Weights of the parts; None is the default ones.
        maps: From `fit_maps`.
        batch: Views at a time.
    """
    weights = losses or Losses()
    model = copy.deepcopy(student).to(memory_format=torch.channels_last).eval()
    model = faster_form(model, bank.preprocessing.input_size)
    found = []
    with torch.no_grad():
        for start in range(0, len(bank), batch):
            index = np.arange(start, min(start + batch, len(bank)))
            found.append(distances(model, bank, index, weights, maps).cpu().numpy())
    return np.concatenate(found)


def objective(
    student: nn.Module, bank: TeacherBank, losses: Losses | None = None, maps: Maps | None = None, batch: int = _BATCH
) -> float:
    """Return the loss over a whole bank: the mean of `objectives`."""
    return float(objectives(student, bank, losses, maps, batch).mean(dtype=np.float64))


def fit_maps(student: nn.Module, bank: TeacherBank) -> dict[str, ChannelMap]:
    """Fit a map for every block of the student that is narrower than the teacher's, by ridge regression.

    Args:
        student: Eval mode, not modified; the maps lie where it lies.
        bank: Views and answers; the first 256 views, spread evenly, are used.
    """
    first = _student_features(student, bank, np.arange(1))
    axes = {
        name: axis
        for name, features in first.items()
        if (axis := _channel_axis(tuple(features.shape), (1, *bank.features[name].values.shape[1:]))) is not None
    }
    if not axes:
        return {}
    chosen = np.unique(np.linspace(0, len(bank) - 1, min(len(bank), _FIT_VIEWS)).astype(np.int64))
    sums = {name: _Sums() for name in axes}
    for start in range(0, len(chosen), _BATCH):
        index = chosen[start : start + _BATCH]
        features = _student_features(student, bank, index)
        for name, axis in axes.items():
            rows = _rows(features[name].double(), axis)
            target = torch.from_numpy(bank.features[name].values[index]).to(rows.device).double()
            scale = _scale(bank.features[name], index, target).double()
            sums[name].add(rows, _rows(target * scale, axis))
    return {name: sums[name].solve(axis) for name, axis in axes.items()}


class _Sums:
    """Second moments of student's and teacher's channels, float64."""

    def __init__(self) -> None:
        self._n = 0
        self._parts: list[torch.Tensor] = []

    def add(self, s: torch.Tensor, t: torch.Tensor) -> None:
        """Add rows (n, student's channels) and (n, teacher's channels)."""
        parts = [s.sum(0), t.sum(0), s.T @ s, t.T @ s]
        self._parts = parts if not self._parts else [a + b for a, b in zip(self._parts, parts, strict=True)]
        self._n += len(s)

    def solve(self, axis: int) -> ChannelMap:
        """Return the ridge solution; damping is a multiple of the mean diagonal."""
        s_mean, t_mean, ss, ts = (part / self._n for part in self._parts)
        covariance = ss - torch.outer(s_mean, s_mean)
        damping = (_RIDGE * covariance.diagonal().mean()).clamp_min(torch.finfo(torch.float64).tiny)
        damped = covariance + damping * torch.eye(len(covariance)).to(covariance)
        weight = torch.linalg.solve(damped, (ts - torch.outer(t_mean, s_mean)).T).T
        return ChannelMap(axis, weight.float().contiguous(), (t_mean - weight @ s_mean).float())


def _student_features(student: nn.Module, bank: TeacherBank, index: Index) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = answer(student, bank.inputs(index, device_of(student)), [n for n in bank.features if n != LAST])
    return {name: features.float() for name, features in found.features.items()}


def _channel_axis(student: tuple[int, ...], teacher: tuple[int, ...]) -> int | None:
    """Return the one axis along which both differ; None where there is none or more than one."""
    if len(student) != len(teacher):
        return None
    differ = [axis for axis, (a, b) in enumerate(zip(student, teacher, strict=True)) if a != b]
    return differ[0] if len(differ) == 1 and differ[0] > 0 else None


def _rows(features: torch.Tensor, axis: int) -> torch.Tensor:
    return features.movedim(axis, -1).flatten(0, -2)


def _scale(targets: Targets, index: Index, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(targets.scale[index]).to(like.device).view(-1, *[1] * (like.ndim - 1))


def _errors(features: torch.Tensor, targets: Targets, index: Index, through: ChannelMap | None) -> torch.Tensor | None:
    """Return the relative error of every view, (n,), or None where the shapes differ and no map is known."""
    mapped = features if through is None else through(features)
    if mapped.shape[1:] != targets.values.shape[1:]:
        return None
    target = torch.from_numpy(targets.values[index]).to(mapped.device).float()
    return (mapped / _scale(targets, index, mapped) - target).square().flatten(1).mean(1)
