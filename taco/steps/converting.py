"""A torch module as files of the target's runtime: fp32 always, and FP16, bf16 or INT8 made of it where it is asked.

INT8 is given up, for the whole run, where it was measured to be slower than the floats that compete with it on the
target (FP16 under TensorRT, else fp32), or where every layer went back to floats; OpenVINO's floats of 16 bits where
they are slower than fp32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from taco import wording
from taco.exporters.protocol import Artifact, Calibration, Compressed, Exporter, FloatArray, Reference
from taco.exporters.scheme import scheme_for
from taco.material import Material, labels_of
from taco.pictures.listing import LabelledPicture
from taco.rundir import content_key
from taco.specialist.head import Linear
from taco.specialist.held_out import HeldOut
from taco.specialist.specialise import predict_logits
from taco.steps.stored import Key, Store
from taco.targets.loading import Precision, Target
from taco.timing.timings import Ratio

#: Ranges need few pictures: they are extremes of millions of values (`benchmarks/int8.py` compares numbers).
_MOST_FIT = 128
_TRIAL_FIT = 4
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """One model, exported.

    Attributes:
        shipped: In the precision that is used.
        fp32: In fp32; the same file where that is used.
        fp16: In FP16, where INT8 competes with that; None elsewhere, also where FP16 itself is shipped.
    """

    shipped: Artifact
    fp32: Artifact
    fp16: Artifact | None = None

    @property
    def floats(self) -> Artifact:
        """What the shipped precision competes with."""
        return self.fp16 or self.fp32

    @property
    def plain(self) -> Pair:
        """The pair with the shipped precision given up."""
        return Pair(self.floats, self.fp32)


@dataclasses.dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a precision was asked for and is not used.

    Attributes:
        why: In words.
        model: What it was measured on: dense or compressed.
        ratio: Time of what it competes with over its own, of that model; None where it was not a matter of time.
        tried: How its INT8 had come about; the file, where it was another precision.
    """

    why: str
    model: str
    ratio: Ratio | None
    tried: Artifact

    @property
    def words(self) -> str:
        """The same as a sentence."""
        what = "INT8" if self.tried.quantisation is not None else wording.precision(self.tried.precision)
        return f"{what} was given up: {self.why}"


