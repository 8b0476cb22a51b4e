"""What a copied folder says of the micro-models that it holds: `units/units.json`, written and read here. No torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from taco.device.trt_units import DENSE
from taco.targets.loading import Precision

#: The sweep of the dense model with zeros in its weights; those of units are called by their signatures.
ZEROS_SWEEP = "zeros"
#: The sweep of smaller whole models.
WHOLES_SWEEP = "wholes"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CarriedModel(_Frozen):
    """One micro-model, as `taco.device.trt_kit.read_models` reads it."""

    weak: str
    strong: str
    precision: Precision
    sparse: bool


class CarriedUnit(_Frozen):
    """A unit, and the sweep that times it."""

    kind: str
    holder: str
    signature: str
    widths: tuple[int, ...] = Field(min_length=1)


class UnitList(_Frozen):
    """What `units.json` says."""

    schema_: Literal[1] = Field(alias="schema")
    model: str
    target: str
    provider: str
    precision: Precision
    architecture: str = Field(description="as in the key of a latency table")
    software: str = Field(default="", description="likewise; earlier versions noted none")
    units: dict[str, CarriedUnit]
    skipped: dict[str, str] = Field(description="units that cannot be timed by themselves, and why")
    sweeps: dict[str, dict[str, CarriedModel]]
    wholes: dict[str, dict[str, int]] = Field(
        default={}, description="whole model -> unit -> width; block that is left out -> 0"
    )
    files: dict[str, str] = Field(description="name -> SHA-256")
    rounds: int
    round_s: float
    max_s: float

    @model_validator(mode="after")
    def _each_unit_is_in_a_sweep(self) -> Self:
        for name, models in self.sweeps.items():
            if DENSE not in models:
                raise ValueError(f"sweep {name!r} has no {DENSE!r} to compare with")
        if lacking := set(self.wholes) - set(self.sweeps.get(WHOLES_SWEEP, {})):
            raise ValueError(f"sweep {WHOLES_SWEEP!r} has no {', '.join(sorted(lacking))}")
        for name, unit in self.units.items():
            lacking = {str(width) for width in unit.widths} - set(self.sweeps.get(unit.signature, {}))
            if lacking:
                raise ValueError(f"unit {name!r}: sweep {unit.signature!r} has no width {', '.join(sorted(lacking))}")
        return self
