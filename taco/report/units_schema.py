"""The part of `report.json` about devices in the field: one record a device, and what a day of work needs."""

from __future__ import annotations

from pydantic import Field, model_validator

from taco.report.device_schema import SustainedMinute
from taco.report.parts import Frozen, Latency, Proportion


class Ratio(Frozen):
    """A median of interleaved rounds' ratios with its interval."""

    value: float
    low: float
    high: float


class ThreadsTime(Frozen):
    """Medians with another number of threads."""

    threads: int
    p50: dict[str, float] = Field(description="model -> milliseconds")


class DeviceAnswers(Frozen):
    """A device's own answers on pictures, beside those of the same file on the machine of this report."""

    images: int
    same: int
    here: Proportion
    there: Proportion
    passed: bool | None = Field(description="null where there are too few pictures to decide")


class UnitRun(Frozen):
    """What one device did. Everything but its address is empty or null where it could not be asked."""

    address: str
    leads: bool = Field(default=False, description="the widths were chosen by this device's times")
    problem: str | None = Field(default=None, description="why nothing was measured there")
    emulated: str | None = Field(default=None, description="how it is emulated; its times mean nothing, none is taken")
    board: str | None = None
    runtime: str | None = Field(default=None, description="what ran the models there, with its version, read back")
    provider: str | None = None
    threads: int | None = None
    models: dict[str, Latency] = Field(default={}, description="milliseconds by model, all from the same rounds")
    speedup: Ratio | None = Field(default=None, description="dense over compressed on this device")
    slow: float | None = Field(
        default=None, description="times the median of the other devices, where it surely takes more than 1.1 times it"
    )
    differs: list[str] = Field(default=[], description="of a slow one: in what it differs from the others")
    cold_ms: dict[str, float] = Field(default={}, description="very first run of each model")
    idle_ms: list[float] = Field(default=[], description="first runs of the compressed model after a pause")
    sustained: list[SustainedMinute] = Field(default=[], description="work of the compressed model without a pause")
    sweep: list[ThreadsTime] = Field(default=[], description="other numbers of threads")
    rest_w: float | None = Field(default=None, description="power at rest, watts")
    rest_source: str | None = Field(default=None, description="where that was read, and what is not in it")
    answers: DeviceAnswers | None = None
    deployed_to: str | None = None
    measured_on: dict[str, str] | None = Field(default=None, description="the machine and its state before and after")
    unstable: list[str] = Field(default=[], description="what disturbed the measurement")
    repeated: bool = False

    @property
    def measured(self) -> bool:
        """Whether the compressed model was timed there."""
        return "compressed" in self.models

    @model_validator(mode="after")
    def _emulated_times_are_none(self) -> UnitRun:
        times = (self.models, self.cold_ms, self.idle_ms, self.sustained, self.sweep, self.speedup, self.measured_on)
        if self.emulated is not None and any(times):
            raise ValueError("the device is emulated, and its times are no result of a device")
        return self


class DutySection(Frozen):
    """What a day of work needs, and how long a battery lasts; an estimate under the assumptions beside it."""

    address: str = Field(description="the device whose readings were used")
    frames_per_day: float
    battery_wh: float | None
    picture_ms: float
    rest_w: float
    active_w: float
    joules_per_frame: float = Field(description="above rest")
    wh_per_day: float
    model_percent: float = Field(description="share of the day's energy that the model causes")
    days: float | None
    assumptions: list[str]


class UnitsSection(Frozen):
    """Devices of one kind, measured at the same time."""

    created: str = Field(description="ISO 8601, UTC")
    command: list[str]
    model_sha256: str
    promised_ms: float | None = Field(default=None, description="p50 that the export's own report says")
    units: list[UnitRun]
    duty: DutySection | None = None
    no_duty: str | None = Field(default=None, description="why the day's energy, which was asked for, is unknown")
