"""One student in training: optimiser, schedule, fixed zeros and the order of the views; every step can be resumed.

The views of step i follow from the seed and i alone, so that nothing but weights and the optimiser's averages has to be
stored to go on bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from taco.compute import CPU
from taco.model import classifier_of
from taco.recovery.batches import ON_CPU
from taco.recovery.bfloat16 import autocast
from taco.recovery.distillation import Losses, Maps, distillation_loss
from taco.recovery.teacher_bank import Index, TeacherBank
from taco.surgery.fused import faster_form

_WARM_UP = 20


@dataclasses.dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """How to recover.

    Attributes:
        learning_rate: Peak rate of AdamW, cosine to zero.
        batch: Views a step; see `taco.recovery.batches`.
        checks: How often the student is compared with the teacher on the select pictures.
        patience: Recovery ends early after so many checks in a row without a new best.
        seed: Draws the batches.
        keep_zeros: Weights that are zero at the start stay zero: recovery under a fixed mask.
        bfloat16: Train in bfloat16 where the device has it.
        device: Where to train.
        losses: Weights of the parts of the loss.
    """

    learning_rate: float = 2e-4
    batch: int = ON_CPU
    checks: int = 10
    patience: int = 6
    seed: int = 0
    keep_zeros: bool = False
    bfloat16: bool = False
    device: torch.device = CPU
    losses: Losses = dataclasses.field(default_factory=Losses)


def fixed_masks(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Return every weight matrix or kernel that has zeros, with the bool mask of what may change."""
    return [(p, p.detach() != 0) for p in parameters if p.ndim > 1 and bool((p == 0).any())]


class Trainer:
    """A copy of the student in training; its head and normalisation statistics are frozen.

    Args:
        student: Not modified.
        bank: Views and the teacher's answers.
        options: How to train.
        steps: In all; the schedule ends there.
        maps: From `taco.recovery.distillation.fit_maps`.
    """

    def __init__(
        self, student: nn.Module, bank: TeacherBank, options: RecoveryOptions, steps: int, maps: Maps | None = None
    ) -> None:
        own = copy.deepcopy(student).to(options.device).to(memory_format=torch.channels_last)
        self.student = own.eval().requires_grad_(True)
        classifier_of(self.student).requires_grad_(False)
        self._bank, self._options, self._steps, self._maps = bank, options, steps, maps
        self._parameters = [p for p in self.student.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(self._parameters, options.learning_rate, weight_decay=1e-4, fused=True)
        self._computing = faster_form(self.student, bank.preprocessing.input_size)  # shares all parameters
        self._masks = fixed_masks(self._parameters) if options.keep_zeros else []

    @property
    def views_a_step(self) -> int:
        """How many views one step looks at."""
        return min(self._options.batch, len(self._bank))

    def step(self, i: int) -> float:
        """Take step `i`; returns the training loss."""
        warm_up = max(1, min(_WARM_UP, self._steps // 5))
        rate = self._options.learning_rate * min(1.0, (i + 1) / warm_up)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * i / self._steps))
        with autocast(self._options.device, enabled=self._options.bfloat16):
            loss = distillation_loss(self._computing, self._bank, self._views(i), self._options.losses, self._maps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        with torch.no_grad():
            for parameter, mask in self._masks:
                parameter.mul_(mask)
        self._optimiser.zero_grad(set_to_none=True)  # copies of the student carry no gradients
        return float(loss.detach())

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that later steps depend on, by name, on the CPU."""
        found = {f"student|{name}": tensor.cpu() for name, tensor in self.student.state_dict().items()}
        for number, parameter in enumerate(self._parameters):
            for name, tensor in self._optimiser.state[parameter].items():
                found[f"optimiser|{number}|{name}"] = tensor.cpu()
        return found

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a `state()` of the same student, bank and options."""
        own = {name.removeprefix("student|"): t for name, t in state.items() if name.startswith("student|")}
        self.student.load_state_dict(own)
        for number, parameter in enumerate(self._parameters):
            begin = f"optimiser|{number}|"
            averages = {name.removeprefix(begin): t for name, t in state.items() if name.startswith(begin)}
            if averages:
                self._optimiser.state[parameter] = {name: _like(t, parameter) for name, t in averages.items()}

    def _views(self, i: int) -> Index:
        """Return the views of step `i`: every view once before any comes again."""
        size, n = self.views_a_step, len(self._bank)
        first, last = i * size, (i + 1) * size
        rounds = range(first // n, (last - 1) // n + 1)
        orders = [np.random.default_rng([self._options.seed, number]).permutation(n) for number in rounds]
        begin = first - rounds.start * n
        return np.concatenate(orders)[begin : begin + size]


def _like(tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    """Return a copy where the parameter lies, in its memory format, which the optimiser keeps its averages in."""
    alike = tensor.shape == parameter.shape
    return torch.empty_like(parameter).copy_(tensor) if alike else tensor.to(parameter.device, copy=True)
