"""The device's own answers on real pictures, by the bytes that it will get, beside those of this machine."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taco.attached.ondevice import Device
from taco.errors import MeasurementError
from taco.exporters.protocol import Artifact
from taco.material import Material
from taco.metrics.accuracy import Score
from taco.metrics.gates import Gate, device_gate
from taco.pictures.listing import LabelledPicture
from taco.steps.judge import Judgement
from taco.targets.loading import Target

Labels = npt.NDArray[np.int64]

#: Pictures that travel to the device at most: they come through a link that may be slow.
MOST_PICTURES = 200
MOST_BYTES = 400 * 10**6
#: What a picture counts as that the device could not read: no class.
UNREADABLE = -1


@dataclasses.dataclass(frozen=True, slots=True)
class OnDevice:
    """Answers on the same pictures, here and there.

    Attributes:
        labels: (n,) int64.
        here: (n,) answers of the shipped file on this machine.
        there: (n,) answers of the same bytes on the device; -1 where it could not read the picture.
        judged: How many pictures were judged here; n of them, evenly over the classes, went to the device.
        provider: What ran the model there, read back.
        runtime: Its name and version.
        failures: Why pictures could not be read there.
    """

    labels: Labels
    here: Labels
    there: Labels
    judged: int
    provider: str
    runtime: str
    failures: tuple[str, ...]

    @classmethod
    def of(cls, answer: Mapping[str, Any], judged: Judgement, material: Material, pictures: Sequence[int]) -> OnDevice:
        """Put the device's answer beside ours.

        Raises:
            MeasurementError: The answer is not understood.
        """
        there = _answers(answer, len(pictures), len(material.task.classes))
        index = np.array(pictures, np.int64)
        return cls(
            judged.labels[index],
            judged.exported[index],
            there,
            len(judged.labels),
            str(answer["provider"]),
            f"{answer['runtime']['name']} {answer['runtime']['version']}",
            tuple(answer["failures"].values()),
        )

    @property
    def same(self) -> int:
        """Pictures with the same answer."""
        return int((self.here == self.there).sum())

    def gate(self, judged: Judgement, classes: Sequence[str]) -> Gate:
        """Check that the device's answers lose nothing against those of the same file here.

        Args:
            judged: All answers here; they say whether classes are weighed alike.
            classes: Names of the classes.
        """
        balanced = Score.from_predictions(judged.labels, judged.dense, classes).balanced
        return device_gate(self.labels, self.here, self.there, balanced=balanced)

    def scores(self, classes: Sequence[str]) -> tuple[Score, Score]:
        """Accuracy and recalls, here and there."""
        here, there = (Score.from_predictions(self.labels, got, classes) for got in (self.here, self.there))
        return here, there


@dataclasses.dataclass(frozen=True, slots=True)
class Asking:
    """How the device is asked.

    Attributes:
        device: What is attached.
        target: Gives provider and threads.
        crop_margin: Of boxes; None where whole frames are looked at.
        scratch: For the archive of pictures.
    """

    device: Device
    target: Target
    crop_margin: float | None
    scratch: Path

    def ask(self, model: Artifact, material: Material, pictures: Sequence[int]) -> dict[str, Any]:
        """Send the model and the pictures, and let the device name them.

        Raises:
            MeasurementError: The device cannot; or it used another provider than was asked for.
        """
        chosen_ones = [material.judged[i] for i in pictures]
        archive = self.scratch / "pictures.zip"
        names = _pack(chosen_ones, archive)
        agent = self.device.agent
        place = agent.send([archive], ".zip")[archive]
        folder = agent.ask(["unpack", place])["folder"]
        answer = self.device.classify(
            {
                "model": agent.send([model.path], ".onnx")[model.path],
                "provider": self.target.provider,
                "threads": self.target.threads,
                "preprocessing": material.bank.preprocessing.to_dict(),
                "crop_margin": self.crop_margin,
                "pictures": [
                    {"file": f"{folder}/{name}", "box": None if p.view.box is None else list(p.view.box)}
                    for name, p in zip(names, chosen_ones, strict=True)
                ],
            }
        )
        if answer.get("provider") != self.target.provider:
            raise MeasurementError(
                f"{self.device.name} used {answer.get('provider')} where {self.target.provider} was asked for"
            )
        return answer


def chosen(pictures: Sequence[LabelledPicture]) -> list[int]:
    """Choose the pictures whose files go to the device: at most 200, and so few that the files are at most 400 MB.

    Returns:
        Their numbers, evenly over the classes.

    Raises:
        MeasurementError: Every single file is too large.
    """
    numbers = over_classes(pictures)
    sizes = {path: path.stat().st_size for path in {pictures[n].path for n in numbers}}
    fitting = [n for n in numbers if sizes[pictures[n].path] <= MOST_BYTES]
    if numbers and not fitting:
        path = pictures[numbers[0]].path
        raise MeasurementError(
            f"every picture is too large to send to the device: {path} has {sizes[path] / 1e6:.3g} MB, "
            f"{MOST_BYTES / 1e6:g} MB are sent at most",
            "Give smaller pictures with --eval",
        )

    def total(taken: Sequence[int]) -> int:
        return sum(sizes[path] for path in {pictures[n].path for n in taken})

    fewer = (over_classes(pictures, fitting, most) for most in range(MOST_PICTURES, 0, -1))
    return next(taken for taken in fewer if total(taken) <= MOST_BYTES)


def over_classes(
    pictures: Sequence[LabelledPicture], numbers: Sequence[int] | None = None, most: int = MOST_PICTURES
) -> list[int]:
    """Choose pictures evenly over their classes.

    Args:
        pictures: All of them.
        numbers: Which of them may be chosen; None is each.
        most: So many at most.

    Returns:
        Their numbers.
    """
    by_class: dict[int, list[int]] = {}
    for number in range(len(pictures)) if numbers is None else numbers:
        by_class.setdefault(pictures[number].label_index, []).append(number)
    share = max(1, most // max(1, len(by_class)))
    taken = [n for members in by_class.values() for n in _evenly(members, share)]
    return sorted(_evenly(taken, most))


def _evenly(numbers: Sequence[int], most: int) -> list[int]:
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[i] for i in np.linspace(0, len(numbers) - 1, most).round().astype(int)]


def _pack(pictures: Sequence[LabelledPicture], archive: Path) -> list[str]:
    """Put the files themselves into one archive, once each, under numbers: their own names never reach the device."""
    names = {path: f"{number:04}.img" for number, path in enumerate(dict.fromkeys(p.path for p in pictures))}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        for path, name in names.items():
            opened.writestr(zipfile.ZipInfo(name), path.read_bytes())
    return [names[p.path] for p in pictures]


def _answers(answer: Mapping[str, Any], pictures: int, classes: int) -> Labels:
    logits = answer.get("logits")
    if not isinstance(logits, list) or len(logits) != pictures:
        raise MeasurementError("the device's answers are not understood: there is not one for each picture")
    found = np.full(pictures, UNREADABLE, np.int64)
    for number, row in enumerate(logits):
        if row is None:
            continue
        values = np.asarray(row, np.float64)
        if values.shape != (classes,) or not np.isfinite(values).all():
            raise MeasurementError(f"the device's answer to picture {number} is no {classes} finite logits")
        found[number] = int(values.argmax())
    return found
