"""The micro-models that a person carries to a Jetson: every unit of a model at every width, for its latency table.

The counterpart of `taco.device.trt_units`, which times them there; `taco.field.unit_table` reads what came back.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from taco.attached.agent_pack import pack_agent
from taco.device.trt_units import DENSE, LIST, SCHEMA_VERSION, UNITS
from taco.errors import InputError, MeasurementError
from taco.exporters.editions import edition_for
from taco.field.unit_list import WHOLES_SWEEP, ZEROS_SWEEP, CarriedModel, CarriedUnit, UnitList
from taco.files import sha256_of, write_atomically
from taco.latency.software import software_digest
from taco.progress import Progress
from taco.search.micrographs import export_zeros
from taco.search.micromodels import Unheld
from taco.search.profile_job import ENGINE_ROUND_MS, ENGINE_ROUNDS, Place, profiler_of
from taco.search.profiling import Profiler
from taco.targets.loading import Target

AGENT = "agent.pyz"


def carry_units(model: str, target: Target, folder: Path, progress: Progress) -> int:
    """Put the micro-models of a model into the folder that is carried to its device.

    Args:
        model: timm's name; its weights do not matter.
        target: A target of TensorRT, in the precision that is used.
        folder: An export for the device, or a new one; earlier micro-models in it are replaced.
        progress: Told about every unit.

    Returns:
        How many engines the device will build.

    Raises:
        InputError: There is no such model, or the target is not one of TensorRT.
        MeasurementError: No unit of the model can be timed by itself.
        TacoError: The folder cannot be written to.
    """
    if target.runtime != "trt":
        raise InputError(
            f"only a target of TensorRT is profiled in a copied folder, and {target.name} is none",
            f"Attach it instead: taco profile --target {target.name} --device ssh://USER@HOST",
        )
    with tempfile.TemporaryDirectory(prefix="taco-units-") as scratch:
        profiler = profiler_of(model, Place(target), Path(scratch) / "device")
        if not profiler.first:
            raise MeasurementError(f"{model}: no unit can be timed by itself", "Choose another --model")
        made = _Carrier(profiler, Path(scratch), progress).written()
        try:
            own = folder / UNITS
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            for name in made.files:
                shutil.copyfile(Path(scratch) / "files" / name, own / name)
        except OSError as error:
            raise InputError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    write_atomically(own / LIST, (json.dumps(made.model_dump(mode="json", by_alias=True), indent=1) + "\n").encode())
    if not (folder / AGENT).is_file():
        pack_agent(folder / AGENT)
    return len({m.weak for models in made.sweeps.values() for m in models.values()})


class _Carrier:
    """Writes everything into `scratch/files` under plain names."""

    def __init__(self, profiler: Profiler, scratch: Path, progress: Progress) -> None:
        self.profiler, self.scratch, self.progress = profiler, scratch, progress
        self.files = scratch / "files"
        self.files.mkdir()

    def written(self) -> UnitList:
        profiler, target = self.profiler, self.profiler.target
        exported = profiler.graphs.dense(self.scratch, self.progress)
        dense = self._model(exported, DENSE)
        sweeps, names = {}, list(profiler.first.values())
        with self.progress.step("write every unit at every width", len(profiler.first)) as advance:
            for done, (signature, name) in enumerate(profiler.first.items()):
                files = profiler.graphs.unit(name, self.scratch / signature, names[done + 1 :])
                models = {width: self._model(file, f"{signature}-{width}") for width, file in files.items()}
                sweeps[signature] = {DENSE: dense, **models}
                advance(1)
        zeros = export_zeros(exported, self.scratch)
        sweeps[ZEROS_SWEEP] = {DENSE: dense, **{p: self._model(f, f.stem) for p, f in zeros.items()}}
        if profiler.whole_widths:
            whole = profiler.graphs.wholes(self.scratch)
            sweeps[WHOLES_SWEEP] = {DENSE: dense, **{n: self._model(f, n) for n, f in whole.items()}}
        kinds = {u.name: u.kind for u in profiler.found.unit_by_unit}
        held = {name: holder for name, holder in profiler.holders.items() if not isinstance(holder, Unheld)}
        return UnitList(
            schema=SCHEMA_VERSION,
            model=profiler.name,
            target=target.name,
            provider=target.provider,
            precision=target.precision,
            architecture=profiler.architecture,
            software=software_digest(),
            units={
                name: CarriedUnit(kind=kinds[name], holder=h.name, signature=h.signature, widths=profiler.widths[name])
                for name, h in held.items()
            },
            skipped={n: h.reason for n, h in profiler.holders.items() if isinstance(h, Unheld)},
            sweeps=sweeps,
            wholes={name: dict(widths) for name, widths in profiler.whole_widths.items()},
            files={path.name: sha256_of(path) for path in sorted(self.files.iterdir())},
            rounds=ENGINE_ROUNDS,
            round_s=ENGINE_ROUND_MS / 1000,
            max_s=target.benchmark.max_seconds,
        )

    def _model(self, file: Path, stem: str) -> CarriedModel:
        """Keep a model's graphs, for weakly and for strongly typed networks."""
        names = {}
        for kind, strong in (("weak", False), ("strong", True)):
            edition = edition_for(file, self.scratch, strong=strong)
            names[kind] = f"{stem}.onnx" if edition.path == file else f"{stem}.strong.onnx"
            shutil.copyfile(edition.path, self.files / names[kind])
        return CarriedModel(**names, precision=edition.precision, sparse=edition.sparse)
