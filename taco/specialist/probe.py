"""A new linear head fitted on cached features: ridge or multinomial logistic regression, chosen by cross-validation.

Both are solved in the row space of the features (X = U S V^T, so that the number of unknowns is the number of pictures,
not of features). Kind and regularisation come from cross-validation on the shots; the head's temperature, from the same
held-out logits, makes its logits usable as probabilities.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch.nn import functional as F

from taco.errors import HeadError
from taco.specialist.folds import stratified_folds
from taco.specialist.head import Candidate, Linear, Without

#: Strongest first: a tie in cross-validation goes to the simpler head. Multiples of the mean squared feature.
_STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_TEMPERATURES = tuple(2.0**k for k in range(-2, 8))
_NAMES = {"ridge": "ridge regression on cached features", "logistic": "logistic regression on cached features"}
#: Logistic regression has no closed form. Beyond so many multiplications a pass (pictures x unknowns x classes) it
#: would take minutes, and ridge alone is fitted: 50 classes of 16 pictures are below, 500 classes above.
LOGISTIC_WORK = 50_000_000


Kind = Literal["logistic", "ridge"]


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """A kind of regression and its regularisation."""

    kind: Kind
    strength: float


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A fitted head and what it answers to pictures that it was not fitted on.

    Attributes:
        head: Fitted on all shots; its candidates are the best of each kind.
        held_out: (n, classes) float64, logits of each shot by a head that was fitted without its fold.
        folds: Index tensors of the folds.
    """

    head: Linear
    held_out: torch.Tensor
    folds: tuple[torch.Tensor, ...]


def fit_head(
    features: torch.Tensor,
    labels: torch.Tensor,
    seed: int = 0,
    kinds: Sequence[Kind] = ("logistic", "ridge"),
    groups: torch.Tensor | None = None,
) -> Fitted:
    """Fit a linear head, kind and regularisation chosen by cross-validation.

    Args:
        features: (n, d) penultimate features of the shots.
        labels: (n,) int64, every class at least twice.
        seed: Draws the folds.
        kinds: Of regression to try.
        groups: (n,) int64, labels of what stays in one fold; see `stratified_folds`.

    Raises:
        HeadError: There is nothing to fit: fewer than two classes, a class with fewer than two pictures, or features
            that are not finite or all the same.
    """
    _check_shots(features, labels)
    with _one_thread():
        return _fit(features.double(), labels, stratified_folds(labels, seed, groups=groups), kinds)


def plain_ridge(features: torch.Tensor, labels: torch.Tensor) -> Linear:
    """Fit ridge regression of middle strength, without cross-validation: for one picture of a class.

    Args:
        features: (n, d).
        labels: (n,) int64, every class at least once.
    """
    with _one_thread():
        weight, bias = Shots.of(features.double(), labels, int(labels.max()) + 1).solve(Setting("ridge", 1.0))
    return Linear(weight.float(), bias.float(), "ridge, strength 1")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: on matrices this small more cost time, a hundredfold where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(X: torch.Tensor, labels: torch.Tensor, folds: tuple[torch.Tensor, ...], kinds: Sequence[Kind]) -> Fitted:
    results = _cross_validate(X, labels, folds, kinds)
    percents = {setting: balanced_accuracy(logits, labels) for setting, logits in results.items()}
    best = max(percents, key=lambda setting: percents[setting])  # max keeps the first of equals
    held_out = results[best]
    temperature = _temperature(held_out, labels)

    def solve(kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight, bias = Shots.of(X[kept], labels[kept], held_out.shape[1]).solve(best)
        return (weight * temperature).float(), (bias * temperature).float()

    every = torch.ones(len(X), dtype=torch.bool)
    head = Linear(
        *solve(every),
        f"fit-{best.kind} (strength {best.strength:g} and temperature by {len(folds)}-fold cross-validation on "
        f"{len(labels)} shots: {percents[best]:.1f} %)",
        _best_of_each_kind(percents, best),
        without=tuple(Without(held, *solve(every.index_fill(0, held, value=False))) for held in folds),
    )
    return Fitted(head, held_out, folds)


def _best_of_each_kind(percents: Mapping[Setting, float], chosen: Setting) -> tuple[Candidate, ...]:
    found = []
    for kind in dict.fromkeys(setting.kind for setting in percents):
        best = max((s for s in percents if s.kind == kind), key=lambda s: percents[s])
        found.append(Candidate(f"{_NAMES[kind]}, strength {best.strength:g}", percents[best], best == chosen))
    return tuple(found)


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


def _settings(n: int, unknowns: int, classes: int) -> list[Setting]:
    ridge = [Setting("ridge", s) for s in _STRENGTHS]
    if n * min(n, unknowns) * classes > LOGISTIC_WORK:
        return ridge
    return [Setting("logistic", s) for s in _STRENGTHS[::2]] + ridge  # it is slower: every second strength has to do


def _cross_validate(
    X: torch.Tensor, labels: torch.Tensor, folds: Sequence[torch.Tensor], kinds: Sequence[Kind]
) -> dict[Setting, torch.Tensor]:
    """Return every candidate's held-out logits of every shot, (n, classes)."""
    classes = int(labels.max()) + 1
    tried = [setting for setting in _settings(len(X), X.shape[1], classes) if setting.kind in kinds]
    logits = {setting: torch.zeros(len(X), classes, dtype=X.dtype) for setting in tried}
    for held in folds:
        train = torch.ones(len(X), dtype=torch.bool)
        train[held] = False
        shots = Shots.of(X[train], labels[train], classes)
        for candidate, into in logits.items():
            weight, bias = shots.solve(candidate)
            into[held] = X[held] @ weight.T + bias
    return logits


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Shots:
    """Shots in the row space of their centred features: Z = U S (n, r), Vh (r, d), S (r,), one-hot targets."""

    Z: torch.Tensor
    S: torch.Tensor
    Vh: torch.Tensor
    centre: torch.Tensor
    labels: torch.Tensor
    classes: int

    @classmethod
    def of(cls, X: torch.Tensor, labels: torch.Tensor, classes: int) -> Shots:
        """Decompose features X (n, d) of pictures with labels (n,)."""
        centre = X.mean(0)
        U, S, Vh = torch.linalg.svd(X - centre, full_matrices=False)
        return cls(U * S, S, Vh, centre, labels, classes)

    def solve(self, candidate: Setting) -> tuple[torch.Tensor, torch.Tensor]:
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


def balanced_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the class-balanced accuracy in percent of (n, classes) logits."""
    hit = (logits.argmax(1) == labels).double()
    return 100.0 * float(torch.stack([hit[labels == c].mean() for c in labels.unique()]).mean())


def _temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return min(_TEMPERATURES, key=lambda t: float(F.cross_entropy(logits * t, labels)))
