"""Judge the exported file on real pictures: parity with torch, and the accuracy of every stage."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from taco.exporters.loading import load_exporter
from taco.exporters.mixed import run_all
from taco.exporters.protocol import FloatArray, RunOptions
from taco.material import Material, labels_of
from taco.metrics.abstain import softmax
from taco.metrics.gates import Agreement, agreement
from taco.metrics.parity import ParityResult, compare
from taco.pictures.listing import LabelledPicture
from taco.specialist.held_out import HeldOut
from taco.specialist.specialise import predict_logits
from taco.targets.loading import Target

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
        select_shares: (m, classes) float64, the same on the select pictures, of heads that have not seen them.
        parity: The file in fp32 against the compressed torch model.
        agreement: The shipped file against the compressed torch model.
        parity_inputs: (4, 3, H, W) float32 of the first pictures.
        parity_logits: (4, classes) float32 expected for them: torch's, or those of the file itself where it is INT8.
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
    agreement: Agreement
    parity_inputs: npt.NDArray[np.float32]
    parity_logits: Logits


@dataclasses.dataclass(frozen=True, slots=True)
class Stages:
    """The torch models whose answers are compared.

    Attributes:
        dense: The dense specialist.
        seen: The pictures as the dense specialist reads them.
        stitched: The compressed model before anything was repaired.
        compressed: The compressed model.
        held_out: What heads that have not seen the select pictures answer to them.
    """

    dense: nn.Module
    seen: Material
    stitched: nn.Module
    compressed: nn.Module
    held_out: HeldOut


@dataclasses.dataclass(frozen=True, slots=True)
class Shipped:
    """The file that is judged.

    Attributes:
        file: What is shipped.
        fp32: The same model in fp32, of which an INT8 file was made; `file` itself where it is fp32.
        runtime: Exporter that opens `file`.
        options: How it is opened.
    """

    file: Path
    fp32: Path
    runtime: str
    options: RunOptions

    @classmethod
    def of(cls, file: Path, fp32: Path, target: Target) -> Shipped:
        """Open as the target does where it is this machine; else by ONNX Runtime, INT8 as the file means it."""
        threads = target.threads or os.cpu_count() or 1
        if target.local:
            return cls(file, fp32, target.runtime, RunOptions(threads, target.provider))
        return cls(file, fp32, "ort", RunOptions(threads, simulate=file != fp32))

    def logits(self, material: Material, pictures: Sequence[LabelledPicture]) -> Logits:
        """Return the shipped file's logits on pictures, (n, classes), one picture at a time."""
        return self.answers(material.bank.batches([p.view for p in pictures], 1))

    def answers(self, inputs: Iterable[FloatArray]) -> Logits:
        """Return the same on inputs, (1, 3, H, W) each."""
        return run_all(load_exporter(self.runtime).open(self.file, self.options).run, inputs)


def judge(stages: Stages, shipped: Shipped, material: Material) -> Judgement:
    """Run every stage over the judged pictures.

    Raises:
        GateError: Logits are not finite or of another shape, or no answer of the torch model is clear.
        MeasurementError: The runtime fails.
    """
    pictures, select = material.judged, material.task.select
    expected = predict_logits(stages.compressed, material.batches(pictures))
    got = shipped.logits(material, pictures)
    plain = shipped.file == shipped.fp32
    in_fp32 = got
    if not plain:
        fp32 = Shipped(shipped.fp32, shipped.fp32, "ort", RunOptions(os.cpu_count() or 1))
        in_fp32 = fp32.logits(material, pictures)
    chosen_on = got if pictures == select else shipped.logits(material, select)
    return Judgement(
        labels=labels_of(pictures),
        dense=predict_logits(stages.dense, stages.seen.batches(pictures)).argmax(1),
        stitched=predict_logits(stages.stitched, material.batches(pictures)).argmax(1),
        compressed=expected.argmax(1),
        exported=got.argmax(1),
        exported_shares=softmax(got),
        select_labels=labels_of(select),
        select_shares=softmax(stages.held_out.correct(chosen_on, stages.compressed, lambda: material.batches(select))),
        parity=compare(expected, in_fp32),
        agreement=agreement(expected, got),
        parity_inputs=material.bank.tensor([p.view for p in pictures[:PARITY_INPUTS]]),
        parity_logits=(expected if plain else got)[:PARITY_INPUTS],
    )
