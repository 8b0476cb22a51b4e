"""An unfinished recovery on disk: a killed run goes on from it and ends bit for bit the same. Safetensors and JSON."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from taco.files import write_atomically

log = logging.getLogger(__name__)

#: Saving takes a fraction of a second; a kill loses no more than this.
EVERY_S = 15.0


@dataclasses.dataclass(eq=False)
class Checkpoint:
    """Where an unfinished recovery is kept; when it is saved depends on the clock, what it holds does not.

    Attributes:
        file: Its name must identify the recovery: whatever its result depends on.
        every_s: Seconds between saves.
    """

    file: Path
    every_s: float = EVERY_S
    _saved: float = dataclasses.field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Tell whether it is time to save again."""
        return time.monotonic() - self._saved >= self.every_s

    def save(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write everything, replacing what was there.

        Args:
            tensors: By name.
            facts: JSON values.

        Raises:
            TacoError: The disk is full.
        """
        plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, safetensors.torch.save(plain, {"facts": json.dumps(facts)}))
        self._saved = time.monotonic()

    def load(self) -> tuple[dict[str, torch.Tensor], Any] | None:
        """Return what was saved last; None where nothing was, or where it is damaged, which is logged."""
        if not self.file.is_file():
            return None
        try:
            with safetensors.safe_open(self.file, "pt") as stored:
                facts = json.loads(stored.metadata()["facts"])
                return {name: stored.get_tensor(name).clone() for name in stored.keys()}, facts  # noqa: SIM118
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the unfinished recovery %s is damaged and begins again: %s", self.file, error)
            return None

    def drop(self) -> None:
        """Forget it: the recovery is finished."""
        self.file.unlink(missing_ok=True)
