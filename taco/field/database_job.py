"""`taco database build`: from a task and a model to a database, composed of the same steps as the whole job."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from taco.calibrate import CalibrationOptions
from taco.compress import calibrate_units
from taco.database.build import request_key
from taco.database.channels import build_widths, note_finished, widths_key
from taco.database.layers import LayerDatabase
from taco.database.recipe import Recipe
from taco.database.selection import choose_layers
from taco.database.source import Source, key_of
from taco.errors import InputError
from taco.executor import Executor
from taco.files import sha256_of, stamp
from taco.formats.folder import picture_files
from taco.material import divide, find_pictures
from taco.model import load_generalist
from taco.options import ExportOptions
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.listing import View
from taco.progress import Progress
from taco.specialist.head import check_classifier
from taco.specialist.specialise import make_head, specialise
from taco.steps.agnostic import calibration_pictures
from taco.steps.keys import versions
from taco.units import find_units

#: Options that decide which pictures are calibrated on, and the head; the files themselves are looked at beside.
_DIVIDING = ("model", "shots", "seed", "split_by", "classes", "head", "random_weights", "max_images")


@dataclasses.dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """What is asked besides the task and the model.

    Attributes:
        recipe: Levels, solver, damping.
        include: Globs of layers; empty is all but the first convolution and the classifier.
        exclude: Globs of layers that stay dense.
        executor: Where layers and units are solved.
        widths: Also find the order in which the channels of every unit that a run cuts leave.
    """

    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    executor: Executor = dataclasses.field(default_factory=Executor)
    widths: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """A database, and whether it was there already."""

    database: LayerDatabase
    already_done: bool


def build_database(options: ExportOptions, how: DatabaseOptions, progress: Progress) -> Built:
    """Build it, or find it built; a build that was stopped goes on.

    Args:
        options: Task, model, weights, head, shots, seed, calibration; `out` is the database's folder.
        how: Everything else.
        progress: Told about every step.

    Raises:
        TacoError: The first thing that is wrong.
    """
    how.recipe.check()
    job = _Job(options, how, progress)
    request = request_key(job.key(), job.selection.layers, how.recipe)
    done = _finished(options.out, request, widths_key(job.key()) if how.widths else None)
    if done is not None:
        return Built(done, already_done=True)
    how.executor.check()
    with tempfile.TemporaryDirectory(prefix="taco-") as scratch:
        source = job.source(Path(scratch))
        LayerDatabase.build(options.out, source, how.recipe, how.executor, progress)
        if how.widths:
            job.build_widths(source)
        return Built(LayerDatabase.open(options.out), already_done=False)


def _finished(folder: Path, request: str, widths: str | None) -> LayerDatabase | None:
    """Return the database of a folder if it answers this very request and every file is whole."""
    try:
        database = LayerDatabase.open(folder)
        if database.index.finished == request and widths in (None, database.index.channels_finished):
            database.verify()
            return database
    except InputError:  # the build says what is wrong, or repairs it
        pass
    return None


class _Job:
    """What is cheap to know of a build, and how to get the rest."""

    def __init__(self, options: ExportOptions, how: DatabaseOptions, progress: Progress) -> None:
        self.options, self.how, self.progress = options, how, progress
        self.listings = find_pictures(options)
        weights = None if options.weights is None else str(options.weights)
        self.generalist = load_generalist(
            options.model, weights, random_weights=options.random_weights, seed=options.seed
        )
        check_classifier(self.generalist)
        self.selection = choose_layers(self.generalist.module, how.include, how.exclude)

    def key(self) -> str:
        """Identify the pictures, how they are prepared and divided, and the specialist's head."""
        options = self.options.model_dump(mode="json", include=set(_DIVIDING))
        folder = self.options.agnostic_images
        general = [] if folder is None else [(str(p), *stamp(p)) for p in sorted(picture_files(folder))]
        mapped = self.options.class_map
        return key_of(
            {
                "options": options,
                "pictures": self.listings.fingerprint(),
                "general": general,
                "preprocessing": self.generalist.preprocessing.to_dict(),
                "weights": self.generalist.weights_sha256,
                "class_map": None if mapped is None else sha256_of(mapped),
                "versions": versions(),
            }
        )

    def source(self, scratch: Path) -> Source:
        """Read the pictures and make the specialist."""
        bank = self._read(self.listings.views, scratch / "task.pixels")
        material = divide(self.listings, bank, self.options)
        with self.progress.step("specialise the head"):
            module = specialise(self.generalist, make_head(self.generalist, material, self.options)).module
        pictures = calibration_pictures(material, self.options)
        options = CalibrationOptions(seed=self.options.seed)
        return Source(module, self.selection, pictures.batches, self.key(), pictures.count, options)

    def build_widths(self, source: Source) -> None:
        """Make the database hold the order of every unit that a run cuts."""
        found = find_units(source.model, self.generalist.preprocessing.input_size).unit_by_unit
        with self.progress.step("calibrate the units", source.pictures) as advance:
            moments = calibrate_units(source.model, found, source.batches(), advance)
        build_widths(self.options.out, source.model, (found, moments), self.how.executor, self.progress)
        note_finished(self.options.out, widths_key(self.key()))

    def _read(self, views: Sequence[View], file: Path) -> PictureBank:
        done = 0

        def tell(now: int, _total: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        with self.progress.step("read the pictures", len(views)) as advance:
            return PictureBank.read(views, self.generalist.preprocessing, BankOptions(file, progress=tell))
