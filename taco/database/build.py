"""Build a database as it is solved: each layer's file first, then the index, so that a kill loses one layer at most.

What is there and whole is not done again: a layer's entry says on which weights, moments, solver and damping its levels
rest. Where only the calibration's key is new, the moments themselves decide.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch

import taco
from taco.calibrate import Wave, calibrate_wave, size_bytes, waves_for
from taco.database.index import INDEX, ChannelEntry, Index, Inputs, LevelEntry, Skipped, UnitEntry, read_index
from taco.database.lots import lots_of
from taco.database.recipe import Recipe, solver_version
from taco.database.solving import Half, Order, Solved, halves_of, solve_layer
from taco.database.source import Source, key_of, moments_sha256, weights_sha256
from taco.database.unit_file import FOLDER, is_whole, read_unit, write_unit
from taco.errors import InputError, SolverError
from taco.executor import Executor, Job
from taco.files import sweep
from taco.heap import give_back, kept_heap
from taco.moments.sums import LayerMoments
from taco.moments.unfold import known
from taco.progress import Progress
from taco.solvers.spec import Spec

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """One layer of a build: the levels that fit it, and what they depend on."""

    layer: str
    inputs: Inputs
    specs: dict[str, Spec]
    columns: int


def build(folder: Path, source: Source, recipe: Recipe, executor: Executor, progress: Progress) -> None:
    """Make `folder` hold what `recipe` asks for; what it holds already is not done again.

    Raises:
        InputError: The folder is not a database's, is in use, or cannot be written to.
        SolverError: A layer cannot be solved; names it and the damping. What was solved before stays.
        TacoError: The disk is full, or the executor is lost. What was solved before stays.
    """
    recipe.check()
    with locked(folder):
        _Builder(folder, source, recipe, executor, progress).run()


def request_key(source_key: str, layers: tuple[str, ...], recipe: Recipe) -> str:
    """Identify what a build is asked for, to know a finished one without looking at pictures or weights."""
    levels = [str(level) for level in recipe.levels]
    version = {n: solver_version(n) for n in (("admm", "fastobc") if recipe.solver == "auto" else (recipe.solver,))}
    return key_of([source_key, list(layers), levels, version, recipe.solver, recipe.damping])


@dataclasses.dataclass(frozen=True, slots=True)
class _Waiting:
    """The moments of a layer that waits to be solved.

    Attributes:
        sha256: Of the moments.
        halves: As `solve_layer` takes them.
    """

    sha256: str
    halves: tuple[Half | None, ...]

    @classmethod
    def of(cls, moments: LayerMoments) -> _Waiting:
        """Hash and pack."""
        return cls(moments_sha256(moments), halves_of(moments))


class _Builder:
    def __init__(self, folder: Path, source: Source, recipe: Recipe, executor: Executor, progress: Progress) -> None:
        self.folder, self.source, self.recipe = folder, source, recipe
        self.executor, self.progress = executor, progress
        self.wanted, self.skipped = _plan(source, recipe)
        self.channels: dict[str, ChannelEntry] = {}
        self.channels_finished: str | None = None
        self.units = self._usable()

    def run(self) -> None:
        """Calibrate and solve what is missing, wave by wave."""
        missing = [w.layer for w in self.wanted.values() if not self._done(w)]
        self._write(finished=not missing)
        if not missing:
            return
        self.executor.check()
        waves = self._waves(missing)
        for number, wave in enumerate(waves, 1):
            which = f" ({number} of {len(waves)})" if len(waves) > 1 else ""
            with self.progress.step(f"calibrate on the pictures{which}", self.source.pictures) as advance:
                options = dataclasses.replace(self.source.options, progress=advance)
                with kept_heap():
                    seen = calibrate_wave(self.source.model, wave, self.source.batches(), options)
                    waiting = {layer: _Waiting.of(moments) for layer, moments in seen}
            with self.progress.step(f"solve layer by layer{which}", len(waiting)) as advance:
                for _ in self._solve(waiting):
                    advance(1)
        self._write(finished=True)

    def _waves(self, missing: Sequence[str]) -> list[Wave]:
        """Plan the passes over the pictures: what is longest to solve comes first."""
        model, options = self.source.model, self.source.options
        sizes = {layer: size_bytes(model, layer, options) for layer in missing}
        costs = {layer: float(self._cost(self.wanted[layer])) for layer in missing}
        lots = lots_of(missing, sizes, costs, options.budget_bytes)
        return [wave for lot in lots for wave in waves_for(model, lot, self.source.batches, options)]

    def _usable(self) -> dict[str, UnitEntry]:
        """Return the entries whose files are whole and that belong to this model."""
        try:
            index = read_index(self.folder) if (self.folder / INDEX).exists() else None
        except InputError as error:
            if "newer" in error.what:
                raise
            log.warning("%s: it is built again", error.what)
            return {}
        if index is not None:
            self.channels, self.channels_finished = dict(index.channels), index.channels_finished
        units = {}
        for layer, entry in ({} if index is None else index.units).items():
            if not self._belongs(layer, entry):
                continue
            if is_whole(self.folder, entry):
                units[layer] = entry
            else:
                log.warning("%s is damaged or gone: it is built again", self.folder / entry.file)
        return units

    def _belongs(self, layer: str, entry: UnitEntry) -> bool:
        """Whether an entry may still be right: its layer is asked for, or at least comes from the same model."""
        if layer in self.wanted:
            return entry.inputs.weights_sha256 == self.wanted[layer].inputs.weights_sha256
        return any(entry.inputs.calibration == w.inputs.calibration for w in self.wanted.values())

    def _done(self, wanted: Wanted) -> bool:
        entry = self.units.get(wanted.layer)
        return entry is not None and entry.inputs == wanted.inputs and wanted.specs.keys() <= entry.levels.keys()

    def _solve(self, waiting: dict[str, _Waiting]) -> Iterator[str]:
        """Solve the layers of one wave and yield each when it is on the disk."""
        hashes = {layer: found.sha256 for layer, found in waiting.items()}
        jobs = []
        for layer, sha256 in hashes.items():
            wanted = self.wanted[layer]
            order = self._order(wanted, sha256)
            if order.specs:
                make = functools.partial(self._arguments, order, waiting)
                jobs.append(Job(layer, float(self._cost(wanted)), make))
            else:  # the same moments under another key
                self._put(layer, self.units[layer].model_copy(update={"inputs": wanted.inputs}))
                yield layer
        for layer, solved in self.executor.map(solve_layer, jobs):
            self._keep(self.wanted[layer], hashes[layer], solved)
            del waiting[layer]
            give_back()
            yield layer

    def _cost(self, wanted: Wanted) -> int:
        groups, rows, _ = self.source.weights(wanted.layer).shape
        return groups * wanted.columns**2 * (wanted.columns + rows)

    def _arguments(self, order: Order, waiting: Mapping[str, _Waiting]) -> tuple[object, ...]:
        weight = self.source.weights(order.layer).cpu().numpy()
        return (order, weight, [*waiting[order.layer].halves])

    def _order(self, wanted: Wanted, moments_hash: str) -> Order:
        """Return what is still to be solved; a damping that was chosen on the same moments holds."""
        entry, damping = self._same(wanted, moments_hash), self.recipe.damping
        have = set() if entry is None else entry.levels.keys()
        specs = {level: spec for level, spec in wanted.specs.items() if level not in have}
        shape = tuple(known(self.source.model.get_submodule(wanted.layer)).weight.shape)
        return Order(wanted.layer, shape, specs, wanted.inputs.solver, damping if entry is None else entry.damping)

    def _same(self, wanted: Wanted, moments_hash: str) -> UnitEntry | None:
        """Return the stored entry if it rests on the same weights, moments, solver and damping."""
        entry = self.units.get(wanted.layer)
        if entry is None or entry.moments_sha256 != moments_hash:
            return None
        same = entry.inputs.model_copy(update={"calibration": wanted.inputs.calibration}) == wanted.inputs
        return entry if same else None

    def _keep(self, wanted: Wanted, moments_hash: str, solved: Solved) -> None:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(solved.content)
        levels = {level: LevelEntry(loss=loss, kept=kept) for level, (loss, kept) in solved.found.items()}
        if (entry := self._same(wanted, moments_hash)) is not None:
            tensors |= read_unit(self.folder, entry)
            levels |= entry.levels
        file, digest, size = write_unit(self.folder, wanted.layer, tensors)
        weight = known(self.source.model.get_submodule(wanted.layer)).weight
        made = UnitEntry(
            file=file,
            sha256=digest,
            size_bytes=size,
            shape=list(weight.shape),
            groups=len(self.source.weights(wanted.layer)),
            inputs=wanted.inputs,
            moments_sha256=moments_hash,
            damping=solved.damping,
            energy=solved.energy,
            levels=dict(sorted(levels.items())),
        )
        self._put(wanted.layer, made)

    def _put(self, layer: str, entry: UnitEntry) -> None:
        old = self.units.get(layer)
        self.units[layer] = entry
        self._write(finished=False)
        if old is not None and old.file != entry.file:
            (self.folder / old.file).unlink(missing_ok=True)

    def _write(self, *, finished: bool) -> None:
        """Replace the index; the order of its units does not tell which was solved first."""
        order = {name: number for number, (name, _) in enumerate(self.source.model.named_modules())}
        units = {layer: self.units[layer] for layer in sorted(self.units, key=lambda n: order.get(n, len(order)))}
        request = request_key(self.source.key, self.source.selection.layers, self.recipe)
        index = Index(
            made_by=taco.__version__,
            finished=request if finished else None,
            units=units,
            skipped=self.skipped,
            channels=self.channels,
            channels_finished=self.channels_finished,
        )
        index.write(self.folder)
        if finished:
            named = {entry.file for entry in units.values()} | {entry.file for entry in self.channels.values()}
            for file in (self.folder / FOLDER).iterdir():
                if f"{FOLDER}/{file.name}" not in named:
                    file.unlink()


def _plan(source: Source, recipe: Recipe) -> tuple[dict[str, Wanted], list[Skipped]]:
    """Say what to solve, layer by layer, and which levels fit no layer of that shape."""
    calibration = source.calibration_key()
    wanted, skipped = {}, [Skipped(layer=n, level=None, reason=why) for n, why in source.selection.skipped.items()]
    for layer in source.selection.layers:
        module, W = source.model.get_submodule(layer), source.weights(layer)  # noqa: N806
        specs = {}
        for level in recipe.levels:
            spec = level.spec(module)
            try:
                spec.removed(*W.shape)
            except SolverError as error:
                skipped.append(Skipped(layer=layer, level=str(level), reason=error.what))
            else:
                specs[str(level)] = spec
        solver = recipe.solver_for(W.shape[2])
        inputs = Inputs(
            weights_sha256=weights_sha256(W),
            calibration=calibration,
            solver=solver,
            solver_version=solver_version(solver),
            damping=recipe.damping,
        )
        if specs:
            wanted[layer] = Wanted(layer, inputs, specs, W.shape[2])
    return wanted, skipped


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder ours and keep a second build out of it."""
    with contextlib.ExitStack() as stack:
        try:
            if folder.is_dir() and not _ours(folder):
                raise InputError(f"--out {folder} exists and holds no database", "Give a folder that is new or empty")
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another taco is working in {folder}", "Wait for it, or choose another --out") from error
        except OSError as error:
            raise InputError(f"--out {folder} cannot be used: {error.strerror}", "Choose another --out") from error
        sweep(folder, folder / FOLDER)
        yield


def _ours(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return INDEX in names or names <= {FOLDER, ".lock"}
