"""What a fitted head would answer to shots that it has not seen, of the dense model and of what is cut from it.

A new head is fitted on all shots, the select pictures too: each shot counts where there are few. What is chosen on the
select pictures, how much may be cut (`--max-drop`, `taco front`) and when an answer is sure (`--sure`), must not rest
on a head that has learnt them: of eight species that ImageNet does not name, the dense EfficientNet-Lite0 names all 32
select pictures with such a head, 97.7 % of unseen ones, and a model that loses 9 points on those loses none on these.
So their answers are those of heads of the same kind and strength, each fitted without a fifth of the shots
(cross-validation; Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, section 7.10). They serve a cut
model too where it keeps the head of its dense one; a new head (`taco.steps.rehead`) has such heads of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from taco.specialist.head import Linear
from taco.specialist.specialise import penultimate, predict_logits, predict_with_features

Logits = npt.NDArray[np.float32]
Batches = Callable[[], Iterable[torch.Tensor]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Corrects logits on some of the shots to those of heads that have not seen them.

    Attributes:
        head: The shipped one, with those that were fitted without a part of the shots; none where it was not fitted.
        places: (m,) int64, which shots are looked at; those to fit on come first, as in `Material.shots`.
        dense: The dense model, whose features serve models whose own have another width.
    """

    head: Linear
    places: torch.Tensor
    dense: nn.Module

    def __bool__(self) -> bool:
        """Whether anything is corrected."""
        return any(bool(torch.isin(self.places, one.index).any()) for one in self.head.without)

    def of(self, head: Linear | None) -> HeldOut:
        """Return the same for a cut model with a head of its own; None is the dense model's."""
        return self if head is None else dataclasses.replace(self, head=head)

    def answer(self, module: nn.Module, batches: Batches, each: int = 1) -> Logits:
        """Return what a model in torch answers with heads that have not seen the pictures; else as `correct`."""
        if not self:
            return predict_logits(module, batches())
        logits, features = predict_with_features(module, batches())
        return self.corrected(logits, features, batches, each)

    def correct(self, logits: Logits, module: nn.Module, batches: Batches, each: int = 1) -> Logits:
        """Return logits as of heads that have not seen the pictures.

        Args:
            logits: (m * each, classes) of the model on looks at the m pictures, as a runtime computes them.
            module: The model in torch, which ends in the shipped head.
            batches: Yields the looks, those at the first picture first.
            each: Looks at every picture.
        """
        return self.corrected(logits, penultimate(module, batches()), batches, each) if self else logits

    def corrected(self, logits: Logits, features: torch.Tensor, batches: Batches, each: int = 1) -> Logits:
        """Return the same of features that are known: (m * each, d) float32, from the pass that gave the logits."""
        if features.shape[1] != self.head.weight.shape[1]:  # what the head reads was cut, and the head refitted
            features = penultimate(self.dense, batches())
        found = torch.zeros(len(features), len(self.head.bias))
        for one in self.head.without:
            pictures = torch.isin(self.places, one.index).nonzero().flatten()
            rows = (pictures[:, None] * each + torch.arange(each)).flatten()
            found[rows] = features[rows] @ (one.weight - self.head.weight).T + (one.bias - self.head.bias)
        corrected: Logits = logits + found.numpy()
        return corrected
