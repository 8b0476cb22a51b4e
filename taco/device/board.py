"""What only one kind of board tells: throttling, power mode and power of Jetson, Raspberry Pi and Intel machines.

Files below `root` come first, because they need no rights; then the boards' own programs, `nvpmodel` and `vcgencmd`.
What is absent is "unknown" or missing from the answer, never an error.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
from typing import Callable, Dict, List, Optional, Tuple

from taco.device.sysfiles import read_text

UNKNOWN = "unknown"
_PROGRAM_S = 5.0
#: Volts times amperes of these rails is what a Pi 5's power chip delivers; the board takes a little more.
_PI_CURRENT = re.compile(r"^\s*(\w+)_A current\(\d+\)=([\d.]+)A", re.MULTILINE)
_PI_VOLTAGE = re.compile(r"^\s*(\w+)_V volt\(\d+\)=([\d.]+)V", re.MULTILINE)

Ask = Callable[[List[str]], str]


def ask_program(argv: List[str]) -> str:
    """Run one of a board's own programs; "" when it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_PROGRAM_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def throttled(root: str = "/", ask: Ask = ask_program) -> Dict[str, str]:
    """Throttling as the boards count it.

    Args:
        root: Where `sys` is.
        ask: Runs a program.

    Returns:
        Name -> value: Raspberry Pi's bits (0-3 now, 16-19 since the start), x86 counts since the start, Jetson's
        over-current events since the start. A change between two readings is throttling.
    """
    sources: Tuple[Tuple[str, str], ...] = (
        ("raspberry_pi_flags", "sys/devices/platform/soc*/soc*firmware/get_throttled"),
        ("x86_package_count", "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"),
    )
    values = {name: read_text(path) for name, pattern in sources for path in _paths(root, pattern)}
    for path in _paths(root, "sys/class/hwmon/hwmon*/oc*_event_cnt"):
        values["jetson_" + os.path.basename(path)] = read_text(path)
    found = {name: value for name, value in values.items() if value}
    if "raspberry_pi_flags" not in found:
        match = re.search(r"throttled=(0x[0-9a-fA-F]+)", ask(["vcgencmd", "get_throttled"]))
        if match:
            found["raspberry_pi_flags"] = match.group(1)
    return found


def power_mode(root: str = "/", ask: Ask = ask_program) -> str:
    """The power mode by name: nvpmodel's on a Jetson, turbo on or off on Intel."""
    match = re.search(r"NV Power Mode: (\S+)", ask(["nvpmodel", "-q"]))
    if match:
        return match.group(1)
    no_turbo = read_text(os.path.join(root, "sys/devices/system/cpu/intel_pstate/no_turbo"))
    return {"0": "turbo on", "1": "turbo off"}.get(no_turbo, UNKNOWN)


def power_w(root: str = "/", ask: Ask = ask_program) -> Dict[str, float]:
    """Power now, in watts, by the name of where it is measured; empty when nothing tells."""
    found = _ina3221(root)
    if found:
        return found
    adc = ask(["vcgencmd", "pmic_read_adc"])
    volts, amperes = dict(_PI_VOLTAGE.findall(adc)), dict(_PI_CURRENT.findall(adc))
    rails = [float(volts[name]) * float(amperes[name]) for name in amperes if name in volts]
    return {"pmic rails": round(sum(rails), 3)} if rails else {}


def energy_uj(root: str = "/") -> Optional[int]:
    """Energy counter of an Intel package in microjoules; None without the right to read it."""
    text = read_text(os.path.join(root, "sys/class/powercap/intel-rapl:0/energy_uj"))
    return int(text) if text.isdigit() else None


def gpu_clock_mhz(root: str = "/") -> Optional[float]:
    """Clock of a Jetson's GPU in MHz."""
    for path in _paths(root, "sys/class/devfreq/*gpu*/cur_freq"):
        text = read_text(path)
        if text.isdigit():
            return round(int(text) / 1e6, 1)
    return None


def jetpack(root: str, release: str) -> str:
    """JetPack's version: by the package list, else by the release of its Linux."""
    packages = read_text(os.path.join(root, "var/lib/dpkg/status"))
    listed = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\S+)", packages, re.M)
    if listed:
        return listed.group(1)
    families = {"R35": "5", "R36": "6", "R38": "7"}
    return families.get(release.partition(".")[0], UNKNOWN)


def _ina3221(root: str) -> Dict[str, float]:
    """Volts times amperes of every labelled rail of a Jetson's power monitor."""
    found: Dict[str, float] = {}
    for label in _paths(root, "sys/class/hwmon/hwmon*/in*_label"):
        match = re.search(r"in(\d+)_label$", label)
        number, folder = (match.group(1) if match else ""), os.path.dirname(label)
        millivolt = read_text(os.path.join(folder, f"in{number}_input"))
        milliampere = read_text(os.path.join(folder, f"curr{number}_input"))
        if read_text(os.path.join(folder, "name")) == "ina3221" and millivolt.isdigit() and milliampere.isdigit():
            found[read_text(label)] = round(int(millivolt) * int(milliampere) / 1e6, 3)
    return found


def _paths(root: str, pattern: str) -> List[str]:
    return sorted(glob.glob(os.path.join(glob.escape(root), pattern)))
