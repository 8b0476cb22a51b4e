"""timm families with random weights, small inputs and nothing that hides a mistake (no zero gain, no tiny scale)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from timm.layers import Attention
from torch import nn

from taco.compress import UnitSolution, calibrate_units, droppable, solve_units
from taco.moments.sums import Moments
from taco.surgery.removal import Removal
from taco.surgery.stitched import skeleton
from taco.units import Unit, UnitMap, find_units

CLASSES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        label: What the test is called.
        model: timm's name.
        kinds: How many units of each kind it has.
        dense: How many sets of channels stay dense.
        arguments: For timm, to make it small.
        pixels: Side of the input.
    """

    label: str
    model: str
    kinds: tuple[tuple[str, int], ...]
    dense: int = 0
    arguments: tuple[tuple[str, Any], ...] = ()
    pixels: int = 64

    def __str__(self) -> str:
        return self.label

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (3, self.pixels, self.pixels)

    @property
    def timm_arguments(self) -> dict[str, Any]:
        return {"num_classes": CLASSES, **dict(self.arguments)}


def kinds(**counts: int) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name.replace("_", " "), count) for name, count in counts.items()))


_NARROW = (("channels", (8, 16, 24, 32)),)
_TINY_VIT = (("img_size", 64), ("depth", 2))
SMALL = (
    Family("test_efficientnet", "test_efficientnet", kinds(inner=4, squeeze=2, stem=1, stream=6)),
    Family("test_resnet", "test_resnet", kinds(block=1, inner=6, stem=1, stream=4)),
    Family("test_vit", "test_vit", kinds(block=6, head_width=6, heads=6, mlp=6, stream=1), pixels=160),
    Family("test_convnext", "test_convnext", kinds(block=9, mlp=9, stream=4)),
)
CUT = (
    *SMALL,
    Family("efficientnet_lite0", "tf_efficientnet_lite0", kinds(block=9, inner=15, stem=1, stream=8)),
    Family("mobilenetv3", "mobilenetv3_small_100", kinds(block=6, inner=10, squeeze=9, stream=8)),
    Family("mobilenetv4", "mobilenetv4_conv_small", kinds(block=10, inner=12, stem=1, stream=8)),
    Family(
        "mobilenetv4 with blur",
        "mobilenetv4_conv_small",
        kinds(block=10, inner=12, stem=1, stream=8),
        arguments=(("aa_layer", "blurpc"),),
    ),
    Family("efficientnetv2", "tf_efficientnetv2_b0", kinds(block=15, inner=20, squeeze=16, stem=1, stream=7)),
    Family("resnet18", "resnet18", kinds(block=4, inner=8, stem=1, stream=4), arguments=_NARROW),
    Family("resnet26d", "resnet26d", kinds(block=4, inner=17, stem=1, stream=5), arguments=_NARROW),
    Family("resnet50", "resnet50", kinds(block=12, inner=32, stem=1, stream=4), arguments=_NARROW),
    Family("resnet with blur", "resnetblur18", kinds(block=4, inner=8, stem=1, stream=4), arguments=_NARROW),
    Family("regnet", "regnety_002", kinds(block=9, inner=13, squeeze=13, stem=1, stream=4)),
    Family(
        "regnet, depthwise",
        "regnety_002",
        kinds(block=9, inner=13, squeeze=13, stem=1, stream=4),
        arguments=(("group_size", 1),),
    ),
    Family(
        "resnext",
        "resnext50_32x4d",
        kinds(block=12, inner=16, stem=1, stream=4),
        arguments=(("channels", (32, 32, 64, 64)), ("base_width", 64), ("cardinality", 8)),
    ),
    Family("vit", "vit_tiny_patch16_224", kinds(block=2, head_width=2, heads=2, mlp=2, stream=1), arguments=_TINY_VIT),
    Family(
        "deit", "deit_tiny_patch16_224", kinds(block=2, head_width=2, heads=2, mlp=2, stream=1), arguments=_TINY_VIT
    ),
    Family("convnext", "convnext_atto", kinds(block=12, mlp=12, stream=4)),
    Family("convnextv2", "convnextv2_atto", kinds(block=12, mlp=12, stream=4)),
    Family("repvit", "repvit_m0_9", kinds(mlp=26, squeeze=10, stem=1, stream=4)),
)
UNCUT = (
    Family("mixed kernels", "mixnet_s", kinds(block=11, squeeze=13, stream=3), 62),
    Family("group norm", "test_efficientnet_gn", kinds(squeeze=2), 13),
    Family("several sets of weights", "efficientnet_cc_b0_4e", kinds(block=9, inner=7, squeeze=16, stream=5), 35),
    Family(
        "swin",
        "swin_tiny_patch4_window7_224",
        kinds(block=2, mlp=2, stream=1),
        5,
        arguments=(("img_size", 64), ("window_size", 4), ("depths", (1, 1)), ("num_heads", (3, 6))),
    ),
)


