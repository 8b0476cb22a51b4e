"""What can be made smaller in each family, as docs/families.md says: `python -m taco.families docs/families.md`."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taco.files import write_atomically
from taco.surgery.stitched import skeleton
from taco.units import UNIT_BY_UNIT, WITHIN_BLOCKS, Kind, UnitMap, find_units

INTRODUCTION = """\
# What can be made smaller in each family

Written by `python -m taco.families docs/families.md` from the code; do not edit. A run of `taco-export` cuts what one
block has for itself: {cut}. Where each unit gets a width of its own (not with `--max-drop`
alone or `--allocation uniform`), it cuts {more} too, and may leave residual blocks out. The rest is found, can be
stitched, and is tested, but no run takes it: a stream is read by all blocks of a stage, so that its time belongs to no
block, and cut under LayerNorm it changes what the norm computes. Models are reparameterised first. Where channels have
several readers, their second-order scores are summed and each is refitted.

| kind | what |
|---|---|
| inner | the inner width of a bottleneck or an inverted residual, with its depthwise convolution and its excitation |
| mlp | the inner width of an MLP, ConvNeXt-V2's response norm included |
| heads | heads of an attention with fused qkv |
| head width | dimensions of a head; queries make up for keys, the softmax scale is folded into the queries |
| squeeze | the narrow width inside squeeze-and-excitation |
| stem | what the first convolution makes, where only one layer makes it |
| stream | what blocks hand to each other, tables of positions and class tokens included |
| block | a residual block that may be left out |
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """A family and the model that stands for it."""

    family: str
    model: str
    pixels: int = 64

    @property
    def arguments(self) -> dict[str, Any]:
        """For timm: the head does not matter."""
        return {"num_classes": 10}


FAMILIES = (
    Shown("ResNet, basic blocks", "resnet18"),
    Shown("ResNet, bottlenecks", "resnet50"),
    Shown("ResNet-D", "resnet26d"),
    Shown("RegNetY", "regnety_002"),
    Shown("MobileNetV3", "mobilenetv3_small_100"),
    Shown("MobileNetV4-conv", "mobilenetv4_conv_small"),
    Shown("EfficientNet-Lite", "tf_efficientnet_lite0"),
    Shown("EfficientNet", "efficientnet_b0"),
    Shown("ConvNeXt", "convnext_atto"),
    Shown("ConvNeXt-V2", "convnextv2_atto"),
    Shown("ViT", "vit_tiny_patch16_224", 224),
    Shown("DeiT", "deit_tiny_patch16_224", 224),
    Shown("RepViT", "repvit_m0_9"),
    Shown("Swin", "swin_tiny_patch4_window7_224", 224),
    Shown("EfficientNet with group norm", "test_efficientnet_gn"),
)


def section(shown: Shown) -> str:
    """Return what the page says of one family."""
    found = find_units(skeleton(shown.model, shown.arguments), (3, shown.pixels, shown.pixels))
    rows = [_row(found, kind) for kind in sorted({u.kind for u in found.units})]
    table = ["| kind | units | widths | step |", "|---|---|---|---|", *rows]
    return "\n".join([f"\n## {shown.family} (`{shown.model}`)\n", *table, "", *_dense(found), ""])


def page() -> str:
    """Return the whole page."""
    cut, more = ", ".join(sorted(WITHIN_BLOCKS)), ", ".join(sorted(UNIT_BY_UNIT - WITHIN_BLOCKS))
    return INTRODUCTION.format(cut=cut, more=more) + "".join(section(shown) for shown in FAMILIES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m taco.families", description=__doc__)
    parser.add_argument("file", type=Path, help="where to write")
    write_atomically(parser.parse_args(arguments).file, page().encode())


def _row(found: UnitMap, kind: Kind) -> str:
    units = found.of(kind)
    widths = sorted({u.width for u in units})
    steps = sorted({u.multiple for u in units})
    shown = str(widths[0]) if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
    return f"| {kind} | {len(units)} | {'-' if kind == 'block' else shown} | {', '.join(map(str, steps))} |"


def _dense(found: UnitMap) -> list[str]:
    """Name what stays dense, one line a reason; layer names are left out, so that like reasons meet."""
    if not found.dense:
        return ["Nothing else: every set of channels can be cut."]
    reasons = Counter(_nameless(block.reason) for block in found.dense)
    return ["Stays dense:", "", *(f"- {count} sets of channels: {reason}" for reason, count in sorted(reasons.items()))]


def _nameless(reason: str) -> str:
    return " ".join("one layer" if "." in word and word[0].isalpha() else word for word in reason.split())


if __name__ == "__main__":
    main()
