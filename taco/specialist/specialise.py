"""Task + generalist -> the dense specialist: the head cut to the task's classes, kept, or fitted on its pictures."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from taco.compute import device_of
from taco.errors import TaskError
from taco.material import Material
from taco.metrics.accuracy import is_unequal, paired_drop
from taco.model import Generalist, classifier_of
from taco.options import ExportOptions
from taco.pictures.folds import shot_groups
from taco.pictures.listing import LabelledPicture
from taco.specialist.finetune import (
    FOLDS,
    Divided,
    FineTuneOptions,
    as_head,
    cross_validated,
    fine_tune,
    last_parameters,
)
from taco.specialist.folds import stratified_folds
from taco.specialist.head import Candidate, Linear, cut_head, keep_head, plan_head, with_head
from taco.specialist.probe import balanced_accuracy, fit_head, plain_ridge
from taco.surgery.fused import faster_form

#: Of pictures in a batch: from there on the faster form is worth being made (judgement; docs/benchmarks.md).
_MANY = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Specialist:
    """The dense specialist: what everything compressed is compared with.

    Attributes:
        module: The model.
        head: What its head is and what chose it, in words.
        candidates: Heads that were compared.
    """

    module: nn.Module
    head: str
    candidates: tuple[Candidate, ...] = ()


def make_head(generalist: Generalist, material: Material, options: ExportOptions) -> Linear:
    """Cut, keep or fit the head for the task's classes, and compare what can be compared.

    With `--head auto` and classes that ImageNet knows, the cut head stays unless a fitted one is surely better in
    cross-validation on the shots (one-sided 95 % bound of the paired difference above 0): it has seen a thousand times
    as many pictures. The same rule decides on `--fine-tune`.

    Raises:
        HeadError: See `taco.specialist.head.plan_head`.
        TaskError: A head is to be fitted on fewer than two pictures of a class.
    """
    classes = material.task.classes
    choice, rows = plan_head(generalist, classes, options.head, options.class_map)
    if choice == "keep":
        return keep_head(generalist, classes, material.task.written)
    # Without evaluation pictures the select pictures judge the result, so the head must not have seen them. Where they
    # decide how much may be cut, `HeldOut` takes a fitted head's memory of them away, but not that of tuned blocks.
    learnt = options.fine_tune and options.max_drop is not None
    pictures = material.shots if material.task.evaluation and not learnt else material.task.fit
    shots = _Shots.of(generalist, material, pictures)
    if choice == "fit":
        shots.check()
        best = _fitted(shots, options.seed)
    else:
        best = _Choice.cut(shots, cut_head(generalist, [row for row in rows.values() if row is not None]))
        if options.head == "auto" and shots.least >= 2:
            best = best.or_surely_better(_fitted(shots, options.seed), shots.labels)
    if options.fine_tune:
        shots.check()
        best = best.or_surely_better(_fine_tuned(shots, best, options.seed), shots.labels)
    return best.head


def specialise(generalist: Generalist, head: Linear) -> Specialist:
    """Return the dense specialist: the generalist ending in `head`."""
    return Specialist(with_head(generalist.module, head), head.description, head.candidates)


@dataclasses.dataclass(frozen=True, eq=False)
class _Shots:
    """The pictures that heads are compared on, with their features (n, d), labels (n,) and what has one role (n,)."""

    generalist: Generalist
    material: Material
    pictures: Sequence[LabelledPicture]
    features: torch.Tensor
    labels: torch.Tensor
    groups: torch.Tensor

    @classmethod
    def of(cls, generalist: Generalist, material: Material, pictures: Sequence[LabelledPicture]) -> _Shots:
        features = penultimate(generalist.module, material.batches(pictures))
        labels = torch.tensor([p.label_index for p in pictures])
        groups = torch.from_numpy(shot_groups(material.task, material.bank.facts)[: len(pictures)])
        return cls(generalist, material, pictures, features, labels, groups)

    @property
    def least(self) -> int:
        """Pictures of the rarest class."""
        return int(self.labels.bincount(minlength=len(self.material.task.classes)).min())

    def check(self) -> None:
        if self.least < 2:
            raise TaskError(
                "a new head needs at least 2 pictures of every class to fit on",
                "Add pictures, or use classes that the model already knows (--class-map)",
            )


@dataclasses.dataclass(frozen=True, eq=False)
class _Choice:
    """The best head so far, what it answers to shots that it was not fitted on, (n, classes), and whether it was."""

    head: Linear
    held_out: torch.Tensor
    is_fitted: bool

    @classmethod
    def cut(cls, shots: _Shots, head: Linear) -> _Choice:
        logits = shots.features @ head.weight.T + head.bias
        own = Candidate("rows of ImageNet's head", balanced_accuracy(logits, shots.labels), chosen=True)
        return cls(dataclasses.replace(head, candidates=(own,)), logits, is_fitted=False)

    def or_surely_better(self, other: _Choice, labels: torch.Tensor) -> _Choice:
        """Return the other one where it is surely better, else this one; both with all candidates."""
        theirs, own = (logits.argmax(1).numpy() for logits in (other.held_out, self.held_out))
        gain = paired_drop(labels.numpy(), theirs, own, balanced=is_unequal(labels.bincount().numpy()))
        better, worse = (other, self) if gain.lower_one_sided > 0 else (self, other)
        lost = [dataclasses.replace(candidate, chosen=False) for candidate in worse.head.candidates]
        both = (*better.head.candidates, *lost) if better is self else (*lost, *better.head.candidates)
        return dataclasses.replace(better, head=dataclasses.replace(better.head, candidates=both))


def _fitted(shots: _Shots, seed: int) -> _Choice:
    found = fit_head(shots.features, shots.labels, seed, groups=shots.groups)
    return _Choice(found.head, found.held_out.float(), is_fitted=True)


def _fine_tuned(shots: _Shots, start: _Choice, seed: int) -> _Choice:
    """Fine-tune from the best head so far: the cut one, or in every fold one that is fitted without it."""
    options, module = FineTuneOptions(seed=seed), shots.generalist.module
    inputs = torch.cat(list(shots.material.batches(shots.pictures)))

    def fit(index: torch.Tensor) -> Linear:
        if not start.is_fitted:
            return start.head
        features, labels = shots.features[index], shots.labels[index]
        enough = int(labels.bincount(minlength=len(start.head.bias)).min()) >= 2
        return (
            fit_head(features, labels, seed, groups=shots.groups[index]).head
            if enough
            else plain_ridge(features, labels)
        )

    specialist = with_head(module, start.head)
    names = last_parameters(specialist, shots.generalist.preprocessing.input_size, options.blocks)
    folds = stratified_folds(shots.labels, seed, FOLDS, shots.groups)
    held_out = cross_validated(module, fit, Divided(inputs, shots.labels, folds), names, options)
    percent = balanced_accuracy(held_out, shots.labels)
    tuned = fine_tune(specialist, inputs, shots.labels, names, options)
    words = f"{start.head.description}, then the last {options.blocks} blocks fine-tuned on {len(shots.labels)} shots"
    head = as_head(tuned, names, f"{words} ({FOLDS}-fold cross-validation: {percent:.1f} %)")
    own = Candidate(f"last {options.blocks} blocks fine-tuned (--fine-tune)", percent, chosen=True)
    return _Choice(dataclasses.replace(head, candidates=(own,)), held_out, is_fitted=True)


def penultimate(module: nn.Module, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the features that the classifier sees, (n, d) float32."""
    with torch.inference_mode():
        parts = [
            module.forward_head(module.forward_features(x), pre_logits=True)  # type: ignore[operator]
            for x in batches
        ]
    return torch.cat(parts).float().clone()


