"""From a generalist to a specialist: its head cut to the task's rows, or a new linear head fitted on cached features.

A fitted head is ridge or multinomial logistic regression in the row space of the features (X = U S V^T, so the number
of unknowns is the number of pictures, not of features). Kind and regularisation come from cross-validation on the
shots; its temperature makes the logits usable as probabilities.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from taco.classmap import map_classes
from taco.errors import HeadError
from taco.model import Generalist, classifier_of, imagenet_info

HeadChoice = Literal["auto", "imagenet", "fit", "keep"]

#: Strongest first: a tie in cross-validation goes to the simpler head. Multiples of the mean squared feature.
_STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_TEMPERATURES = tuple(2.0**k for k in range(-2, 8))


@dataclasses.dataclass(frozen=True, slots=True)
class Linear:
    """A linear head: weight (classes, features), bias (classes,), float32, and what chose it in words."""

    weight: torch.Tensor
    bias: torch.Tensor
    description: str


def plan_head(
    generalist: Generalist, classes: Sequence[str], choice: HeadChoice, class_map: Path | None
) -> tuple[HeadChoice, dict[str, int | None]]:
    """Decide between cutting the head, fitting one and keeping it; returns the decision and the rows.

    Raises:
        HeadError: Only some classes are mapped, `imagenet` or `keep` cannot be done, or the map is wrong.
    """
    if choice == "keep":
        return "keep", dict.fromkeys(classes)
    if choice == "fit":
        return "fit", dict.fromkeys(classes)
    if generalist.imagenet_subset is None:
        return _without_labels(generalist, classes, choice, class_map)
    rows = map_classes(classes, imagenet_info(generalist.imagenet_subset), class_map)
    missing = [c for c, row in rows.items() if row is None]
    if not missing:
        return "imagenet", rows
    if len(missing) == len(rows) and choice == "auto":
        return "fit", rows
    raise HeadError(
        f"{len(missing)} of {len(rows)} classes have no ImageNet label: {', '.join(missing[:5])}"
        + (", ..." if len(missing) > 5 else ""),
        "Map them with --class-map FILE, or fit a new head for all classes with --head fit",
    )


def _without_labels(
    generalist: Generalist, classes: Sequence[str], choice: HeadChoice, class_map: Path | None
) -> tuple[HeadChoice, dict[str, int | None]]:
    if choice == "imagenet" or class_map is not None:
        raise HeadError(
            f"the head of {generalist.name} does not follow ImageNet's labels, so no class can be mapped to it",
            "Use --head fit, or --head keep for a checkpoint of your own",
        )
    return "fit", dict.fromkeys(classes)


def cut_head(generalist: Generalist, rows: Sequence[int]) -> Linear:
    """Return the generalist's head restricted to `rows`."""
    head = classifier_of(generalist.module)
    index = torch.as_tensor(list(rows))
    bias = torch.zeros(len(index)) if head.bias is None else head.bias.detach()[index]
    return Linear(head.weight.detach()[index].clone(), bias.clone(), f"imagenet-rows ({len(index)} rows of the head)")


def keep_head(generalist: Generalist, classes: Sequence[str]) -> Linear:
    """Return the user's own head with its rows in the order of `classes`.

    The checkpoint's own class names are used where it carries them; otherwise its rows are taken to be the class
    folders in sorted order, as torchvision's ImageFolder numbers them.

    Raises:
        HeadError: The numbers or the names of the classes differ.
    """
    head = classifier_of(generalist.module)
    own = generalist.classes or tuple(sorted(classes))
    if generalist.classes and (len(own) != head.out_features or len(set(own)) < len(own)):
        raise HeadError(
            f"--head keep: the checkpoint names {len(set(own))} different classes for {head.out_features} outputs",
            "Correct the names in the checkpoint, or leave them out",
        )
    absent = [c for c in classes if c not in own]
    if len(own) != head.out_features or absent:
        names = ", ".join(own[:5]) + (", ..." if len(own) > 5 else "")
        raise HeadError(
            f"--head keep: the checkpoint has {head.out_features} classes"
            + (f" ({names})" if generalist.classes else "")
            + f", the task has {len(classes)}"
            + (f"; {absent[0]!r} is not among them" if absent else ""),
            "Give the pictures of exactly the classes it was trained on, or use --head fit",
        )
    index = torch.as_tensor([own.index(c) for c in classes])
    bias = torch.zeros(len(index)) if head.bias is None else head.bias.detach()[index]
    named = "names from the checkpoint" if generalist.classes else "class folders in sorted order"
    return Linear(head.weight.detach()[index].clone(), bias.clone(), f"keep ({named})")


def with_head(module: nn.Module, head: Linear) -> nn.Module:
    """Return a copy of the model that ends in `head`; the given one is not modified."""
    specialist = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):  # timm initialises the new layer, which must not move the caller's draws
        specialist.reset_classifier(len(head.bias))  # type: ignore[operator]
    layer = classifier_of(specialist)
    layer.weight = nn.Parameter(head.weight.clone())
    layer.bias = nn.Parameter(head.bias.clone())  # the original may have had none
    return specialist.eval().requires_grad_(False)


@dataclasses.dataclass(frozen=True, slots=True)
class _Candidate:
    kind: Literal["logistic", "ridge"]
    strength: float


