"""What must hold before anything is shipped; each gate says what was measured and what is allowed (numpy only).

A gate on accuracy fails only when the one-sided 95 % lower bound of the paired drop exceeds its limit, so that chance
on a few pictures does not fail it (ARCHITECTURE section 8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from taco.device.statistics import Z_ONE_SIDED_95
from taco.metrics.accuracy import Drop, paired_drop, wilson
from taco.metrics.parity import ParityResult
from taco.wording import asked_points

Labels = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

#: Points that the exported file may lose against the compressed torch model.
CONVERSION_POINTS = 1.0
#: Name of the check of an attached device's own answers.
DEVICE_GATE = "answers on the device"
#: Mean cosine of centred logits of the shipped precision and fp32, and percent of equal answers, that a sound
#: conversion reaches with ease.
LEAST_COSINE = {"int8": 0.97, "fp16": 0.999, "bf16": 0.99}
LEAST_AGREEMENT = 95.0
#: Fewer evaluation pictures of a class are too few to gate.
LEAST_PICTURES = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
    """One check.

    Attributes:
        name: What is checked.
        passed: None where it could not be decided.
        measured: What was found, in words.
        limit: What is allowed, in words.
    """

    name: str
    passed: bool | None
    measured: str
    limit: str


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """How close the exported file's logits are to the torch model's.

    Attributes:
        cosine: Mean over pictures of the cosine of centred logits, -1 to 1.
        same: Pictures with the same answer.
        images: How many were compared.
    """

    cosine: float
    same: int
    images: int


def agreement(expected: Logits, got: Logits) -> Agreement:
    """Compare logits, both (n, classes)."""
    a, b = (x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64) for x in (expected, got))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    flat = norms == 0
    cosines = np.where(flat, 1.0, (a * b).sum(axis=1) / np.where(flat, 1.0, norms))
    return Agreement(float(cosines.mean()), int((expected.argmax(1) == got.argmax(1)).sum()), len(expected))


def structure_gate(opset: int, nodes: int) -> Gate:
    """Say that the file passed onnx's checks; an export that does not pass them ends before this."""
    found = f"opset {opset}, {nodes} nodes, shapes inferred"
    return Gate("structure", True, found, "onnx.checker with full_check")


def parity_gate(parity: ParityResult) -> Gate:
    """Compare the fp32 file with the torch model."""
    found = (
        f"logits differ by at most {parity.max_abs:.2g}; {parity.argmax_agreement:.1f} % of {parity.counted} clear "
        f"answers agree ({parity.images} pictures)"
    )
    return Gate("fp32 file against torch", parity.passed, found, f"{parity.tolerance:.2g}; 100 %")


def agreement_gate(found: Agreement, precision: str = "int8") -> Gate:
    """Compare the logits of an INT8 or FP16 file with the torch model's."""
    least = LEAST_COSINE[precision]
    share = wilson(found.same, found.images)
    return Gate(
        f"{precision.upper()} logits against torch",
        found.cosine >= least and share.high >= LEAST_AGREEMENT,
        f"mean cosine {found.cosine:.4f}; {found.same} of {found.images} answers agree ({share.percent:.1f} %)",
        f"at least {least:g}; {LEAST_AGREEMENT:g} % inside the 95 % interval",
    )


def conversion_gate(labels: Labels, compressed: Labels, exported: Labels, *, balanced: bool) -> Gate:
    """Compare the answers of the exported file with those of the compressed torch model, all (n,) int64."""
    return _drop_gate("conversion", paired_drop(labels, compressed, exported, balanced), CONVERSION_POINTS)


def device_gate(labels: Labels, here: Labels, there: Labels, *, balanced: bool) -> Gate:
    """Compare the answers that the device gave with those of the same file on this machine, all (n,) int64."""
    return _drop_gate(DEVICE_GATE, paired_drop(labels, here, there, balanced), CONVERSION_POINTS)


def drop_gate(labels: Labels, dense: Labels, exported: Labels, limit: float, *, balanced: bool) -> Gate:
    """Compare the exported file with the dense specialist, `limit` in points."""
    return _drop_gate("accuracy lost (--gate-drop)", paired_drop(labels, dense, exported, balanced), limit)


def class_drop_gates(
    labels: Labels, dense: Labels, exported: Labels, classes: Sequence[str], limit: float
) -> tuple[Gate, ...]:
    """Compare the recalls of every class; one with fewer than 30 pictures is too few to gate."""
    gates = []
    for index, name in enumerate(classes):
        title = f"recall of {name} lost (--gate-class-drop)"
        here = labels == index
        n = int(here.sum())
        if n < LEAST_PICTURES:
            gates.append(Gate(title, None, f"{n} pictures: too few to gate", asked_points(limit)))
        else:
            gates.append(_drop_gate(title, paired_drop(labels[here], dense[here], exported[here], False), limit))
    return tuple(gates)


def blank_recall_gate(labels: Labels, exported: Labels, blank: int, limit: float) -> Gate:
    """Ask that empty frames are recognised; fails only when the one-sided 95 % upper bound is below the limit.

    Args:
        labels: (n,) int64, true classes.
        exported: (n,) int64, answers of the exported file.
        blank: Index of the class of empty frames.
        limit: Least percent of them that are recognised.
    """
    title, allowed = "empty frames recognised (--blank-recall)", f"at least {limit:g} %"
    here = labels == blank
    n = int(here.sum())
    if n < LEAST_PICTURES:
        return Gate(title, None, f"{n} pictures: too few to gate", allowed)
    share = wilson(int((exported[here] == blank).sum()), n, Z_ONE_SIDED_95)
    found = f"{share.percent:.1f} % of {n}, surely no more than {share.high:.1f} %"
    return Gate(title, share.high >= limit, found, allowed)


def speed_gate(ratio: tuple[float, float, float] | None) -> Gate:
    """Refuse a model that is surely slower than the dense one that it replaces.

    Args:
        ratio: Dense over compressed time: median, and the ends of its interval; None where nothing was timed.
    """
    name, limit = "not slower than what it replaces", "the interval reaches 1"
    if ratio is None:
        return Gate(name, None, "not measured", limit)
    value, low, high = ratio
    return Gate(name, high >= 1, f"{value:.3f} times as fast ({low:.3f} to {high:.3f})", limit)


def _drop_gate(name: str, drop: Drop, limit: float) -> Gate:
    found = f"{drop.points:.2f} points lost on {drop.n} pictures, surely more than {drop.lower_one_sided:.2f}"
    return Gate(name, drop.lower_one_sided <= limit, found, asked_points(limit))
