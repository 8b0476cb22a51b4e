"""Judge the exported file on real pictures: parity with torch, and the accuracy of every stage."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from taco.exporters.loading import load_exporter
from taco.exporters.protocol import RunOptions
from taco.parity import ParityResult, compare, require
from taco.specialise import Material, predict_logits

Labels = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

#: How many pictures the bundle carries, so that parity can be repeated anywhere.
PARITY_INPUTS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """Answers of every stage on the judged pictures.

    Attributes:
        labels: (n,) int64.
        dense: (n,) answers of the dense specialist.
        stitched: (n,) answers of the compressed model before recovery.
        compressed: (n,) answers of the compressed torch model.
        exported: (n,) answers of the exported file.
        parity: Exported file against compressed torch model.
        parity_inputs: (4, 3, H, W) float32 of the first pictures.
        parity_logits: (4, classes) float32 that torch expects for them.
    """

    labels: Labels
    dense: Labels
    stitched: Labels
    compressed: Labels
    exported: Labels
    parity: ParityResult
    parity_inputs: npt.NDArray[np.float32]
    parity_logits: Logits


def judge(dense: nn.Module, compressed: nn.Module, stitched: nn.Module, file: Path, material: Material) -> Judgement:
    """Run every stage over the judged pictures.

    The interchange is run with ONNX Runtime's CPU provider on this machine, whatever the target.

    Raises:
        GateError: The file does not compute what the torch model computes.
    """
    pictures = material.judged
    expected = predict_logits(compressed, material.batches(pictures))
    got = exported_logits(file, material)
    parity = compare(expected, got)
    require(parity)
    return Judgement(
        labels=np.array([p.label_index for p in pictures]),
        dense=predict_logits(dense, material.batches(pictures)).argmax(1),
        stitched=predict_logits(stitched, material.batches(pictures)).argmax(1),
        compressed=expected.argmax(1),
        exported=got.argmax(1),
        parity=parity,
        parity_inputs=material.bank.tensor([p.path for p in pictures[:PARITY_INPUTS]]),
        parity_logits=expected[:PARITY_INPUTS],
    )


def exported_logits(file: Path, material: Material) -> Logits:
    """Return the exported file's logits on the judged pictures, (n, classes), one picture at a time."""
    session = load_exporter("ort").open(file, RunOptions(threads=os.cpu_count() or 1))
    pictures = [p.path for p in material.judged]
    return np.concatenate([session.run(batch) for batch in material.bank.batches(pictures, 1)])
