"""Whether this machine is an emulation, whose times say nothing of the board that it imitates.

qemu's user emulation answers for /proc/self and /proc/PID, so that a program sees itself; it does not answer for
/proc/thread-self and /proc/self/task, where the kernel tells who really runs. (Seen with qemu 7.2 and 9.)
"""

from __future__ import annotations

import glob
import os
import platform
from typing import Optional

from taco.device.sysfiles import read_text

_FOREIGN = {"aarch64": "qemu-aarch64", "armv7l": "qemu-arm", "x86_64": "qemu-x86_64", "riscv64": "qemu-riscv64"}
#: What the device tree of a virtual ARM machine is called: it stands for no board.
_VIRTUAL = ("linux,dummy-virt",)


def emulation(root: str = "/", machine: Optional[str] = None) -> Optional[str]:
    """Say how this machine is emulated.

    Args:
        root: Where `proc` is.
        machine: What the processor is said to be; None asks the system.

    Returns:
        In words; None where no sign of it was found, which is no proof.
    """
    runner = os.path.basename(_link(os.path.join(root, "proc/thread-self/exe")))
    if runner.startswith("qemu-"):
        return f"{runner} runs this program"
    if any("/qemu-" in read_text(path) for path in glob.glob(os.path.join(glob.escape(root), "proc/self/task/*/maps"))):
        return "qemu runs this program"
    entry = _FOREIGN.get(machine or platform.machine(), "")
    if entry and os.path.exists(os.path.join(root, "proc/sys/fs/binfmt_misc", entry)):
        return f"programs for this processor are run by {entry}"
    model = read_text(os.path.join(root, "proc/device-tree/model"))
    if model in _VIRTUAL:
        return f"a virtual machine ({model})"
    return None


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
