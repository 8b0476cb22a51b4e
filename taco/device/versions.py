"""Which of the bundles on a device is the one in use: a symbolic link that is switched in one step, and a way back.

`bundles/current` leads to the version in use, `bundles/history` lists versions in the order in which they came. History
is written before the link, and says what comes before the version in use; so whatever ends the program between the two,
the link leads to a whole version and the way back is right.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import Callable, List, Optional

from taco.device.durable import point, write_whole
from taco.device.wire import DeviceError

CURRENT, HISTORY = "current", "history"
#: Versions of one task that stay: the one in use and two to go back to.
KEPT = 3
_VERSION = re.compile(r"(.+)-[0-9a-f]{12}")


def current(home: str) -> Optional[str]:
    """Name of the version in use; None where there is none.

    Args:
        home: The folder of all versions.
    """
    try:
        return os.path.basename(os.readlink(os.path.join(home, CURRENT)))
    except OSError:
        return None


def switch(home: str, name: str) -> Optional[str]:
    """Use a version that lies there.

    Args:
        home: The folder of all versions.
        name: Of the version.

    Returns:
        What was in use before; None where nothing was.

    Raises:
        OSError: The folder cannot be written.
    """
    before = current(home)
    if before != name:
        known = [other for other in _until(history(home), before) if other != name]
        write_whole(os.path.join(home, HISTORY), "".join(f"{other}\n" for other in [*known, name]).encode())
        point(os.path.join(home, CURRENT), name)
    return before


def roll_back(home: str, check: Callable[[str], None], leaving: Optional[str] = None) -> str:
    """Use the version that was in use before this one; again, the one before that.

    Args:
        home: The folder of all versions.
        check: Raises for a folder whose bundle does not run here.
        leaving: The version that is left; where it is not the one in use any more, nothing is done. None is whichever.

    Returns:
        Name of the version that is in use now.

    Raises:
        DeviceError: There is none to go back to, or it does not run.
        OSError: The folder cannot be written.
    """
    now = current(home)
    if leaving is not None and now is not None and now != leaving:
        return now
    earlier = [name for name in _until(history(home), now) if name != now and os.path.isdir(os.path.join(home, name))]
    if now is None or not earlier:
        raise DeviceError(f"there is no earlier bundle in {home!r} to go back to", "Deploy one: taco deploy BUNDLE")
    check(os.path.join(home, earlier[-1]))
    point(os.path.join(home, CURRENT), earlier[-1])
    return earlier[-1]


def prune(home: str, name: str) -> List[str]:
    """Remove versions of one task that neither are in use nor can be gone back to in two steps.

    Args:
        home: The folder of all versions.
        name: Of the version that has just come; its task is meant.

    Returns:
        Names of what was removed.
    """
    task = _task(name)
    same = [other for other in history(home) if task is not None and _task(other) == task]
    kept = {*same[-KEPT:], name, current(home)}
    removed = [n for n in sorted(os.listdir(home)) if task is not None and _task(n) == task and n not in kept]
    for old in removed:
        shutil.rmtree(os.path.join(home, old), ignore_errors=True)
    return removed


def history(home: str) -> List[str]:
    """Names of the versions, in the order in which they came."""
    try:
        with open(os.path.join(home, HISTORY), encoding="utf-8") as stream:
            return stream.read().split("\n")[:-1]
    except FileNotFoundError:
        return []


def _until(names: List[str], last: Optional[str]) -> List[str]:
    """What came before a version, and that; what was rolled back from is left out."""
    if last in names:
        return names[: names.index(last) + 1]
    return names if last is None else [*names, last]


def _task(name: str) -> Optional[str]:
    match = _VERSION.fullmatch(name)
    return match.group(1) if match else None
