"""A light fine-tune of the last blocks on the shots: a candidate for the specialist, judged by cross-validation.

Few pictures cannot move a whole network without over-fitting. Only the last blocks and the head learn, from the fitted
head on, with small steps; normalisation statistics stay frozen.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from taco.errors import HeadError
from taco.model import classifier_of
from taco.recovery.taps import block_ends
from taco.specialist.head import Linear, with_head

FOLDS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class FineTuneOptions:
    """How to fine-tune.

    Attributes:
        epochs: Passes over the shots.
        batch: Pictures a step.
        learning_rate: Peak rate of AdamW, cosine to zero.
        blocks: How many blocks learn, from the end.
        seed: Draws the order, the mirrored pictures and the folds.
    """

    epochs: int = 8
    batch: int = 16
    learning_rate: float = 1e-4
    blocks: int = 2
    seed: int = 0


def last_parameters(module: nn.Module, input_size: tuple[int, int, int], blocks: int) -> tuple[str, ...]:
    """Return the names of the parameters of the last blocks and of all that comes after them, classifier included.

    Raises:
        HeadError: The model has no blocks.
    """
    ends = block_ends(module, input_size)
    if not ends:
        raise HeadError("--fine-tune: no blocks were found in this model", "Leave the flag out")
    names = [name for name, _ in module.named_parameters()]
    first = next(i for i, name in enumerate(names) if name.startswith(f"{ends[-min(blocks, len(ends))]}."))
    return tuple(names[first:])


def fine_tune(
    specialist: nn.Module, pictures: torch.Tensor, labels: torch.Tensor, names: Sequence[str], options: FineTuneOptions
) -> nn.Module:
    """Return a fine-tuned copy, eval mode.

    Args:
        specialist: A model with a fitted head; not modified.
        pictures: (n, 3, H, W) float32 inputs.
        labels: (n,) int64.
        names: Parameters that learn, from `last_parameters`.
        options: How.

    Raises:
        HeadError: The loss is no longer finite.
    """
    tuned = copy.deepcopy(specialist).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    learning = [tuned.get_parameter(name).requires_grad_(True) for name in names]
    optimiser = torch.optim.AdamW(learning, options.learning_rate, weight_decay=1e-4)
    random = np.random.default_rng(options.seed)
    steps = options.epochs * math.ceil(len(pictures) / options.batch)
    taken = 0
    for _ in range(options.epochs):
        order = random.permutation(len(pictures))
        for start in range(0, len(order), options.batch):
            index = torch.from_numpy(order[start : start + options.batch])
            mirrored = torch.from_numpy(random.random(len(index)) < 0.5).view(-1, 1, 1, 1)
            x = torch.where(mirrored, pictures[index].flip(3), pictures[index])
            for group in optimiser.param_groups:
                group["lr"] = options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * taken / steps))
            loss = F.cross_entropy(tuned(x.contiguous(memory_format=torch.channels_last)), labels[index])
            if not math.isfinite(float(loss.detach())):
                raise HeadError("--fine-tune: the loss is no longer finite", "Leave the flag out")
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            taken += 1
    return tuned.to(memory_format=torch.contiguous_format).requires_grad_(False)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Divided:
    """Shots that are held out in turn.

    Attributes:
        pictures: (n, 3, H, W) float32 inputs.
        labels: (n,) int64.
        folds: Places of those that are held out together.
    """

    pictures: torch.Tensor
    labels: torch.Tensor
    folds: Sequence[torch.Tensor]


def cross_validated(
    generalist: nn.Module,
    fit: Callable[[torch.Tensor], Linear],
    shots: Divided,
    names: Sequence[str],
    options: FineTuneOptions,
) -> torch.Tensor:
    """Return each shot's logits by a model that was fitted and fine-tuned without its fold, (n, classes) float32.

    Args:
        generalist: The model without the head; not modified.
        fit: Fits a head on the shots whose indices it is given.
        shots: To learn from.
        names: Parameters that learn.
        options: How.
    """
    pictures, labels = shots.pictures, shots.labels
    logits = torch.zeros(len(labels), int(labels.max()) + 1)
    for held in shots.folds:
        train = torch.ones(len(labels), dtype=torch.bool)
        train[held] = False
        index = train.nonzero().flatten()
        tuned = fine_tune(with_head(generalist, fit(index)), pictures[index], labels[index], names, options)
        with torch.inference_mode():
            logits[held] = torch.cat([tuned(x) for x in pictures[held].split(32)]).float()
    return logits


def as_head(tuned: nn.Module, names: Sequence[str], description: str) -> Linear:
    """Return a fine-tuned model's head with the other parameters that learnt."""
    layer = classifier_of(tuned)
    own = {id(parameter) for parameter in layer.parameters()}
    others = {n: tuned.get_parameter(n) for n in names if id(tuned.get_parameter(n)) not in own}
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    return Linear(
        layer.weight.detach().clone(),
        bias.detach().clone(),
        description,
        tuned={name: value.detach().clone() for name, value in others.items()},
    )
