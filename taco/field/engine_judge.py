"""The answers of TensorRT's engines on real pictures, on the device, and what a report tells of those engines."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taco.attached.trt_device import TensorRt
from taco.device.images import Preprocessing
from taco.errors import MeasurementError
from taco.field.device_judge import OnDevice, over_classes
from taco.material import Material
from taco.metrics.accuracy import wilson
from taco.pictures.listing import LabelledPicture
from taco.report.device_schema import EngineFacts, EnginesRun, LayerProfile
from taco.report.parts import GateResult, Proportion
from taco.steps.converting import Pair
from taco.steps.judge import Judgement
from taco.steps.node_owners import owners_of, units_by_module
from taco.timing.timings import BenchResult
from taco.units import Unit

_PROFILE_S = 1.0
#: Models whose engines are judged; the compressed one's is deployed.
JUDGED = ("dense", "compressed")


@dataclasses.dataclass(frozen=True, eq=False)
class EngineJudge:
    """Asks the engines of one run.

    Attributes:
        tensorrt: Of the attached device.
        material: The pictures.
        units: What the run may cut.
        scratch: For files that need not survive.
    """

    tensorrt: TensorRt
    material: Material
    units: Sequence[Unit]
    scratch: Path

    @property
    def pictures(self) -> list[int]:
        """Numbers of the judged pictures that the device names."""
        return over_classes(self.material.judged)

    def ask(self, dense: Pair, compressed: Pair, bench: BenchResult | None) -> dict[str, Any]:
        """Let the engines of both models name pictures.

        Args:
            dense: The dense model.
            compressed: The compressed one.
            bench: How they were timed; the engines that are asked must be the timed ones. None where nothing was.

        Returns:
            JSON values; see `taco.device.trt_judge.judge`.

        Raises:
            MeasurementError: An engine cannot be run, or is another than the one that was timed.
        """
        shown = [self.material.judged[i] for i in self.pictures]
        file = self.scratch / "pictures.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pixels_file(self.material, shown))
        files = {"dense": dense.shipped.path, "compressed": compressed.shipped.path}
        request = {
            **input_words(self.material.bank.preprocessing),
            "pictures": self.tensorrt.agent.send([file], ".npy")[file],
            "n": len(shown),
            "classes": len(self.material.task.classes),
            "owners": {
                name: owners_of(pair.fp32.path, pair.shipped.path)
                for name, pair in (("dense", dense), ("compressed", compressed))
            },
            "units": units_by_module(self.units),
            "profile_s": _PROFILE_S,
        }
        found = self.tensorrt.judge(files, request)
        timed = {} if bench is None else {name: bench.models[name].session["engine_sha256"] for name in files}
        for name, digest in timed.items():
            if found["engines"][name]["engine_sha256"] != digest:
                raise MeasurementError(
                    f"the engine of {name} was built again after it was timed: the judged bytes are other bytes",
                    "Run the same command again: engines are then built, timed and judged anew",
                )
        return found

    def answers(self, found: Mapping[str, Any], judged: Judgement) -> OnDevice:
        """Put the compressed engine's answers beside ours."""
        answer = {
            "logits": found["logits"]["compressed"],
            "provider": "TensorRT",
            "runtime": {"name": "TensorRT", "version": found["tensorrt"]},
            "failures": {},
        }
        return OnDevice.of(answer, judged, self.material, self.pictures)


def input_words(preprocessing: Preprocessing) -> dict[str, Any]:
    """Say how a picture is read, for a request to the device."""
    return {
        "input": {
            "name": "input",
            "shape": [1, *preprocessing.input_size],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "output": "logits",
    }


def pixels_file(material: Material, pictures: Sequence[LabelledPicture]) -> bytes:
    """Return pictures as the model sees them before normalisation, uint8 (n, height, width, 3), in numpy's form."""
    buffer = io.BytesIO()
    np.save(buffer, material.bank.pixels([p.view for p in pictures]), allow_pickle=False)
    return buffer.getvalue()


def engines_section(
    found: Mapping[str, Any], there: OnDevice, bench: BenchResult | None, gates: Sequence[GateResult], kind: str
) -> EnginesRun:
    """Return what a report tells of the engines.

    Args:
        found: From `EngineJudge.ask`.
        there: Their answers.
        bench: How they were timed, others beside them; None where nothing was.
        gates: The checks of the engines.
        kind: evaluation or select: what the pictures are.
    """
    timed = {} if bench is None else {name: timing.session for name, timing in bench.models.items()}
    engines = {**found["engines"], **timed}
    first = engines["compressed"]
    facts = {key: found[key] for key in _MACHINE}
    return EnginesRun.model_validate(
        {
            **facts,
            "gpu": first["gpu"],
            "compute_capability": first["capability"],
            "engines": {
                name: {key: engine[key] for key in EngineFacts.model_fields} for name, engine in engines.items()
            },
            "used": {"dense": "dense", "compressed": "compressed"},
            "accuracy": {name: _accuracy(found["logits"][name], there) for name in JUDGED},
            "evaluated_on": kind,
            "gates": list(gates),
            "layers": {name: LayerProfile.model_validate(layers) for name, layers in found["layers"].items()},
        }
    )


_MACHINE = (
    *("hardware", "tensorrt", "recipe", "strongly_typed", "jetson_linux", "power_mode"),
    *("memory_free_mib", "workspace_mib", "warnings"),
)


def _accuracy(logits: Sequence[Sequence[float]], there: OnDevice) -> Proportion:
    right = np.asarray(logits).argmax(1) == there.labels
    share = wilson(int(right.sum()), len(right))
    return Proportion(percent=share.percent, low=share.low, high=share.high, n=share.n)
