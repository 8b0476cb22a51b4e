"""Tasks of eight species from shared/data/animals, for benchmarks that judge accuracy: repeatable from a seed."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from benchmarks._machine import machine
from taco.files import write_atomically
from taco.material import Material, divide, find_pictures
from taco.metrics.accuracy import Score, paired_drop
from taco.model import load_generalist
from taco.options import make_options
from taco.pictures.bank import BankOptions, PictureBank
from taco.recovery.repair import make_teacher
from taco.specialist.specialise import make_head, predict_logits, specialise
from taco.steps.agnostic import CalibrationPictures, agnostic_batches

DATA = Path(__file__).parents[2] / "shared" / "data" / "animals"
CLASSES, SHOTS = 8, 16

#: Species that ImageNet names, whose rows of the head are taken, or others, for which a head is fitted.
Species = Literal["imagenet", "other"]

Answers = npt.NDArray[np.int64]


def imagenet_indices(data: Path) -> dict[str, int]:
    """Return species -> the output of ImageNet models that names it, of those that one does."""
    return {name: fact["imagenet_index"] for name, fact in sorted(_facts(data).items()) if "imagenet_index" in fact}


def names_of(data: Path, species: Species) -> list[str]:
    """Return the species of one kind, in order."""
    known = set(imagenet_indices(data))
    return sorted(known if species == "imagenet" else set(_facts(data)) - known)


def _facts(data: Path) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = json.loads(data.with_suffix(".json").read_text())
    return found


def species_options(data: Path, species: Species, seed: int, folder: Path) -> dict[str, Any]:
    """Return the options that say which task of eight species a seed stands for.

    Args:
        data: The pictures, with their facts beside them.
        species: Which to choose among.
        seed: Chooses them, and is the run's own.
        folder: For the map of classes, which is written.
    """
    among = names_of(data, species)
    classes = sorted(np.random.default_rng(1000 + seed).choice(among, CLASSES, replace=False).tolist())
    values: dict[str, Any] = {"task": data, "classes": tuple(classes), "seed": seed}
    if species == "imagenet":
        folder.mkdir(parents=True, exist_ok=True)
        values["class_map"] = folder / "map.json"
        write_atomically(values["class_map"], json.dumps(imagenet_indices(data)).encode())
    return values


class Setting:
    """The task of one seed: its pictures, its dense specialist, and pictures of species outside the task."""

    def __init__(
        self, seed: int, data: Path, scratch: Path, *, species: Species = "imagenet", model: str | None = None
    ) -> None:
        self.seed, self.scratch = seed, scratch
        given = species_options(data, species, seed, scratch)
        classes = given["classes"]
        given |= {"target": "host-cpu", "shots": SHOTS, "out": scratch / "out"}
        if model is not None:
            given["model"] = model
        self.options = make_options(given)
        generalist = load_generalist(self.options.model)
        listings = find_pictures(self.options)
        self.preprocessing = generalist.preprocessing
        bank = PictureBank.read(listings.views, self.preprocessing, BankOptions(scratch / f"{species}-{seed}.pixels"))
        self.material: Material = divide(listings, bank, self.options)
        self.dense = specialise(generalist, make_head(generalist, self.material, self.options)).module
        outside = [name for name in names_of(data, "imagenet") if name not in classes]
        others = [path for name in outside for path in sorted((data / name).iterdir())]
        order = np.random.default_rng(seed).permutation(len(others))
        self._others = [others[i] for i in order]

    def pictures(self, calibration: str) -> CalibrationPictures:
        """Return what to calibrate on."""
        fit = self.material.task.fit
        if calibration == "task":
            return CalibrationPictures({}, len(fit), lambda: self.material.batches(fit))
        read = functools.cache(lambda: agnostic_batches(self._others, len(fit), self.preprocessing))
        return CalibrationPictures({"agnostic": f"other species, seed {self.seed}"}, len(fit), lambda: read()())

    @functools.cached_property
    def teacher(self) -> Any:
        """The dense specialist's answers on the select pictures."""
        return make_teacher(self.dense, self.material)

    def answers(self, module: nn.Module) -> npt.NDArray[np.float32]:
        """Return logits on the select pictures, (n, classes)."""
        return predict_logits(module, self.material.batches(self.material.task.select))

    def judge(self, module: nn.Module) -> dict[str, Any]:
        """Return accuracies on the evaluation pictures and the paired drop."""
        labels, dense = self._judged
        got = predict_logits(module, self.material.batches(self.material.judged)).argmax(1)
        found = compared(labels, dense, got, self.material.task.classes)
        return {"dense": found.pop("before"), **found}

    @functools.cached_property
    def _judged(self) -> tuple[Any, Any]:
        labels = np.array([p.label_index for p in self.material.judged])
        return labels, predict_logits(self.dense, self.material.batches(self.material.judged)).argmax(1)


def compared(labels: Answers, first: Answers, second: Answers, classes: Sequence[str]) -> dict[str, Any]:
    """Return how right the second answers are and how many points they lose against the first, with intervals."""
    before, after = (Score.from_predictions(labels, answers, classes) for answers in (first, second))
    drop = paired_drop(labels, first, second, before.balanced)
    return {
        "before": before.top1.percent,
        "percent": after.top1.percent,
        "low": after.top1.low,
        "high": after.top1.high,
        "n": after.top1.n,
        "drop": drop.points,
        "drop_low": drop.low,
        "drop_high": drop.high,
    }


def write_cell(results: Path, cell: Any, found: Mapping[str, Any]) -> None:
    """Keep a cell (a dataclass with a `name`), the machine and what was found, as JSON, and tell it."""
    content = json.dumps({**dataclasses.asdict(cell), **machine(), **found}, indent=1) + "\n"
    write_atomically(results / f"{cell.name}.json", content.encode())
    print(f"{cell.name}: {found['percent']:.1f} % (dense {found['dense']:.1f} %)", flush=True)