@dataclasses.dataclass(frozen=True, eq=False)
class Converter:
    """Exports modules for one target.

    Attributes:
        exporter: Of the target's runtime.
        target: In the precision that is used.
        material: Pictures that INT8 is fitted to and judged on.
        input_size: (channels, height, width).
        store: Finished exports.
        held_out: What heads that have not seen the select pictures answer to them.
    """

    exporter: Exporter
    target: Target
    material: Material
    input_size: tuple[int, int, int]
    store: Store
    held_out: HeldOut

    @property
    def int8(self) -> bool:
        """Whether INT8 is made."""
        return self.target.precision == "int8"

    @property
    def competes(self) -> bool:
        """Whether the precision is kept only where it is faster than floats of more bits."""
        return self.int8 or (self.reduced and self.target.runtime == "ov")

    @property
    def reduced(self) -> bool:
        """Whether what is shipped is made of the fp32 file."""
        return self.target.precision != "fp32"

    def pair(
        self, name: str, module: nn.Module, key: Key, say: Callable[[str], Any], head: Linear | None = None
    ) -> Pair:
        """Export a module, or take what an earlier run left.

        Args:
            name: Of the step.
            module: Eval mode.
            key: Everything that the module depends on, the target included.
            say: Opens the progress of a step of that name, a context manager.
            head: What the module ends in; None for the dense specialist's.
        """
        held_out = self.held_out.of(head)

        def plain(path: Path) -> Artifact:
            with say(f"export the {name} specialist"):
                return self.exporter.export(Compressed(module, self.input_size), self._in("fp32"), path)

        def halved(path: Path) -> Artifact:
            with say(f"write the {name} specialist in {wording.precision(half)}"):
                return self.exporter.export(Compressed(module, self.input_size, None, fp32.path), self._in(half), path)

        def quantised(path: Path) -> Artifact:
            with say(f"quantise the {name} specialist"):
                model = Compressed(module, self.input_size, self._calibration(module, held_out), fp32.path)
                return self.exporter.export(model, self.target, path)

        fp32 = self.store.artifact(f"{name}-fp32" if self.reduced else name, key, plain)
        if not self.reduced:
            return Pair(fp32, fp32)
        fp16, half = None, self._half
        if half != "fp32":
            fp16 = self.store.artifact(f"{name}-{half}", {**key, "fp32": fp32.sha256}, halved)
            if not self.int8:
                return Pair(fp16, fp32)
        made_of = {
            **key,
            "fp32": fp32.sha256,
            "pictures": content_key([str(p.view) for p in self.material.shots]),
            "scheme": scheme_for(self.target.runtime, self.target.isa).words,
            **({"held_out": True} if held_out else {}),
        }
        return Pair(self.store.artifact(f"{name}-int8", made_of, quantised), fp32, fp16)

    def trial(self, module: nn.Module, path: Path) -> Artifact:
        """Export a module whose time alone matters."""
        calibration = Calibration(self._pictures(self.material.task.fit[:_TRIAL_FIT])) if self.int8 else None
        return self.exporter.export(Compressed(module, self.input_size, calibration), self.target, path)

    @property
    def _half(self) -> Precision:
        """Floats of 16 bits that are made, for themselves or for INT8 to compete with; fp32 where none are."""
        if self.int8:
            return "fp16" if self.target.runtime == "trt" else "fp32"
        return self.target.precision

    def _in(self, precision: Precision) -> Target:
        return dataclasses.replace(self.target, precision=precision)

    def _calibration(self, module: nn.Module, held_out: HeldOut) -> Calibration:
        fit, select = spread(self.material.task.fit, _MOST_FIT), self.material.task.select
        labels = labels_of(select)
        own = predict_logits(module, self.material.batches(select))
        logits = held_out.correct(own, module, lambda: self.material.batches(select))
        reference = Reference(self._pictures(select), labels, logits, logits - own if held_out else None)
        return Calibration(self._pictures(fit), reference)

    def _pictures(self, pictures: Sequence[LabelledPicture]) -> Callable[[], Iterable[FloatArray]]:
        """Return the same tensors as prediction makes, one at a time."""
        views = [p.view for p in pictures]
        return lambda: self.material.bank.batches(views, 1)


def spread(pictures: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many pictures, evenly over their order, which goes through the classes."""
    if len(pictures) <= most:
        return list(pictures)
    return [pictures[i] for i in np.linspace(0, len(pictures) - 1, most).round().astype(int)]


def given_up(pair: Pair, model: str, ratio: Ratio | None) -> GivenUp | None:
    """Say why the precision of a model is not worth having; None where it is.

    Args:
        pair: The model.
        model: dense or compressed.
        ratio: Time of what it competes with over its own; None where nothing was measured.
    """
    found, floats = pair.shipped.quantisation, wording.precision(pair.floats.precision)
    what = "INT8" if found is not None else wording.precision(pair.shipped.precision)
    if found is not None and found.quantised == 0:
        why = f"every layer of the {model} model went back to {floats}: INT8 costs answers"
        return GivenUp(why, model, None, pair.shipped)
    if ratio is not None and ratio.value <= 1:
        why = (
            f"{what} is slower than {floats} here: of the {model} model {floats} takes {ratio.value:.2f} of the {what} "
            f"time ({ratio.low:.2f} to {ratio.high:.2f})"
        )
        return GivenUp(why, model, ratio, pair.shipped)
    return None


def timed_files(dense: Pair, compressed: Pair, *, competes: bool) -> dict[str, Path]:
    """Return what is timed: both models as they are shipped, dense in fp32, and the floats that are competed with."""
    found = {"dense": dense.shipped.path, "compressed": compressed.shipped.path, "baseline_fp32": dense.fp32.path}
    if competes and compressed.floats is not compressed.shipped:
        found[floats_name(compressed)] = compressed.floats.path
    return found


def floats_name(compressed: Pair) -> str:
    """Return the name under which the floats are timed that the shipped precision competes with."""
    return f"compressed_{compressed.floats.precision}"
