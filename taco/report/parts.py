"""What several parts of `report.json` are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from taco.wording import all_printable


class Frozen(BaseModel):
    """Refuses fields that it does not know and numbers that JSON cannot hold; every text in it is valid Unicode."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _printable(cls, values: Any) -> Any:
        return all_printable(values)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy it with other values, as pydantic does, whose texts are made valid Unicode as well."""
        return super().model_copy(update=None if update is None else all_printable(update), deep=deep)


class Proportion(Frozen):
    """A percentage with its 95 % Wilson interval and the number of pictures behind it."""

    percent: float
    low: float
    high: float
    n: int


class GateResult(Frozen):
    """One check before shipping."""

    name: str
    passed: bool | None = Field(description="null where it could not be decided")
    measured: str
    limit: str


class Latency(Frozen):
    """Milliseconds of single images, over all interleaved rounds."""

    n: int
    min: float
    p50: float
    p90: float
    p99: float
    samples: list[float] = Field(description="raw samples in milliseconds, in the order taken")
