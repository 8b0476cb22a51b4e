"""Task + generalist -> the dense specialist: pictures read, shots split, head cut or fitted."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from taco.errors import TaskError
from taco.head import Linear, cut_head, fit_head, keep_head, plan_head, with_head
from taco.model import Generalist
from taco.options import ExportOptions
from taco.pictures import BankOptions, PictureBank
from taco.progress import Advance
from taco.task import LabelledPicture, Listing, SplitOptions, Task, list_pictures, split

_BATCH = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Material:
    """The task's pictures, decoded once."""

    task: Task
    bank: PictureBank

    def batches(self, pictures: Iterable[LabelledPicture]) -> Iterator[torch.Tensor]:
        """Yield float32 inputs, (at most 32, 3, H, W)."""
        return (torch.from_numpy(b) for b in self.bank.batches([p.path for p in pictures], _BATCH))

    @property
    def shots(self) -> tuple[LabelledPicture, ...]:
        """Fit and select pictures together."""
        return (*self.task.fit, *self.task.select)

    @property
    def judged(self) -> tuple[LabelledPicture, ...]:
        """The pictures that accuracies are computed on: evaluation, or select where none are left."""
        return self.task.evaluation or self.task.select


@dataclasses.dataclass(frozen=True, slots=True)
class Listings:
    """What was found before anything was decoded."""

    task: Listing
    evaluation: Listing | None

    @property
    def paths(self) -> list[Path]:
        """Every picture."""
        own = [p.path for p in self.task.pictures]
        return own + ([p.path for p in self.evaluation.pictures] if self.evaluation else [])

    def fingerprint(self) -> list[list[tuple[str, str, int, int]]]:
        """Identify the task's and the evaluation's pictures by class, path, size and time, without reading them."""
        return [_fingerprint(listing) for listing in (self.task, self.evaluation) if listing is not None]


def _fingerprint(listing: Listing) -> list[tuple[str, str, int, int]]:
    try:
        found = [(p, p.path.stat()) for p in listing.pictures]
    except OSError as error:
        raise TaskError(f"{error.filename}: {error.strerror}", "Was it removed while the run began?") from error
    return [(listing.classes[p.label_index], str(p.path), s.st_size, s.st_mtime_ns) for p, s in found]


def find_pictures(options: ExportOptions) -> Listings:
    """List the task's pictures and, with `--eval`, the evaluation pictures."""
    task = list_pictures(options.task, options.classes)
    evaluation = None if options.evaluation is None else list_pictures(options.evaluation, options.classes)
    return Listings(task, evaluation)


def read_material(
    listings: Listings, generalist: Generalist, options: ExportOptions, folder: Path, advance: Advance
) -> Material:
    """Decode every picture once at the model's input size and divide them.

    Args:
        listings: From `find_pictures`.
        generalist: Gives the preprocessing.
        options: Shots and seed.
        folder: Where large banks are kept.
        advance: Called with the number of pictures done.
    """
    done = 0

    def progress(now: int, _total: int) -> None:
        nonlocal done
        advance(now - done)
        done = now

    bank = PictureBank.read(listings.paths, generalist.preprocessing, BankOptions(folder, progress=progress))
    how = SplitOptions(options.shots, options.seed, listings.evaluation)
    return Material(split(listings.task, frozenset(bank.readable), how, bank.skipped), bank)


@dataclasses.dataclass(frozen=True, slots=True)
class Specialist:
    """The dense specialist: what everything compressed is compared with."""

    module: nn.Module
    head: str


def specialise(generalist: Generalist, material: Material, options: ExportOptions) -> Specialist:
    """Give the generalist a head for the task's classes.

    Raises:
        HeadError: See `taco.head.plan_head`.
    """
    classes = material.task.classes
    choice, rows = plan_head(generalist, classes, options.head, options.class_map)
    if choice == "imagenet":
        head = cut_head(generalist, [row for row in rows.values() if row is not None])
    elif choice == "keep":
        head = keep_head(generalist, classes)
    else:
        head = _fitted(generalist, material, options.seed)
    return Specialist(with_head(generalist.module, head), head.description)


def _fitted(generalist: Generalist, material: Material, seed: int) -> Linear:
    # Without evaluation pictures the select pictures judge the result, so the head must not have seen them.
    pictures = material.shots if material.task.evaluation else material.task.fit
    features = penultimate(generalist.module, material.batches(pictures))
    labels = torch.tensor([p.label_index for p in pictures])
    if int(labels.bincount(minlength=len(material.task.classes)).min()) < 2:
        raise TaskError(
            "a new head needs at least 2 pictures of every class to fit on",
            "Add pictures, or use classes that the model already knows (--class-map)",
        )
    return fit_head(features, labels, seed)


def penultimate(module: nn.Module, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the features that the classifier sees, (n, d) float32."""
    with torch.inference_mode():
        parts = [
            module.forward_head(module.forward_features(x), pre_logits=True)  # type: ignore[operator]
            for x in batches
        ]
    return torch.cat(parts).float().clone()


def predict_logits(module: nn.Module, batches: Iterable[torch.Tensor]) -> npt.NDArray[np.float32]:
    """Return the logits of a torch model, (n, classes) float32; channels_last, which halves the time on a CPU."""
    model = copy.deepcopy(module).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        parts = [model(x.contiguous(memory_format=torch.channels_last)) for x in batches]
    logits: npt.NDArray[np.float32] = torch.cat(parts).float().numpy()
    return logits
