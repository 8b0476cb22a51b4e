"""One type of level for everything that a unit can become (ARCHITECTURE 4)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn

from taco.errors import InputError
from taco.solvers.spec import Spec

Kind = Literal["dense", "channels", "drop", "nm", "block", "unstructured"]
BLOCK = 4
_EXAMPLES = "Levels are written as in dense, unstructured:0.9, nm:2:4, block:0.5, channels:96, drop"


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """How far one unit is compressed.

    Attributes:
        kind: `dense`; `unstructured` and `block` (1x4 along the input channels) with their sparsity; `nm` with n:m;
            `channels` with the kept width; `drop`, a whole residual block.
        value: Sparsity, kept width, or "n:m"; None for `dense` and `drop`.
    """

    kind: Kind
    value: float | int | str | None = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> Level:
        """Read what `str` wrote.

        Raises:
            InputError: It is no level.
        """
        kind, _, value = text.partition(":")
        try:
            level = _read(kind, value)
        except ValueError:
            level = None
        if level is not None:
            return level
        raise InputError(f"{text!r} is no level", _EXAMPLES)

    def spec(self, layer: nn.Module) -> Spec:
        """Return what a solver must do to a Linear or Conv2d; blocks and N:M run along its input channels.

        Raises:
            InputError: The level is not one of a single layer's.
        """
        stride = layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1
        match self.kind:
            case "dense":
                return Spec()
            case "unstructured":
                return Spec.unstructured(float(self.value or 0))
            case "block":
                return Spec.block(BLOCK, float(self.value or 0), stride)
            case "nm":
                return Spec.nm(*_nm(str(self.value)), stride)
        raise InputError(f"level {self} is not one of a single layer", _EXAMPLES)


def _read(kind: str, value: str) -> Level | None:
    match kind:
        case "dense" | "drop" if not value:
            return Level(kind)
        case "unstructured" | "block" if 0 < float(value) < 1:
            return Level(kind, float(value))
        case "channels" if int(value) > 0:
            return Level(kind, int(value))
        case "nm" if 0 < _nm(value)[0] < _nm(value)[1]:
            return Level(kind, value)
    return None


def _nm(text: str) -> tuple[int, int]:
    n, m = text.split(":")
    return int(n), int(m)
