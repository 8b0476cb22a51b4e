"""What a run will do, and everything about it that can be checked in seconds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taco.attached.fleet import Others
from taco.attached.ondevice import Device
from taco.compute import choose_device
from taco.errors import InputError
from taco.exporters.loading import load_exporter
from taco.exporters.protocol import Exporter
from taco.files import sha256_of
from taco.material import Listings, find_pictures
from taco.model import Generalist, load_generalist
from taco.options import ExportOptions
from taco.recovery.unlabelled import Frames, list_frames
from taco.rundir import content_key
from taco.search.bench import measurable, measured_on
from taco.search.budget import Budget, check_input, check_runtime, chosen_target, decide_budget, units_or_error
from taco.search.estimate import estimated_by
from taco.search.given_widths import read_widths
from taco.specialist.head import check_classifier
from taco.steps.keys import versions
from taco.targets.loading import Target
from taco.units import UnitMap, find_units

#: Of the model's own side, for `--input-size auto`: about 0.74 and 0.51 of the multiply-accumulates.
_SIZES = (0.86, 0.71)
#: What convolutional networks halve five times.
_SIZE_STEP = 32


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will do; everything cheap has been checked.

    Attributes:
        widths: What every unit shall keep (`--widths`); None where they are to be found.
        resized: The same for other sizes of pictures, which the compressed model reads or may read.
        others: The devices beside the first one.
    """

    options: ExportOptions
    target: Target
    exporter: Exporter
    budget: Budget
    listings: Listings
    generalist: Generalist
    units: UnitMap
    frames: Frames
    device: Device | None = None
    widths: Mapping[str, int] | None = None
    others: Others = dataclasses.field(default_factory=Others)
    resized: tuple[Plan, ...] = ()

    @functools.cached_property
    def asked(self) -> dict[str, Any]:
        """What identifies the run: the same again is the same run. Files are looked at once."""
        options = self.options.model_dump(mode="python", exclude={"out", "from_run"})
        absolute = {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in options.items()}
        return {
            "options": absolute,
            "class_map_sha256": sha256_of(self.options.class_map) if self.options.class_map else None,
            "widths": dict(self.widths) if self.widths is not None else None,
            "estimated_by": estimated_by(self.options),
            "pictures": content_key(self.listings.fingerprint()),
            "unlabelled": content_key(self.frames.fingerprint()),
            "weights_sha256": self.generalist.weights_sha256,
            "versions": versions(),
            "measured_on": measured_on(self.target, self.device),
        }


def make_plan(options: ExportOptions, device: Device | None = None) -> Plan:
    """Check everything that can be checked in seconds.

    Args:
        options: What is asked.
        device: What is attached, if anything.

    Raises:
        TacoError: The first thing that is wrong.
    """
    target = chosen_target(options)
    if device is not None and device.address.host is not None and target.local:
        raise InputError(f"{target.name} is this machine, and --device is another", "Give the --target of the device")
    exporter = load_exporter(target.runtime)
    check_input(options)
    choose_device(options.compute)
    budget = decide_budget(options, target, measurable=measurable(target, device))
    if device is None:
        check_runtime(exporter, target)
    else:
        device.check_runtime(target.runtime)
    listings = find_pictures(options)
    frames = list_frames(options, cropped=listings.cropped)
    weights = str(options.weights) if options.weights else None
    generalist = load_generalist(options.model, weights, random_weights=options.random_weights, seed=options.seed)
    check_classifier(generalist)
    units = find_units(generalist.module, generalist.preprocessing.input_size)
    units_or_error(units, budget, options.model)
    widths = None if options.widths is None else read_widths(options.widths, units)
    plan = Plan(options, target, exporter, budget, listings, generalist, units, frames, device, widths)
    return dataclasses.replace(plan, resized=tuple(_at(plan, pixels) for pixels in input_sizes(options, generalist)))


def input_sizes(options: ExportOptions, generalist: Generalist) -> tuple[int, ...]:
    """Return the shorter sides, in pixels, that are to be tried beside the model's own size; each differs from it."""
    own, asked = min(generalist.preprocessing.input_size[1:]), options.input_size
    if asked is None:
        return ()
    if asked == "auto":
        rounded = (_SIZE_STEP * round(share * own / _SIZE_STEP) for share in _SIZES)
        return tuple(dict.fromkeys(pixels for pixels in rounded if 0 < pixels < own))
    return () if asked == own else (asked,)


def _at(plan: Plan, pixels: int) -> Plan:
    """Return the plan of a model that reads pictures of another size.

    Raises:
        InputError: The model cannot, or engines are to be built, whose dense one reads other pictures.
    """
    if plan.target.runtime == "trt":
        raise InputError(
            f"--input-size is not for {plan.target.name} yet: its engines are compared on the same pictures",
            "Leave it out, or aim at a target of ONNX Runtime or OpenVINO",
        )
    generalist = plan.generalist.at(pixels)
    units = find_units(generalist.module, generalist.preprocessing.input_size)
    units_or_error(units, plan.budget, plan.options.model)
    return dataclasses.replace(plan, generalist=generalist, units=units)
