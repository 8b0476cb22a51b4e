"""What several parts of `report.json` are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """Refuses fields that it does not know, and numbers that JSON cannot hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


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
