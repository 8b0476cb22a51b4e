"""Judge the exported file on real pictures: parity with torch, and the accuracy of every stage."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from taco.abstain import softmax
from taco.exporters.loading import load_exporter
from taco.exporters.protocol import RunOptions
from taco.listing import LabelledPicture
from taco.material import Material
from taco.parity import ParityResult, compare, require
from taco.specialise import predict_logits

Labels = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
Shares = npt.NDArray[np.float64]

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
        exported_shares: (n, classes) float64, softmax of the exported file's logits.
        select_labels: (m,) int64 of the select pictures, on which choices are made.
        select_shares: (m, classes) float64, the same on the select pictures.
        parity: Exported file against compressed torch model.
        parity_inputs: (4, 3, H, W) float32 of the first pictures.
        parity_logits: (4, classes) float32 that torch expects for them.
    """

    labels: Labels
    dense: Labels
    stitched: Labels
    compressed: Labels
    exported: Labels
    exported_shares: Shares
    select_labels: Labels
    select_shares: Shares
    parity: ParityResult
    parity_inputs: npt.NDArray[np.float32]
    parity_logits: Logits


def judge(dense: nn.Module, compressed: nn.Module, stitched: nn.Module, file: Path, material: Material) -> Judgement:
    """Run every stage over the judged pictures.

    The interchange is run with ONNX Runtime's CPU provider on this machine, whatever the target.

    Raises:
        GateError: The file does not compute what the torch model computes.
    """
    pictures, select = material.judged, material.task.select
    expected = predict_logits(compressed, material.batches(pictures))
    got = exported_logits(file, material, pictures)
    parity = compare(expected, got)
    require(parity)
    chosen_on = got if pictures == select else exported_logits(file, material, select)
    return Judgement(
        labels=_labels(pictures),
        dense=predict_logits(dense, material.batches(pictures)).argmax(1),
        stitched=predict_logits(stitched, material.batches(pictures)).argmax(1),
        compressed=expected.argmax(1),
        exported=got.argmax(1),
        exported_shares=softmax(got),
        select_labels=_labels(select),
        select_shares=softmax(chosen_on),
        parity=parity,
        parity_inputs=material.bank.tensor([p.view for p in pictures[:PARITY_INPUTS]]),
        parity_logits=expected[:PARITY_INPUTS],
    )


def exported_logits(file: Path, material: Material, pictures: Sequence[LabelledPicture]) -> Logits:
    """Return the exported file's logits on pictures, (n, classes), one picture at a time."""
    session = load_exporter("ort").open(file, RunOptions(threads=os.cpu_count() or 1))
    views = [p.view for p in pictures]
    return np.concatenate([session.run(batch) for batch in material.bank.batches(views, 1)])


def _labels(pictures: Sequence[LabelledPicture]) -> Labels:
    return np.array([p.label_index for p in pictures], np.int64)
