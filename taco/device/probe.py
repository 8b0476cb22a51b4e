"""What the machine is and how it is doing: processor, memory, clocks, temperatures, runtimes.

Everything is read from files below `root` (tests give a made-up tree). What is absent is "unknown" (words) or None
(numbers), never an error: a telemetry file may be missing, unreadable or refuse to answer on any board.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import sys
import time
from typing import Any, Dict, List, Optional

from taco.device import board
from taco.device.emulation import emulation
from taco.device.needs import needs, pip
from taco.device.processors import physical_cores, usable_cpus
from taco.device.runtimes import find_runtimes
from taco.device.sysfiles import number, read_text

UNKNOWN = "unknown"
X86_FLAGS = ("f16c", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16")
AMX_FLAGS = ("amx_tile", "amx_int8", "amx_bf16")
ARM_FLAGS = ("neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
ISA_OF_INTEREST = frozenset((*X86_FLAGS, *AMX_FLAGS, *ARM_FLAGS))
COLDEST_C = -100.0  # a Jetson reports -256 degrees for a zone that is switched off


def probe(root: str = "/") -> Dict[str, Any]:
    """Describe the machine and its state.

    Args:
        root: Where `proc`, `sys` and `etc` are.

    Returns:
        Plain JSON values: what the machine is, and under "telemetry" what changes while it works.
    """
    release = _jetson_linux(root)
    found: Dict[str, Any] = {
        "os": _os_name(root),
        "kernel": platform.release() or UNKNOWN,
        "python": platform.python_version(),
        "executable": sys.executable,
        **computer(root),
        "jetson_linux": release,
        "jetpack": board.jetpack(root, release),
        "emulated": emulation(root),
        "cores_logical": len(usable_cpus()),
        "memory_total_mib": _memory_mib(root, "MemTotal"),
        "disk_free_mib": _disk_free_mib(),
        "runtimes": find_runtimes(root),
        "time": time.time(),
        "telemetry": telemetry(root),
    }
    return {**found, "missing": needs(found), "pip": pip()}


def computer(root: str = "/") -> Dict[str, Any]:
    """The part of `probe` that tells one computer from another: the same at every look, and read in milliseconds."""
    fields = _cpuinfo(root)
    return {
        "machine": platform.machine() or UNKNOWN,
        "processor": fields.get("model name") or _board(root, fields),
        "board": _board(root, fields),
        "cores_physical": physical_cores(root),
        "isa": sorted(ISA_OF_INTEREST & set((fields.get("flags") or fields.get("Features") or "").split())),
    }


def telemetry(root: str = "/") -> Dict[str, Any]:
    """What changes while the machine works: memory, governor, clocks, temperatures, load, throttling, power."""
    ask = board.ask_program if root == "/" else _no_program
    return {
        "memory_available_mib": _memory_mib(root, "MemAvailable"),
        "governor": _governor(root),
        "clocks_mhz": _clocks_mhz(root),
        "temperatures_c": _temperatures_c(root),
        "load_average": _load_average(root),
        "throttled": board.throttled(root, ask),
        "power_mode": board.power_mode(root, ask),
        "power_w": board.power_w(root, ask),
        "gpu_clock_mhz": board.gpu_clock_mhz(root),
    }


def _read(root: str, path: str) -> str:
    return read_text(os.path.join(root, path))


def _paths(root: str, pattern: str) -> List[str]:
    """Paths that match, in natural order (cpu2 before cpu10)."""
    found = glob.glob(os.path.join(glob.escape(root), pattern))
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)])


def _cpuinfo(root: str) -> Dict[str, str]:
    """First value of every field of /proc/cpuinfo."""
    fields: Dict[str, str] = {}
    for line in _read(root, "proc/cpuinfo").split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _board(root: str, fields: Dict[str, str]) -> str:
    return _read(root, "proc/device-tree/model") or fields.get("Model") or UNKNOWN


def _os_name(root: str) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)"?$', _read(root, "etc/os-release"), re.MULTILINE)
    return match.group(1) if match else platform.system() or UNKNOWN


def _jetson_linux(root: str) -> str:
    match = re.search(r"(R\d+) \(release\), REVISION: ([\d.]+)", _read(root, "etc/nv_tegra_release"))
    return f"{match.group(1)}.{match.group(2)}" if match else UNKNOWN


def _memory_mib(root: str, key: str) -> Optional[int]:
    match = re.search(rf"^{key}:\s+(\d+) kB$", _read(root, "proc/meminfo"), re.MULTILINE)
    return int(match.group(1)) // 1024 if match else None


def _governor(root: str) -> str:
    paths = _paths(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    names = {_read("", path) for path in paths} - {""}
    return "+".join(sorted(names)) or UNKNOWN


def _clocks_mhz(root: str) -> List[float]:
    """Clock of each logical processor in MHz; empty when unknown."""
    paths = _paths(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    khz = [value for value in (number(_read("", path)) for path in paths) if value is not None]
    if khz:
        return [round(value / 1000, 1) for value in khz]
    lines = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _read(root, "proc/cpuinfo"), re.MULTILINE)
    return [round(value, 1) for value in map(number, lines) if value is not None]


def _temperatures_c(root: str) -> Dict[str, float]:
    """Degrees Celsius by zone name; zones of one name are numbered."""
    zones: Dict[str, float] = {}
    for path in _paths(root, "sys/class/thermal/thermal_zone*"):
        value = number(_read(path, "temp"))
        if value is None or value / 1000 <= COLDEST_C:
            continue
        name = _read(path, "type") or os.path.basename(path)
        zones[_free_name(name, zones)] = round(value / 1000, 1)
    return zones


def _free_name(name: str, taken: Dict[str, float]) -> str:
    count = 1
    while (name if count == 1 else f"{name} {count}") in taken:
        count += 1
    return name if count == 1 else f"{name} {count}"


def _load_average(root: str) -> Optional[List[float]]:
    values = [number(word) for word in _read(root, "proc/loadavg").split()[:3]]
    known = [value for value in values if value is not None]
    return known if len(known) == 3 else None


def _no_program(_argv: List[str]) -> str:
    """What a made-up tree has."""
    return ""


def _disk_free_mib() -> Optional[int]:
    try:
        return shutil.disk_usage(".").free // 2**20
    except OSError:
        return None
