"""The other devices of a run: each is timed, judged and given the bundle as the first one is, all at the same time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from taco.attached.fleet import Failed, at_once
from taco.attached.ondevice import Device, leased
from taco.bundle import Bundle
from taco.field.device_judge import OnDevice
from taco.metrics.accuracy import Score
from taco.metrics.gates import Gate, device_gate
from taco.progress import SilentProgress
from taco.steps.converting import Pair
from taco.steps.delivery import Delivery
from taco.steps.judge import Judgement
from taco.timing.timings import BenchResult


@dataclasses.dataclass(frozen=True)
class UnitResult:
    """What one device did.

    Attributes:
        address: Its own.
        device: The device.
        bench: Its times; None for an emulated one, or where it failed.
        answers: Its own answers on the judged pictures; None where it failed.
        gate: Whether they are those of this machine, but for rounding; None where it failed.
        failed: Why it did not do what was asked; None where it did.
    """

    address: str
    device: Device
    bench: BenchResult | None = None
    answers: OnDevice | None = None
    gate: Gate | None = None
    failed: Failed | None = None


def ask_others(
    devices: Mapping[str, Device],
    delivery: Delivery,
    pair: tuple[Pair, Pair],
    judged: Judgement,
    crop_margin: float | None,
) -> tuple[UnitResult, ...]:
    """Time the finished models on every other device and let it name the judged pictures.

    Args:
        devices: Address -> device.
        delivery: Of the run, after it has decided on a precision.
        pair: The dense model's files and the compressed one's.
        judged: Answers of the shipped file on this machine.
        crop_margin: Of boxes; None where whole frames are looked at.

    Returns:
        One result a device; a device that fails does not stop the others.
    """
    if not devices:
        return ()

    def job(number: int, address: str, device: Device) -> Callable[[], UnitResult]:
        scratch = delivery.scratch / f"device-{number}"
        alone = dataclasses.replace(delivery, device=device, scratch=scratch, progress=SilentProgress())

        def ask() -> UnitResult:
            scratch.mkdir(parents=True, exist_ok=True)
            with leased(device):
                device.check_runtime(delivery.target.runtime)
                bench = alone.time(*pair, None)
                answers = alone.on_device(pair[1], judged, crop_margin)
            gate = None if answers is None else _gate(answers, delivery.material.task.classes)
            return UnitResult(address, device, bench, answers, gate)

        return ask

    jobs = {address: job(number, address, device) for number, (address, device) in enumerate(devices.items())}
    with delivery.progress.step("time and judge on the other devices, all at once", len(jobs)) as advance:
        found = at_once(jobs, advance)
    return tuple(
        UnitResult(address, devices[address], failed=outcome) if isinstance(outcome, Failed) else outcome
        for address, outcome in found.items()
    )


def deploy_others(units: tuple[UnitResult, ...], bundle: Bundle) -> dict[str, str | Failed]:
    """Give the bundle to every device that was measured and answers as this machine does.

    Returns:
        Address -> the bundle's folder there, or why it has none.
    """

    def job(device: Device) -> Callable[[], str]:
        def deploy() -> str:
            with leased(device):
                return device.deploy(bundle).folder

        return deploy

    jobs = {
        u.address: job(u.device) for u in units if u.failed is None and (u.gate is None or u.gate.passed is not False)
    }
    return at_once(jobs) if jobs else {}


def _gate(answers: OnDevice, classes: tuple[str, ...]) -> Gate:
    balanced = Score.from_predictions(answers.labels, answers.here, classes).balanced
    return device_gate(answers.labels, answers.here, answers.there, balanced=balanced)
