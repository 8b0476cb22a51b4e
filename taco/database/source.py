"""What a database is made from: a dense model, its layers, and the pictures that its second moments come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import torch
from torch import nn

from taco.calibrate import Batches, CalibrationOptions
from taco.database.selection import Selection
from taco.model import state_sha256
from taco.moments.sums import LayerMoments
from taco.moments.unfold import known, weight_matrix

#: Less than the usual budget: the workers need memory, too. Three layers of 4,608 columns fit in, and some that are
#: solved beside them.
_OPTIONS = CalibrationOptions(budget_bytes=1040 * 1024**2)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Inputs of a build.

    Attributes:
        model: The dense model in eval mode; not modified.
        selection: From `choose_layers`.
        batches: Gives the pictures, the same each time; not asked when nothing is to be solved.
        key: Identifies the pictures and their preparation, without looking at them.
        pictures: How many there are, for the time left; None where it is not known.
        options: How to calibrate.
    """

    model: nn.Module
    selection: Selection
    batches: Batches
    key: str
    pictures: int | None = None
    options: CalibrationOptions = _OPTIONS

    def calibration_key(self) -> str:
        """Identify everything that the moments of any layer depend on."""
        how = (self.options.positions, self.options.halves, self.options.seed, self.options.first_picture)
        return key_of({"model": state_sha256(self.model), "pictures": self.key, "how": how})

    def weights(self, layer: str) -> torch.Tensor:
        """Return a layer's weights as (groups, rows, cols)."""
        return weight_matrix(known(self.model.get_submodule(layer)))


def key_of(value: Any) -> str:
    """Hash JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def weights_sha256(weight: torch.Tensor) -> str:
    """Hash a layer's weights, dtype and shape included."""
    return _sha256(f"{weight.dtype}|{tuple(weight.shape)}|", weight)


def moments_sha256(moments: LayerMoments) -> str:
    """Hash what a solver gets to see of a layer's inputs."""
    halves = [half for half in (moments.fit, moments.held_out) if half is not None]
    return _sha256(f"{[half.n for half in halves]}|", *(half.second for half in halves))


def _sha256(text: str, *tensors: torch.Tensor) -> str:
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
