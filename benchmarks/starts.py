"""What recovery starts from: a stitched model, or one refitted in the model's order (docs/adr/0020).

`python -m benchmarks.starts` cuts EfficientNet-Lite0 to shares of its multiply-accumulates on tasks of eight species,
16 shots a class, and recovers both starts for as many steps. It prints how far each lies from the dense model: by the
objective of recovery on the select pictures, and by the divergence of its answers on pictures that nothing has seen.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import nn

from benchmarks._animals import DATA, Setting, Species
from benchmarks._machine import machine
from taco.allocate import by_macs, candidates
from taco.compress import UnitSolution, calibrate_units, kept_rows, solve_units, stitch
from taco.exporters.mixed import divergence
from taco.recover import recover
from taco.recovery.bank_views import DrawOptions, Source, draw_bank
from taco.recovery.repair import compared
from taco.recovery.teacher_bank import Layout
from taco.recovery.trainer import RecoveryOptions
from taco.sparse.sequential import SequentialOptions
from taco.specialist.specialise import predict_logits
from taco.surgery.inorder import InOrder, with_biases
from taco.surgery.size import count_macs
from taco.units import find_units, steps_of

_MULTIPLE, _VIEWS = 8, 16
_SPECIES: tuple[Species, ...] = ("imagenet", "other")


def solved(setting: Setting) -> dict[str, UnitSolution]:
    """Return how the channels of every unit leave."""
    dense, material = setting.dense, setting.material
    units = find_units(dense, setting.preprocessing.input_size).within_blocks
    return solve_units(dense, units, calibrate_units(dense, units, material.batches(material.task.fit)))


def starts(setting: Setting, solutions: Mapping[str, UnitSolution], share: float) -> dict[str, nn.Module]:
    """Return both models that recovery may start from, at one share of the multiply-accumulates."""
    dense, size, fit = setting.dense, setting.preprocessing.input_size, setting.material.task.fit
    units = [solution.unit for solution in solutions.values()]
    options = candidates({unit.name: unit.width for unit in units}, steps_of(units, _MULTIPLE))
    widths = by_macs(options, share, lambda a: count_macs(stitch(dense, solutions, a.widths), size)).widths
    stitched = stitch(dense, solutions, widths)
    kept = kept_rows(dense, solutions, widths)
    how = InOrder(dense, lambda: setting.material.batches(fit), SequentialOptions(), kept)
    layers = how.layers(stitched)
    return {"stitched": stitched, "refitted in order": how.refit(with_biases(stitched, layers), layers)}


def rows(
    setting: Setting, shares: Sequence[float], steps: Sequence[int]
) -> Iterator[tuple[float, str, int, float, float]]:
    """Yield share, start, steps of recovery, objective on the select pictures, nats on the evaluation pictures."""
    teacher, material = setting.teacher, setting.material
    fit, judged = material.task.fit, material.judged
    layout = Layout.of(teacher.module, setting.preprocessing.input_size, teacher.ends, len(fit) * _VIEWS)
    source = Source([p.view for p in fit], [p.label_index for p in fit], len(fit) * _VIEWS)
    bank = draw_bank(teacher.module, layout, setting.preprocessing, [source], DrawOptions(setting.seed))
    dense = predict_logits(setting.dense, material.batches(judged))
    solutions, options = solved(setting), RecoveryOptions(seed=setting.seed)
    for share in shares:
        for name, start in starts(setting, solutions, share).items():
            begun = compared(start, teacher, material)[0]
            for count in steps:
                made = recover(begun, bank, teacher.select, count, options).module if count else begun
                module, objective = compared(made, teacher, material)
                nats = divergence(dense, predict_logits(module, material.batches(judged)))
                yield share, name, count, objective, nats


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starts", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--species", nargs="+", choices=_SPECIES, default=list(_SPECIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4], help="of the multiply-accumulates")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 40])
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    print(f"{machine()['machine']}\n")
    print("| species, seed | MACs kept | start | steps | objective on select | nats on unseen pictures |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for species in given.species:
            for seed in given.seeds:
                setting = Setting(seed, given.data, Path(scratch), species=species)
                for share, start, steps, objective, nats in rows(setting, given.shares, given.steps):
                    row = f"| {species}, {seed} | {share:g} | {start} | {steps} | {objective:.3f} | {nats:.4f} |"
                    print(row, flush=True)


if __name__ == "__main__":
    main()
