"""`LayerDatabase`: read layers at levels and units at widths, and stitch layers into a new model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from taco.database.build import build
from taco.database.channels import read_removal
from taco.database.index import ChannelEntry, Index, LevelEntry, Skipped, UnitEntry, read_index
from taco.database.recipe import Recipe
from taco.database.source import Source, weights_sha256
from taco.database.unit_file import read_unit
from taco.errors import InputError
from taco.executor import Executor
from taco.levels import Level
from taco.moments.unfold import known, weight_matrix
from taco.progress import PlainProgress, Progress
from taco.sparse.stored import support, unpack
from taco.surgery.removal import Removal
from taco.wording import nearest

DENSE = Level("dense")


class LayerDatabase:
    """Units (layers) at levels, on disk. Make it with `build` or `open`; every read is checked against its hash."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index

    @classmethod
    def build(
        cls,
        folder: Path,
        source: Source,
        recipe: Recipe | None = None,
        executor: Executor | None = None,
        progress: Progress | None = None,
    ) -> LayerDatabase:
        """Solve what is not in the folder yet, and return what is there; see `taco.database.build.build`."""
        build(folder, source, recipe or Recipe(), executor or Executor(), progress or PlainProgress())
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> LayerDatabase:
        """Open what was built.

        Raises:
            InputError: There is none, it is damaged, or a newer version made it.
        """
        return cls(folder, read_index(folder))

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the layers, in the model's order."""
        return tuple(self.index.units)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Layers and levels that stay dense, with the reasons."""
        return tuple(self.index.skipped)

    def entry(self, unit: str) -> UnitEntry:
        """Return all that is known of a layer.

        Raises:
            InputError: It is not in the database.
        """
        if unit not in self.index.units:
            raise InputError(f"{unit!r} is not in the database {self.folder}", nearest(unit, self.units))
        return self.index.units[unit]

    def levels(self, unit: str) -> tuple[Level, ...]:
        """Return the solved levels of a layer, the gentlest first; `dense` is always possible beside them."""
        stored = self.entry(unit).levels
        return tuple(Level.parse(text) for text in sorted(stored, key=lambda text: (-stored[text].kept, text)))

    def loss(self, unit: str, level: Level) -> float:
        """Return 1/2 tr(dW H dW^T) on the damped second moments; 0 for `dense`."""
        return self._at(unit, level).loss

    def relative_loss(self, unit: str, level: Level) -> float:
        """Return the loss as a share of removing the whole layer, 0 to about 1."""
        energy = self.entry(unit).energy
        return self.loss(unit, level) / energy if energy else 0.0

    def nonzeros(self, unit: str, level: Level) -> int:
        """Return how many weights the level keeps."""
        return self._at(unit, level).kept

    def weight(self, unit: str, level: Level) -> torch.Tensor:
        """Return a layer's weights, of the layer's own shape and dtype.

        Raises:
            InputError: Unit or level are not there (`dense` weights are the model's), or the file is damaged.
        """
        self._stored(unit, level)
        return unpack(str(level), read_unit(self.folder, self.entry(unit)))

    def mask(self, unit: str, level: Level) -> torch.Tensor:
        """Return which weights stay, bool of the layer's shape; some of them may be zero."""
        self._stored(unit, level)
        return support(str(level), read_unit(self.folder, self.entry(unit)))

    @property
    def channel_units(self) -> tuple[str, ...]:
        """Names of the units of channels whose widths are known."""
        return tuple(self.index.channels)

    def removal(self, unit: str) -> Removal:
        """Return the order in which a unit's channels leave, with the loss at every width.

        Raises:
            InputError: It is not in the database, or its file is damaged.
        """
        return read_removal(self.folder, self.channel_entry(unit))

    def widths(self, unit: str, step: int = 1) -> dict[Level, float]:
        """Return the widths of a unit at multiples of `step`, the widest first, each with its loss.

        Losses are shares of what the unit's readers give, see `taco.surgery.removal.Removal.loss`; 0 for the dense
        width.

        Raises:
            InputError: It is not in the database, or its file is damaged.
        """
        entry, order = self.channel_entry(unit), self.removal(unit)
        together = math.lcm(step, entry.multiple)
        narrower = range((entry.width - 1) // together * together, 0, -together)
        return {Level("channels", width): float(order.loss[entry.width - width]) for width in (entry.width, *narrower)}

    def channel_entry(self, unit: str) -> ChannelEntry:
        """Return all that is known of a unit of channels but its order.

        Raises:
            InputError: It is not in the database.
        """
        if unit not in self.index.channels:
            raise InputError(f"no widths of {unit!r} are in {self.folder}", nearest(unit, self.channel_units))
        return self.index.channels[unit]

    def verify(self) -> None:
        """Read every file.

        Raises:
            InputError: The first that is missing or damaged.
        """
        for entry in self.index.units.values():
            read_unit(self.folder, entry)
        for unit in self.index.channels.values():
            read_unit(self.folder, unit)

    def stitch(self, model: nn.Module, levels: Mapping[str, Level]) -> nn.Module:
        """Return a new model with each layer at its level; layers that are not named stay dense.

        Args:
            model: The dense model that the database was made from; not modified.
            levels: Unit -> level.

        Raises:
            InputError: The model's weights are not those, or unit, level or file are not there.
        """
        for unit in self.units:
            self._check_model(model, unit)
        stitched = copy.deepcopy(model)
        for unit, level in levels.items():
            self._at(unit, level)
            if level == DENSE:
                continue
            parameter = known(stitched.get_submodule(unit)).weight
            with torch.no_grad():
                parameter.copy_(self.weight(unit, level))
        return stitched

    def _check_model(self, model: nn.Module, unit: str) -> None:
        try:
            found = weights_sha256(weight_matrix(known(model.get_submodule(unit))))
        except AttributeError:
            found = ""
        if found != self.entry(unit).inputs.weights_sha256:
            raise InputError(
                f"the model's {unit} is not the one that the database {self.folder} was made from",
                "Give the dense model that it was built on, or build it again",
            )

    def _at(self, unit: str, level: Level) -> LevelEntry:
        entry = self.entry(unit)
        if level == DENSE:
            return LevelEntry(loss=0.0, kept=int(torch.tensor(entry.shape).prod()))
        return self._stored(unit, level)

    def _stored(self, unit: str, level: Level) -> LevelEntry:
        stored = self.entry(unit).levels
        if str(level) not in stored:
            raise InputError(f"{unit} was not solved at {level}", f"It was at: {', '.join(stored)}")
        return stored[str(level)]