def predict_logits(module: nn.Module, batches: Iterable[torch.Tensor]) -> npt.NDArray[np.float32]:
    """Return the logits of a torch model, (n, classes) float32.

    The model computes where it lies; on a CPU in channels_last, and many pictures with norms inside the convolutions.
    """
    return _predict(*_ready(module, batches))


def predict_with_features(
    module: nn.Module, batches: Iterable[torch.Tensor]
) -> tuple[npt.NDArray[np.float32], torch.Tensor]:
    """Return the logits as `predict_logits` does and, of the same pass, the classifier's features, (n, d) float32."""
    (model, same), seen = _ready(module, batches), list[torch.Tensor]()
    classifier_of(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu().clone()))
    logits = _predict(model, same)
    return logits, torch.cat(seen)


def _ready(module: nn.Module, batches: Iterable[torch.Tensor]) -> tuple[nn.Module, Iterable[torch.Tensor]]:
    """Return a copy that computes the same faster, and the batches, of which the first was looked at."""
    left = iter(batches)
    first = next(left, None)
    model = copy.deepcopy(module).to(memory_format=torch.channels_last)
    if first is None:
        return model, ()
    if len(first) >= _MANY:
        channels, height, width = first.shape[1:]
        model = faster_form(model, (channels, height, width))
    return model, itertools.chain((first,), left)


def _predict(model: nn.Module, batches: Iterable[torch.Tensor]) -> npt.NDArray[np.float32]:
    device = device_of(model)
    with torch.inference_mode():
        parts = [model(x.to(device, memory_format=torch.channels_last)).cpu() for x in batches]
    logits: npt.NDArray[np.float32] = torch.cat(parts).float().numpy()
    return logits
