"""Time of every operator of one model, by the runtime's own profiler. It slows runs a little: latency is `bench`'s."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from typing import Any, Dict, List

from taco.device.opening import OPENVINO_DEVICES
from taco.device.processors import physical_cores
from taco.device.session import OrtSession, fixed_input
from taco.device.wire import DeviceError

RUNS = 9
WARMUP = 2
_KERNEL = "_kernel_time"


def profile(model: str, provider: str = "CPUExecutionProvider", threads: int = 0) -> Dict[str, Any]:
    """Profile a model.

    Args:
        model: The ONNX file.
        provider: ONNX Runtime's execution provider.
        threads: 0 is every physical core.

    Returns:
        `nodes`: name, operator, provider and median milliseconds of each, in the order of the run; `runs`; the
        provider and runtime used.

    Raises:
        DeviceError: The provider is not ONNX Runtime's, or the model cannot be run.
    """
    if provider in OPENVINO_DEVICES:
        raise DeviceError("operators are profiled with ONNX Runtime only", "Leave --provider out.")
    with tempfile.TemporaryDirectory(prefix="taco-profile-") as folder:
        prefix = os.path.join(folder, "profile")
        session = OrtSession(model, threads or physical_cores(), provider, profile_prefix=prefix)
        noise = fixed_input(session, 0)
        for _ in range(WARMUP + RUNS):
            session.run(noise)
        events = _read(session.end_profiling())
    return {
        "nodes": nodes(events),
        "runs": RUNS,
        "provider": session.provider,
        "runtime": {"name": session.runtime_name, "version": session.runtime_version},
    }


def nodes(events: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Gather the profiler's events by node; the first runs of each do not count.

    Args:
        events: As ONNX Runtime writes them.
    """
    found: Dict[str, Dict[str, Any]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_KERNEL):
            continue
        details = event.get("args", {})
        entry = found.setdefault(
            name[: -len(_KERNEL)],
            {"op": str(details.get("op_name", "")), "provider": str(details.get("provider", "")), "us": []},
        )
        entry["us"].append(float(event["dur"]))
    return [
        {
            "name": name,
            "op": entry["op"],
            "provider": entry["provider"],
            "ms": statistics.median(entry["us"][WARMUP:] or entry["us"]) / 1e3,
        }
        for name, entry in found.items()
    ]


def _read(path: str) -> List[Dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as stream:
            events = json.load(stream)
    except (OSError, ValueError) as error:
        raise DeviceError(f"the runtime's profile cannot be read: {error}") from error
    return list(events)
