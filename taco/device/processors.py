"""The processors of this machine, and those that models are timed on where they use fewer threads than it has cores.

Left alone, each model's process stays on whatever core it was started on, and two models that are compared run on two
cores. Where something slows one core and not the other (a neighbour on a virtual machine, a hot or a little core), the
models then differ by that, and the one that shows the machine's state says nothing of the other's.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Dict, Iterable, List, Optional, Tuple

from taco.device.sysfiles import number, read_text


def usable_cpus() -> List[int]:
    """Numbers of the logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def physical_cores(root: str = "/", cpus: Optional[Iterable[int]] = None) -> int:
    """Cores that this process may use: threads of one core count once, a container's quota caps it.

    Args:
        root: Where `sys` is.
        cpus: Logical processors to count; None is what this process may use.

    Returns:
        At least 1.
    """
    quota = _cpu_quota(root)
    number = len(cores(root, cpus))
    return max(1, number if quota is None else min(number, quota))


def cores(root: str = "/", cpus: Optional[Iterable[int]] = None) -> List[int]:
    """Return a logical processor of every core that this process may use, the first of each.

    Args:
        root: Where `sys` is.
        cpus: Logical processors; None is what this process may use.
    """
    found: Dict[str, int] = {}
    for cpu in usable_cpus() if cpus is None else cpus:
        siblings = _about(root, cpu, "topology/thread_siblings_list")
        found.setdefault(siblings or f"cpu{cpu}", cpu)
    return list(found.values())


def chosen_for(threads: int, root: str = "/", cpus: Optional[Iterable[int]] = None) -> Optional[List[int]]:
    """Return a processor of its own core for every thread, the same for all models.

    The fastest cores, as the kernel ranks them; among equal ones the last: interrupts go to the first as a rule.

    Args:
        threads: Of a model.
        root: Where `sys` is.
        cpus: Logical processors; None is what this process may use.

    Returns:
        Ascending numbers; None where there is nothing to choose, since every core is used.
    """
    each = cores(root, cpus)
    if threads >= len(each):
        return None
    fastest = sorted(each, key=lambda cpu: (_speed(root, cpu), cpu), reverse=True)
    return sorted(fastest[:threads])


def stay_on(cpus: Optional[Iterable[int]]) -> Optional[List[int]]:
    """Keep this process, and the threads that it will start, on some processors.

    Args:
        cpus: Their numbers; None changes nothing.

    Returns:
        What holds now; None where nothing was asked, or the system does not do it.
    """
    if cpus is None or not hasattr(os, "sched_setaffinity"):
        return None
    with contextlib.suppress(OSError):  # an emulator, or a processor that has gone: timed wherever the system likes
        os.sched_setaffinity(0, set(cpus))
        return sorted(os.sched_getaffinity(0))
    return None


def _cpu_quota(root: str) -> Optional[int]:
    match = re.match(r"(\d+) (\d+)$", read_text(os.path.join(root, "sys/fs/cgroup/cpu.max")))
    if match is None or int(match.group(2)) == 0:
        return None
    return -(-int(match.group(1)) // int(match.group(2)))


def _speed(root: str, cpu: int) -> Tuple[float, float]:
    """How fast a processor is: the kernel's figure for unequal cores (Arm), then its highest clock; 0 is not known."""
    capacity, clock = (number(_about(root, cpu, name)) for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"))
    return capacity or 0.0, clock or 0.0


def _about(root: str, cpu: int, name: str) -> str:
    return read_text(os.path.join(root, f"sys/devices/system/cpu/cpu{cpu}", name))
