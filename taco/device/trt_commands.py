"""What the agent's TensorRT commands do. Their modules need numpy, which is only asked for when they are used."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, Optional

from taco.device.commands import folder_of, read_json
from taco.device.wire import DeviceError

EXIT_GATE = 4


def run_jetson(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Build, judge, time and report the models of a folder; then time its micro-models, where it holds any."""
    try:
        from taco.device.trt_kit import KIT
        from taco.device.trt_machine import Surroundings
        from taco.device.trt_units import UNITS, holds_units, time_units
    except ImportError as error:
        raise _missing(error) from error
    folder = os.path.abspath(arguments.folder)
    units = holds_units(folder) and not arguments.no_units
    # A folder may be made for its latency table alone.
    found: Dict[str, Any] = {"exit_code": 0}
    if os.path.exists(os.path.join(folder, KIT)) or not units:
        found = _run_models(folder, arguments.trtexec)
    if units:
        found[UNITS] = time_units(folder, Surroundings(arguments.trtexec), _tell)
        lacking = len(found[UNITS]["failed"])
        left_out = f", but for {lacking} that could not be built or timed" if lacking else ""
        _tell(f"blocks were timed by themselves{left_out}: copy the folder back and run: taco profile collect FOLDER")
    return found


def _run_models(folder: str, trtexec: Optional[str]) -> Dict[str, Any]:
    try:
        from taco.device.trt_job import run_kit
        from taco.device.trt_kit import read_kit
        from taco.device.trt_machine import Surroundings
        from taco.device.trt_report import failed, write_reports
    except ImportError as error:
        raise _missing(error) from error
    kit = read_kit(folder)
    found = run_kit(kit, Surroundings(trtexec), _tell)
    for line in write_reports(kit, found):
        print(line, file=sys.stderr)
    broken = failed(found)
    if broken:
        print(f"FAILED: {', '.join(broken)}: do not use these engines", file=sys.stderr)
    return {**found, "exit_code": EXIT_GATE if broken else 0}


def tell_tensorrt(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Say which TensorRT this is, and what stands against building with it."""
    from taco.device.trt_machine import Surroundings, set_up

    machine = set_up(Surroundings(arguments.trtexec), _tell)
    return {**machine.facts(), "trtexec": machine.trtexec.path}


def judge_engines(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Let engines name pictures, and time their layers."""
    try:
        from taco.device.trt_judge import judge
        from taco.device.trt_machine import Surroundings
    except ImportError as error:
        raise _missing(error) from error
    folder = os.path.abspath(folder_of(arguments.request))
    return judge(read_json(arguments.request), folder, Surroundings(arguments.trtexec), _tell)


def sweep_engines(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Build and time many small engines."""
    try:
        from taco.device.trt_machine import Surroundings
        from taco.device.trt_sweep import sweep
    except ImportError as error:
        raise _missing(error) from error
    folder = os.path.abspath(folder_of(arguments.request))
    return sweep(read_json(arguments.request), folder, Surroundings(arguments.trtexec), _tell)


def _missing(error: ImportError) -> DeviceError:
    return DeviceError(f"numpy cannot be imported on this device: {error}", "Install numpy.")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
