"""One step of recovery against a straightforward loop: float32, NCHW, the teacher inside, the same losses, interleaved.

`python -m benchmarks.recovery_speed [--batch N] [--size PIXELS] [--rounds N] [--steps N] [--float32]`. Both sides
compute the same loss on the same views: mean over blocks of relative feature errors, the last feature map's, and the
divergence of logits. The student is the teacher with `--ratio` of its inner widths, as recovery meets it. What makes
ours fast: the stored teacher, channels_last, BatchNorm inside the weights, 1 x 1 convolutions as matrix products,
large maps averaged down before they are compared, memory that stays with the process between steps (`taco.heap`), and
bfloat16 where this processor has it and it is faster.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks._interleave import compare
from taco.allocate import uniform
from taco.compress import calibrate_units, solve_units, stitch
from taco.compute import choose_device, moved, name_of
from taco.device.images import Preprocessing
from taco.heap import kept_heap
from taco.model import classifier_of
from taco.recovery.bfloat16 import is_faster
from taco.recovery.taps import block_ends
from taco.recovery.teacher_bank import ask_teacher
from taco.recovery.trainer import RecoveryOptions, Trainer
from taco.recovery.views import Pixels, as_inputs
from taco.units import find_units, steps_of

MODEL, CLASSES = "tf_efficientnet_lite0", 8


class Straightforward:
    """What one would write first: both models forward, hooks on every block, one loss, one step."""

    def __init__(self, teacher: nn.Module, student: nn.Module, ends: Sequence[str]) -> None:
        self._teacher = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
        self.student = copy.deepcopy(student).to(memory_format=torch.contiguous_format).eval().requires_grad_(True)
        classifier_of(self.student).requires_grad_(False)
        self._seen: dict[tuple[int, str], torch.Tensor] = {}
        for side, model in enumerate((self._teacher, self.student)):
            for name in ends:
                model.get_submodule(name).register_forward_hook(self._keep(side, name))
        self._ends = ends
        self._optimiser = torch.optim.AdamW([p for p in self.student.parameters() if p.requires_grad], 2e-4)

    def _keep(self, side: int, name: str) -> object:
        def hook(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
            self._seen[side, name] = output

        return hook

    def step(self, x: torch.Tensor) -> float:
        """Take one step on (n, 3, H, W) float32."""
        with torch.no_grad():
            t = self._teacher.forward_features(x)
            answer = self._teacher.forward_head(t)
        s = self.student.forward_features(x)
        logits = self.student.forward_head(s)
        blocks = [_relative(self._seen[1, name], self._seen[0, name]) for name in self._ends]
        divergence = F.kl_div(logits.log_softmax(1), answer.log_softmax(1), log_target=True, reduction="batchmean")
        loss = torch.stack(blocks).mean() + _relative(s, t) + divergence
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.student.parameters() if p.requires_grad], 1.0)
        self._optimiser.step()
        return float(loss.detach())


def _relative(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return ((s - t).square().flatten(1).sum(1) / t.square().flatten(1).sum(1)).mean()


def cut(teacher: nn.Module, ratio: float, pixels: Pixels, preprocessing: Preprocessing) -> nn.Module:
    """Return the teacher with `ratio` of every inner width, by the product's own selection and compensation."""
    units = find_units(teacher, preprocessing.input_size).within_blocks
    moments = calibrate_units(teacher, units, [as_inputs(pixels, preprocessing)])
    solutions = solve_units(teacher, units, moments)
    dense = {name: s.unit.width for name, s in solutions.items()}
    widths = uniform(dense, ratio, steps_of((s.unit for s in solutions.values()), 8)).widths
    return stitch(teacher, solutions, widths)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare on EfficientNet-Lite0 with random weights: the time does not depend on them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery_speed", description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="a turn; recovery takes hundreds in a row")
    parser.add_argument("--ratio", type=float, default=0.5, help="of the inner widths; 1 is a dense student")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--float32", action="store_true", help="train in float32 even where bfloat16 is faster")
    parser.add_argument("--compute", default="cpu", help="auto, cpu, cuda or cuda:N, for both sides")
    given = parser.parse_args(arguments)
    device = choose_device(given.compute)
    torch.manual_seed(0)
    teacher = timm.create_model(given.model, num_classes=CLASSES).eval().requires_grad_(False)
    preprocessing = Preprocessing.from_dict(timm.data.resolve_model_data_config(teacher))
    preprocessing = preprocessing._replace(input_size=(3, given.size, given.size))
    shape = (4 * given.batch, given.size, given.size, 3)
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    ends = block_ends(teacher, preprocessing.input_size)
    asked = copy.deepcopy(teacher).to(device).to(memory_format=torch.channels_last)
    bank = ask_teacher(asked, pixels, preprocessing, ends=ends)
    faster = not given.float32 and is_faster(asked, preprocessing.input_size)
    student = teacher if given.ratio == 1 else cut(teacher, given.ratio, pixels[:8], preprocessing)
    ours = Trainer(student, bank, RecoveryOptions(batch=given.batch, bfloat16=faster, device=device), steps=1000)
    plain = Straightforward(moved(teacher, device), moved(student, device), ends)
    batch = pixels[: given.batch]
    kind = "bfloat16" if faster else "float32"
    print(f"{len(ends)} blocks, {kind} on {name_of(device)}, {torch.get_num_threads()} threads")
    label = f"recovery step, {given.model}, inner widths x {given.ratio:g}, batch {given.batch}, {given.size} px"

    def straightforward() -> None:
        for _ in range(given.steps):
            plain.step(as_inputs(batch, preprocessing).contiguous().to(device))

    @kept_heap()
    def recovery() -> None:
        for i in range(given.steps):
            ours.step(i)

    compare(f"{label}, {given.steps} steps a turn", straightforward, recovery, given.rounds)


if __name__ == "__main__":
    main()
