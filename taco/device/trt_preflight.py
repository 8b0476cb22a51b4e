"""What must be known of a Jetson before an engine is built: memory, power mode, versions, and whether it is one."""

from __future__ import annotations

import glob
import os
import re
import subprocess
from typing import Any, Dict, List, Optional

from taco.device.probe import UNKNOWN, probe
from taco.device.wire import DeviceError

#: Below this a build is killed more often than not (LESSONS 52); judgement, not measured.
LEAST_FREE_MIB = 1500
MOST_WORKSPACE_MIB = 4096
LEAST_WORKSPACE_MIB = 256
NVPMODEL = "/usr/sbin/nvpmodel"
#: What figures are called that no NVIDIA machine gave.
NOT_HARDWARE = "not run on hardware"


def preflight(root: str = "/", nvpmodel: str = NVPMODEL) -> Dict[str, Any]:
    """Describe the machine and what stands against building on it.

    Args:
        root: Where `proc`, `sys` and `etc` are.
        nvpmodel: NVIDIA's tool that names the power mode.

    Returns:
        Plain JSON values: the probe, the power mode, free memory, the workspace to use, whether it is hardware that
        TensorRT runs on, and warnings.
    """
    found = probe(root)
    free = found["telemetry"]["memory_available_mib"]
    mode = power_mode(nvpmodel)
    warnings: List[str] = []
    if free is not None and free < LEAST_FREE_MIB:
        warnings.append(
            f"only {free} MiB of memory are free: the build may be killed; close other programs or add swap"
        )
    if mode == UNKNOWN:
        warnings.append("the power mode is unknown: times cannot be compared with those of another mode")
    return {
        "probe": found,
        "gpu": gpu_model(root),
        "hardware": hardware(root, found),
        "power_mode": mode,
        "memory_free_mib": free,
        "workspace_mib": workspace_mib(free),
        "warnings": warnings,
    }


def workspace_mib(free_mib: Optional[int]) -> int:
    """Return how much scratch memory the builder may take: half of what is free, within bounds.

    Raises:
        DeviceError: There is not even the least.
    """
    if free_mib is None:
        return LEAST_WORKSPACE_MIB
    if free_mib < LEAST_WORKSPACE_MIB:
        raise DeviceError(
            f"only {free_mib} MiB of memory are free: no engine can be built", "Close other programs, or add swap."
        )
    return max(LEAST_WORKSPACE_MIB, min(MOST_WORKSPACE_MIB, free_mib // 2))


def gpu_model(root: str) -> str:
    """Name the GPUs of a machine with NVIDIA's own driver for desktops; a Jetson's belongs to its board."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(root), "proc/driver/nvidia/gpus/*/information"))):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                found += re.findall(r"^Model:[ \t]*(\S.*?)[ \t]*$", stream.read(), re.MULTILINE)
        except OSError:
            continue
    return ", ".join(found) or UNKNOWN


def hardware(root: str, found: Dict[str, Any]) -> Optional[str]:
    """Name the NVIDIA machine; None where nothing shows that there is one, and nothing then counts as measured."""
    board = str(found["board"])
    if re.search(r"nvidia|jetson", board, re.IGNORECASE):
        return board
    if os.path.exists(os.path.join(root, "proc/driver/nvidia/version")):
        gpu = gpu_model(root)
        return f"{'NVIDIA GPU' if gpu == UNKNOWN else gpu} in a {found['machine']} machine"
    return None


def power_mode(nvpmodel: str = NVPMODEL) -> str:
    """Return the name of the power mode, such as MAXN or 15W; never its number, which differs between modules."""
    try:
        done = subprocess.run(
            [nvpmodel, "-q"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    return power_mode_in(done.stdout.decode("utf-8", "replace"))


def power_mode_in(text: str) -> str:
    """Read the name from what `nvpmodel -q` prints, warnings or not."""
    match = re.search(r"^NV Power Mode: *(\S.*?) *$", text, re.MULTILINE)
    return match.group(1) if match else UNKNOWN