def fit_head(features: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> Linear:
    """Fit a linear head, kind and regularisation chosen by cross-validation.

    Args:
        features: (n, d) penultimate features of the shots.
        labels: (n,) int64, every class at least twice.
        seed: Draws the folds.

    Raises:
        HeadError: There is nothing to fit: fewer than two classes, a class with fewer than two pictures, or features
            that are not finite or all the same.
    """
    _check_shots(features, labels)
    with _one_thread():
        return _fit(features.double(), labels, seed)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: on matrices this small more cost time, a hundredfold where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(X: torch.Tensor, labels: torch.Tensor, seed: int) -> Linear:
    folds = _folds(labels, seed)
    results = _cross_validate(X, labels, folds)
    best = max(results, key=lambda c: _accuracy(results[c], labels))  # max keeps the first of equals
    held_out = results[best]
    temperature = _temperature(held_out, labels)
    weight, bias = _Shots.of(X, labels, results[best].shape[1]).solve(best)
    return Linear(
        (weight * temperature).float(),
        (bias * temperature).float(),
        f"fit-{best.kind} (strength {best.strength:g} and temperature by {len(folds)}-fold cross-validation on "
        f"{len(labels)} shots: {_accuracy(held_out, labels):.1f} %)",
    )


def _check_shots(features: torch.Tensor, labels: torch.Tensor) -> None:
    counts = labels.bincount()
    if len(counts) < 2 or int(counts.min()) < 2:
        raise HeadError(
            f"a head cannot be fitted on {len(labels)} pictures of {len(counts)} classes, the rarest with "
            f"{int(counts.min()) if len(counts) else 0}",
            "Give at least two classes with at least two pictures each",
        )
    if not bool(features.isfinite().all()) or not bool((features != features[0]).any()):
        raise HeadError(
            "the model's features are not finite, or the same for every picture: nothing can be told from them",
            "Check the weights",
        )


def _candidates() -> list[_Candidate]:
    # logistic regression has no closed form: every second strength has to do
    return [_Candidate("logistic", s) for s in _STRENGTHS[::2]] + [_Candidate("ridge", s) for s in _STRENGTHS]


def _folds(labels: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Stratified folds as index tensors; as many as the rarest class has pictures, at most 5."""
    generator = torch.Generator().manual_seed(seed)
    count = int(labels.bincount().min())
    fold_of = torch.empty_like(labels)
    k = max(2, min(5, count))
    for c in labels.unique():
        members = (labels == c).nonzero().flatten()
        fold_of[members[torch.randperm(len(members), generator=generator)]] = torch.arange(len(members)) % k
    return [(fold_of == i).nonzero().flatten() for i in range(k)]


def _cross_validate(
    X: torch.Tensor, labels: torch.Tensor, folds: Sequence[torch.Tensor]
) -> dict[_Candidate, torch.Tensor]:
    """Return every candidate's held-out logits of every shot, (n, classes)."""
    classes = int(labels.max()) + 1
    logits = {candidate: torch.zeros(len(X), classes, dtype=X.dtype) for candidate in _candidates()}
    for held in folds:
        train = torch.ones(len(X), dtype=torch.bool)
        train[held] = False
        shots = _Shots.of(X[train], labels[train], classes)
        for candidate, into in logits.items():
            weight, bias = shots.solve(candidate)
            into[held] = X[held] @ weight.T + bias
    return logits


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Shots:
    """Shots in the row space of their centred features: Z = U S (n, r), Vh (r, d), S (r,), one-hot targets."""

    Z: torch.Tensor
    S: torch.Tensor
    Vh: torch.Tensor
    centre: torch.Tensor
    labels: torch.Tensor
    classes: int

    @classmethod
    def of(cls, X: torch.Tensor, labels: torch.Tensor, classes: int) -> _Shots:
        centre = X.mean(0)
        U, S, Vh = torch.linalg.svd(X - centre, full_matrices=False)
        return cls(U * S, S, Vh, centre, labels, classes)

    def solve(self, candidate: _Candidate) -> tuple[torch.Tensor, torch.Tensor]:
        """Solve one head; returns weight (classes, d) and bias (classes,)."""
        n = len(self.labels)
        mean_square = max(float(self.S.square().sum()) / n, torch.finfo(self.S.dtype).tiny)  # a fold may be constant
        penalty = candidate.strength * mean_square / n
        if candidate.kind == "ridge":
            targets = F.one_hot(self.labels, self.classes).to(self.S.dtype)
            bias = targets.mean(0)
            coefficients = (self.Z / (self.S.square() + penalty * n)).T @ (targets - bias)
        else:
            coefficients, bias = _logistic(self.Z / mean_square**0.5, self.labels, self.classes, penalty / mean_square)
            coefficients = coefficients / mean_square**0.5
        weight = (self.Vh.T @ coefficients).T
        return weight, bias - weight @ self.centre


def _logistic(Z: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    parameters = torch.zeros(Z.shape[1] + 1, classes, dtype=Z.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        weight = parameters[:-1]
        value: torch.Tensor = F.cross_entropy(Z @ weight + parameters[-1], labels)
        value = value + 0.5 * penalty * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return parameters[:-1].detach(), parameters[-1].detach()


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Class-balanced accuracy in percent."""
    hit = (logits.argmax(1) == labels).double()
    return 100.0 * float(torch.stack([hit[labels == c].mean() for c in labels.unique()]).mean())


def _temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return min(_TEMPERATURES, key=lambda t: float(F.cross_entropy(logits * t, labels)))
