"""Units at every width, in the database: one greedy run gives the order in which channels leave, and every loss.

An entry rests on the weights of all that read the unit, on the moments at their inputs, on the damping and on the
mathematics; while these are the same nothing is solved again, whatever target or budget asks. What widths weigh is not
stored: readers are refitted on what all units together leave (`taco.compress.stitch`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import safetensors.torch
import torch
from torch import nn

import taco
import taco.solvers.channels
import taco.surgery.headwidth
import taco.surgery.removal
from taco.compress import UnitSolution, readers
from taco.database.build import locked
from taco.database.index import INDEX, ChannelEntry, ChannelInputs, Index, read_index
from taco.database.source import key_of
from taco.database.unit_file import is_whole, read_unit, write_unit
from taco.errors import InputError, SolverError
from taco.executor import Executor, Job
from taco.graph.attention import heads_of
from taco.moments.sums import Moments
from taco.moments.unfold import known
from taco.progress import Progress
from taco.surgery.headwidth import attention_of, head_width_removal
from taco.surgery.removal import Reader, Removal, greedy_removal
from taco.units import Unit

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
#: Below so many multiplications no other process is worth its start.
_FEW = 2e9
_SOURCES = (taco.surgery.removal, taco.surgery.headwidth, taco.solvers.channels)


@dataclasses.dataclass(frozen=True, slots=True)
class WidthOrder:
    """One unit's problem as it travels to where it is solved.

    Attributes:
        unit: Its name, for errors.
        multiple: Channels that leave together.
        damping: Multiple of mean(diag H).
    """

    unit: str
    multiple: int
    damping: float


def build_widths(
    folder: Path,
    model: nn.Module,
    solving: tuple[Sequence[Unit], Mapping[str, Moments]],
    executor: Executor,
    progress: Progress,
    damping: float = 1e-2,
) -> dict[str, UnitSolution]:
    """Make a database hold the order of every unit, and return them; what it holds already is not solved again.

    Args:
        folder: New, empty, or a database's.
        model: The dense model in eval mode; not modified.
        solving: Units, and the moments that they need (`taco.compress.calibrate_units`).
        executor: Where units are solved.
        progress: Told about every unit that is solved.
        damping: Multiple of mean(diag H).

    Raises:
        InputError: The folder is not a database's, is in use, or cannot be written to.
        SolverError: A unit cannot be solved; names it. What was solved before stays.
        TacoError: The disk is full, or the executor is lost. What was solved before stays.
    """
    units, moments = solving
    with locked(folder):
        made = _Builder(folder, model, moments, damping)
        missing = [unit for unit in units if not made.has(unit)]
        if missing:
            jobs = [made.job(unit) for unit in missing]
            near = executor.kind == "local" and sum(job.size for job in jobs) < _FEW
            with progress.step("choose channels, layer by layer", len(jobs)) as advance:
                for name, content in (Executor(workers=1) if near else executor).map(solve_widths, jobs):
                    made.keep(next(unit for unit in missing if unit.name == name), content)
                    advance(1)
        return {u.name: UnitSolution(u, made.stats(u), read_removal(folder, made.entries[u.name])) for u in units}


def name_for(moments: Mapping[str, Moments]) -> str:
    """Name a database after the moments that its units rest on, where each set of moments has a database of its own.

    Means tell sets of moments apart; `build_widths` compares all that an order rests on.
    """
    digest = hashlib.sha256()
    for name in sorted(moments):
        digest.update(f"{name}|{moments[name].n}|".encode())
        digest.update(moments[name].mean.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def widths_key(source_key: str) -> str:
    """Identify what all widths of a model are asked for, to know a finished build without looking at pictures."""
    return key_of([source_key, "widths", version()])


def note_finished(folder: Path, request: str) -> None:
    """Note that all widths that `request` (from `widths_key`) asks for are there."""
    with locked(folder):
        read_index(folder).model_copy(update={"channels_finished": request}).write(folder)


def read_removal(folder: Path, entry: ChannelEntry) -> Removal:
    """Read the order of one unit, against its hash.

    Raises:
        InputError: The file is missing or damaged; names it.
    """
    tensors = read_unit(folder, entry)
    return Removal(tensors["removed"], tensors["loss"], entry.multiple)


def solve_widths(order: WidthOrder, read: tuple[tuple[Array, Array, Array], ...], heads: Any = None) -> bytes:
    """Solve one unit.

    Args:
        order: What to do.
        read: Of every consumer W (rows, cols), H (cols, cols) and columns (width, group); empty for the width of heads.
        heads: For the width of heads the attention, and the moments at `qkv` and `proj`.

    Returns:
        A safetensors file with `removed` and `loss` of `taco.surgery.removal.Removal`.

    Raises:
        SolverError: Names the unit.
    """
    try:
        if heads is not None:
            attention, reading, projecting = heads
            found = head_width_removal(attention, _moments(reading), _moments(projecting), order.damping)
        else:
            each = [Reader(*(torch.from_numpy(array.copy()) for array in arrays)) for arrays in read]
            found = greedy_removal(each, order.multiple, order.damping)
    except SolverError as error:
        raise SolverError(f"{order.unit}: {error.what}", error.todo) from error
    return safetensors.torch.save({"removed": found.removed.contiguous(), "loss": found.loss.contiguous()})


@functools.cache
def version() -> str:
    """Say which mathematics orders rest on: a hash of the sources."""
    digest = hashlib.sha256()
    for module in _SOURCES:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]


class _Builder:
    """The entries of a folder while units are added."""

    def __init__(self, folder: Path, model: nn.Module, moments: Mapping[str, Moments], damping: float) -> None:
        self.folder, self.model, self.moments, self.damping = folder, model, moments, damping
        try:
            self.index = read_index(folder) if (folder / INDEX).exists() else Index(made_by=taco.__version__)
        except InputError as error:
            if "newer" in error.what:
                raise
            log.warning("%s: it is built again", error.what)
            self.index = Index(made_by=taco.__version__)
        self.entries = dict(self.index.channels)

    def has(self, unit: Unit) -> bool:
        """Whether a unit's entry is right and its file whole."""
        entry = self.entries.get(unit.name)
        if entry is None or entry.inputs != self._inputs(unit) or entry.width != unit.width:
            return False
        if is_whole(self.folder, entry):
            return True
        log.warning("%s is damaged or gone: it is built again", self.folder / entry.file)
        return False

    def stats(self, unit: Unit) -> dict[str, Moments]:
        """Return the moments that belong to a unit."""
        return {name: self.moments[name] for name in (*unit.calibrated, *unit.responses)}

    def job(self, unit: Unit) -> Job:
        """Return what solves a unit."""
        order = WidthOrder(unit.name, unit.multiple, self.damping)
        columns = [self.moments[name].second.shape[-1] for name in unit.calibrated]
        return Job(unit.name, float(sum(c**3 for c in columns)), functools.partial(self._arguments, order, unit))

    def keep(self, unit: Unit, content: bytes) -> None:
        """Write a solved unit: its file first, then the index."""
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(content)
        file, digest, size = write_unit(self.folder, f"widths-{unit.name}", tensors)
        old = self.entries.get(unit.name)
        self.entries[unit.name] = ChannelEntry(
            file=file,
            sha256=digest,
            size_bytes=size,
            kind=unit.kind,
            width=unit.width,
            multiple=unit.multiple,
            inputs=self._inputs(unit),
        )
        self.index = self.index.model_copy(update={"channels": dict(self.entries)})
        self.index.write(self.folder)
        if old is not None and old.file != file:
            (self.folder / old.file).unlink(missing_ok=True)

    def _arguments(self, order: WidthOrder, unit: Unit) -> tuple[Any, ...]:
        if unit.kind == "head width":
            named = (unit.producers[0].module, unit.consumers[0].module)
            return order, (), (attention_of(self.model, unit), *(_plain(self.moments[name]) for name in named))
        found = readers(self.model, unit, self.moments)
        return order, tuple((r.W.numpy(), r.H.numpy(), r.columns.numpy()) for r in found)

    def _inputs(self, unit: Unit) -> ChannelInputs:
        """Hash what the order of a unit rests on: weights, moments and where its channels lie in them."""
        digest = hashlib.sha256(key_of([[m.module, m.role, m.offset, m.repeat] for m in unit.members]).encode())
        if unit.kind == "head width":
            digest.update(str(heads_of(attention_of(self.model, unit))).encode())
        for name in unit.calibrated:
            layer = known(self.model.get_submodule(name))
            for tensor in (layer.weight, *([] if layer.bias is None else [layer.bias]), self.moments[name].second):
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            digest.update(self.moments[name].mean.contiguous().numpy().tobytes())
        return ChannelInputs(sha256=digest.hexdigest(), version=version(), damping=self.damping)


def _plain(moments: Moments) -> tuple[Array, Array, int]:
    return moments.second.numpy(), moments.mean.numpy(), moments.n


def _moments(plain: tuple[Array, Array, int]) -> Moments:
    second, mean, n = plain
    return Moments(torch.from_numpy(second.copy()), torch.from_numpy(mean.copy()), n)
