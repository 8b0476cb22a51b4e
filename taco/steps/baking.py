"""The model with preprocessing baked in, and whether it answers as the exported file does."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from taco.device.images import resize_crop
from taco.exporters.baked import bake
from taco.exporters.loading import load_exporter
from taco.exporters.protocol import RunOptions
from taco.files import write_atomically
from taco.material import Material
from taco.metrics.gates import Gate
from taco.pictures.bank import open_view
from taco.steps.judge import Judgement

BAKED_NAME = "model.pixels.onnx"
#: Percent of the pictures, read from their files again, whose answer must be the exported file's.
LEAST_SAME = 99.5


@dataclasses.dataclass(frozen=True, slots=True)
class Baked:
    """A baked model.

    Attributes:
        path: The ONNX file.
        from_pixels: Pictures, of those decoded for the run, with another answer than the exported file's.
        from_files: Pictures, decoded again one by one as a device does, with another answer.
        images: How many were compared.
    """

    path: Path
    from_pixels: tuple[str, ...]
    from_files: tuple[str, ...]
    images: int

    def facts(self) -> dict[str, Any]:
        """Return everything but the path, as JSON values."""
        return {"from_pixels": self.from_pixels, "from_files": self.from_files, "images": self.images}


def make_baked(exported: Path, out: Path, material: Material, judged: Judgement, *, simulate: bool) -> dict[str, Any]:
    """Bake an exported file and compare answers on the judged pictures.

    Args:
        exported: Takes float32, gives logits.
        out: Where to write.
        material: The pictures.
        judged: Answers of the exported file.
        simulate: Run Q/DQ in floats, as the exported file was run.

    Returns:
        `Baked.facts` as JSON values.
    """
    baked = bake(onnx.load(exported), material.bank.preprocessing)
    write_atomically(out, baked.SerializeToString(deterministic=True))
    session = load_exporter("ort").open(out, RunOptions(os.cpu_count() or 1, simulate=simulate))
    from_pixels, from_files = [], []
    for picture, answer in zip(material.judged, judged.exported, strict=True):
        pixels = material.bank.pixels([picture.view])
        if int(np.argmax(session.run(pixels))) != answer:
            from_pixels.append(str(picture.path))
        again = resize_crop(open_view(picture.view), material.bank.preprocessing)[None]
        if int(np.argmax(session.run(again))) != answer:
            from_files.append(str(picture.path))
    return Baked(out, tuple(from_pixels), tuple(from_files), len(material.judged)).facts()


def baked_gate(baked: Baked) -> Gate:
    """Require the same answers on decoded pixels, and nearly all of them through the files."""
    same = 100 * (1 - len(baked.from_files) / baked.images)
    listed = f": {', '.join(baked.from_files[:10])}" if baked.from_files else ""
    return Gate(
        "preprocessing baked in",
        not baked.from_pixels and same >= LEAST_SAME,
        f"{len(baked.from_pixels)} of {baked.images} answers differ on the same pixels, {len(baked.from_files)} "
        f"through the picture files{listed}",
        f"0; at most {100 - LEAST_SAME:g} %",
    )
