"""The parts of `report.json` that a device tells: one that was attached, or one that a folder was copied to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taco.report.parts import Frozen, GateResult, Proportion


class EngineFacts(Frozen):
    """One engine that was built on the device."""

    key: str = Field(description="hash of the graph, TensorRT, GPU, flags and system that it belongs to")
    precision: str
    engine_sha256: str
    engine_bytes: int
    build_s: float
    from_earlier_run: bool
    gpu: str | None
    eligible: int | None = Field(description="layers whose weights allow 2:4 kernels; null where none was asked")
    chosen: int | None = Field(description="layers for which TensorRT took a 2:4 kernel")
    skipped: int = Field(description="kernels that were not tried, because memory was short")
    unstable_percent: list[float] = Field(description="coefficient of variation of every run called unstable")


class ModuleTime(Frozen):
    """Time of one module of the network."""

    module: str
    ms: float
    percent: float
    units: list[str] = Field(description="the units that decide its width")


class LayerProfile(Frozen):
    """Where an engine's time goes; its total is that of a profiled run and no latency."""

    modules: list[ModuleTime]
    total_ms: float
    unattributed_percent: float = Field(description="share of the time of engine layers that name no known module")
    shared_percent: float = Field(description="share that is only divided, because an engine layer is several modules")
    engine_layers: int
    sparse_kernels: int


class EnginesRun(Frozen):
    """What was found on the device: in the folder that was copied there, or by the run that it was attached to."""

    hardware: str | None = Field(description="the NVIDIA machine; null: a stand-in answered, not run on hardware")
    gpu: str | None
    compute_capability: str | None
    tensorrt: str
    recipe: str = Field(description="version of TensorRT whose options were used")
    strongly_typed: bool
    jetson_linux: str
    power_mode: str
    memory_free_mib: int | None
    workspace_mib: int
    engines: dict[str, EngineFacts]
    used: dict[str, str] = Field(default={}, description="dense and compressed -> the engine that the figures are of")
    accuracy: dict[str, Proportion] = Field(description="of the engines themselves, on the device")
    evaluated_on: Literal["evaluation", "select"]
    gates: list[GateResult]
    layers: dict[str, LayerProfile]
    warnings: list[str]


class SustainedMinute(Frozen):
    """One minute of work without a pause."""

    minute: int
    n: int
    p50: float
    p90: float
    package_w: float | None = Field(description="mean power of an Intel package; null where it cannot be read")
    conditions: str = Field(description="temperatures, clocks, throttling, power, in words")
    seconds: float | None = Field(default=None, description="how long the minute really was")
    temperature_c: float | None = Field(default=None, description="of the hottest zone at its end")
    clock_mhz: float | None = Field(default=None, description="mean of the cores at its end")
    power_w: float | None = Field(default=None, description="mean power of the board or package; null where unknown")
    power_source: str | None = Field(default=None, description="where it was read, and what is not in it")
    joules: float | None = Field(default=None, description="energy of one picture, rest included")


class DeviceSection(Frozen):
    """The attached device and its own answers. Times are of a real one only."""

    address: str
    board: str
    os: str
    python: str
    runtime: str = Field(description="what ran the model there, with its version, read back")
    provider: str
    emulated: str | None = Field(description="how it is emulated; its times mean nothing and are not taken")
    deployed_to: str | None = Field(description="folder of the bundle on the device; null where it was not put there")
    images: int = Field(description="judged pictures that the device named")
    judged_images: int
    same_answers: int
    here: Proportion = Field(description="the shipped file on these pictures, on the machine of this report")
    there: Proportion
    per_class: dict[str, tuple[Proportion, Proportion] | None] = Field(description="recall here and there")
    unreadable: list[str]
    cold_ms: dict[str, float] = Field(description="very first run of each model")
    idle_ms: list[float] = Field(description="first runs of the compressed model after a pause")
    sustained: list[SustainedMinute]
    unstable: list[str] = Field(description="what disturbed the measurement")
    repeated: bool = Field(description="the measurement was taken twice because the first was disturbed")

    @property
    def has_times(self) -> bool:
        """Whether it holds any time."""
        return bool(self.cold_ms or self.idle_ms or self.sustained)
