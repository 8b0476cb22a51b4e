"""All widths of all units: seconds and memory from pictures to the order in which every channel leaves, with its loss.

`python -m benchmarks.structured` does EfficientNet-Lite0 with its pretrained weights, and ResNet-50, ConvNeXt-Tiny and
DeiT-Small with random ones, from 16 pictures of each of 10 animals. One greedy run a unit gives every width.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks._animals import DATA
from benchmarks._peak import PeakMemory
from taco.compress import calibrate_units, solve_units
from taco.model import load_generalist
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.listing import View
from taco.units import find_units

CLASSES, SHOTS, BATCH = 10, 16, 16
PRETRAINED = ("tf_efficientnet_lite0",)
MODELS = (*PRETRAINED, "resnet50", "convnext_tiny", "deit_small_patch16_224")


def main(arguments: Sequence[str] = ()) -> None:
    """Solve and print a line a model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structured", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--all-kinds", action="store_true", help="streams, stems, squeezes and head widths too")
    given = parser.parse_args(arguments)
    print("| model | units | levels | calibrate | solve | together | peak memory | load |\n" + "|---" * 8 + "|")
    for name in given.models:
        print(_line(name, given.data, all_kinds=given.all_kinds), flush=True)


def _line(name: str, data: Path, *, all_kinds: bool) -> str:
    generalist = load_generalist(name, random_weights=name not in PRETRAINED)
    model, size = generalist.module, generalist.preprocessing.input_size
    folders = sorted(path for path in data.iterdir() if path.is_dir())[:CLASSES]
    views = [View(path) for folder in folders for path in itertools.islice(sorted(folder.iterdir()), SHOTS)]
    bank = PictureBank.read(views, generalist.preprocessing, BankOptions())

    def batches() -> Iterator[torch.Tensor]:
        return (torch.from_numpy(b) for b in bank.batches(bank.readable, BATCH))

    found = find_units(model, size)
    units = [u for u in found.units if u.kind != "block"] if all_kinds else found.within_blocks
    watch = PeakMemory()
    watch.start()
    begin = time.perf_counter()
    moments = calibrate_units(model, units, batches())
    middle = time.perf_counter()
    solutions = solve_units(model, units, moments)
    end = time.perf_counter()
    peak = watch.stop()
    levels = sum(s.unit.width // s.unit.multiple for s in solutions.values())
    return (
        f"| {name} | {len(units)} | {levels} | {middle - begin:.1f} s | {end - middle:.1f} s | {end - begin:.1f} s | "
        f"{peak / 1e9:.2f} GB | {os.getloadavg()[0]:.1f} |"
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
