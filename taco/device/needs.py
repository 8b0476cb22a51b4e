"""What a device lacks, and the command that would install it. Nothing is ever installed by us."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib import util
from typing import Any, Dict, List

#: Where the host looks for an interpreter first: the system's own often refuses pip (PEP 668).
VENV = "venv"
_PACKAGES = (("numpy", "numpy", "arrays"), ("PIL", "pillow", "pictures"))
LEAST_MIB = 500


def needs(probe: Dict[str, Any]) -> List[Dict[str, str]]:
    """List what is missing.

    Args:
        probe: From `taco.device.probe.probe`.

    Returns:
        `{"what", "why", "command"}` each; empty when the device is ready.
    """
    found = [
        _missing(package, f"for {purpose}", pip(package))
        for module, package, purpose in _PACKAGES
        if util.find_spec(module) is None
    ]
    jetson = probe["jetson_linux"] != "unknown"
    if not probe["runtimes"] or (jetson and not {"trtexec", "tensorrt"} & set(probe["runtimes"])):
        command = "sudo apt install nvidia-jetpack" if jetson else pip("onnxruntime")
        instead = "; --target intel-nuc needs openvino instead" if probe["machine"] == "x86_64" else ""
        why = f"to run models{'' if jetson else instead}"
        found.append(_missing("TensorRT" if jetson else "onnxruntime", why, command))
    if probe["disk_free_mib"] is not None and probe["disk_free_mib"] < LEAST_MIB:
        found.append(_missing("disk space", f"{probe['disk_free_mib']} MiB are free here", "df -h ."))
    return found


def pip(*packages: str) -> str:
    """The command that installs Python packages for the interpreter that the host will use; they come last in it."""
    install = " ".join(["-m pip install", *packages])
    if sys.prefix != sys.base_prefix:
        return f"{shlex.quote(sys.executable)} {install}"
    made = f"python3 -m venv --system-site-packages {VENV} && {VENV}/bin/python {install}"
    if shutil.which("pip3") is None and util.find_spec("pip") is None:
        return f"sudo apt install python3-venv && {made}"
    return made


def _missing(what: str, why: str, command: str) -> Dict[str, str]:
    return {"what": what, "why": why, "command": command}