@cache
def build(family: Family) -> nn.Module:
    """The model in eval mode, reparameterised; shared between tests, which must not change it."""
    torch.manual_seed(0)
    model = skeleton(family.model, family.timm_arguments)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        _enliven(module, generator)
    return model


@cache
def units_of(family: Family) -> UnitMap:
    return find_units(build(family), family.input_size)


def _enliven(module: nn.Module, generator: torch.Generator) -> None:
    """Nothing is exactly 0 or 1, so that a forgotten slice changes the output."""

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        if isinstance(module, nn.BatchNorm2d):
            uniform(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            uniform(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1:
                scale = name in ("weight", "gamma")
                uniform(parameter, *((0.5, 1.5) if scale else (-0.2, 0.2)))
        if isinstance(module, Attention):
            module.qkv.weight *= 4.0  # attention that attends


def pictures(family: Family, n: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *family.input_size, generator=generator)


def random_orders(units: Iterable[Unit], seed: int) -> dict[str, UnitSolution]:
    """Solutions in a random order, without moments: good for cutting, not for compensating."""
    generator = torch.Generator().manual_seed(seed)
    solutions = {}
    for unit in units:
        if unit.kind == "block":
            solutions[unit.name] = droppable(unit)
            continue
        removed = torch.stack([_random_order(unit, generator) for _ in range(unit.lanes)])
        solutions[unit.name] = UnitSolution(unit, {}, Removal(removed, torch.zeros(unit.width + 1), unit.multiple))
    return solutions


def _random_order(unit: Unit, generator: torch.Generator) -> torch.Tensor:
    atoms = torch.randperm(unit.width // unit.multiple, generator=generator)
    return (atoms[:, None] * unit.multiple + torch.arange(unit.multiple)).flatten()


def random_widths(solutions: Mapping[str, UnitSolution], ratio: float, seed: int) -> dict[str, int]:
    """Different widths around `ratio`, at least one step; a share of the blocks, never the first, is left out."""
    generator = torch.Generator().manual_seed(seed)
    widths = {}
    first = next((name for name, solution in solutions.items() if solution.unit.kind == "block"), "")
    for name, solution in solutions.items():
        unit, draw = solution.unit, float(torch.rand(1, generator=generator))
        if unit.kind == "block":
            widths[name] = int(name == first or draw < 0.5 + ratio / 2)
        else:
            atoms = unit.width // unit.multiple
            widths[name] = unit.multiple * max(1, min(atoms, round(ratio * (0.8 + 0.4 * draw) * atoms)))
    return widths


def solved(model: nn.Module, units: Iterable[Unit], batches: list[torch.Tensor]) -> dict[str, UnitSolution]:
    """Solutions of the real solver, on some pictures."""
    chosen = [unit for unit in units if unit.kind != "block"]
    return solve_units(model, chosen, calibrate_units(model, chosen, batches))


def white(cols: int) -> Moments:
    """Moments of white inputs around a mean of 0.5: a refit on them is plain slicing, and a bias takes the mean."""
    mean = torch.full((1, cols), 0.5, dtype=torch.float64)
    return Moments(torch.eye(cols, dtype=torch.float64)[None] + mean[:, :, None] * mean[:, None], mean, cols)


def wrong_sizes(model: nn.Module) -> Iterator[str]:
    """Names of modules whose declared sizes differ from their tensors'."""
    for name, m in model.named_modules():
        if isinstance(m, nn.Conv2d):
            good = m.weight.shape[:2] == (m.out_channels, m.in_channels // m.groups)
            good &= m.bias is None or len(m.bias) == m.out_channels
        elif isinstance(m, nn.Linear):
            good = m.weight.shape == (m.out_features, m.in_features)
            good &= m.bias is None or len(m.bias) == m.out_features
        elif isinstance(m, nn.BatchNorm2d):
            tensors = (m.weight, m.bias, m.running_mean, m.running_var)
            good = all(t is not None and len(t) == m.num_features for t in tensors)
        elif isinstance(m, nn.LayerNorm):
            good = tuple(m.weight.shape) == tuple(m.normalized_shape)
        elif isinstance(m, Attention):
            good = m.num_heads * m.head_dim == m.attn_dim == m.proj.in_features == m.qkv.out_features // 3
        else:
            continue
        if not good:
            yield name
