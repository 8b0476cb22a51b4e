"""One run at a time on a device: who has it, and since when.

A run takes the device for its whole length under a token of its own, and renews that with every command. A run that
died is no obstacle for long: what was not renewed for a while is free, and so is what is older than the last start of
the machine. Ages are told by the clock that only runs forward, so a wrong date or a jump of it does no harm. While a
command works, a lock of the kernel is held too, which ends with the process. Where a silent link keeps an earlier
command of the same run alive, that one is ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from typing import Any, Dict, Iterator, Optional

from taco.device.wire import DeviceError

FREE_AFTER_S = 900.0
_DYING_S = 5.0
_LEASE, _LOCK = ".taco-lease.json", ".taco-lock"


class BusyError(DeviceError):
    """Another run has the device."""


def take(folder: str, token: str, owner: str) -> Dict[str, Any]:
    """Take or renew the device.

    Args:
        folder: The work folder.
        token: Of the run.
        owner: Who asks, for the others to read.

    Returns:
        The lease.

    Raises:
        BusyError: Another run has it; says who, for how long, and when it was last heard of.
    """
    with _locked(folder, token):
        return _renew(folder, token, owner)


def release(folder: str, token: Optional[str]) -> Dict[str, Any]:
    """Give the device back.

    Args:
        folder: The work folder.
        token: Of the run; None frees it whoever has it.

    Returns:
        `{"released": lease or None}`.
    """
    held = _read(folder)
    if held is None or (token is not None and held["token"] != token):
        return {"released": None}
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(folder, _LEASE))
    return {"released": {**held, "token": ""}}


@contextlib.contextmanager
def holding(folder: str, token: Optional[str], owner: str) -> Iterator[None]:
    """Hold the device while one command works; without a token, against other commands only.

    Raises:
        BusyError: Another run has it.
    """
    with _locked(folder, token):
        if token is None:
            _refuse_if_held(folder, "")
        else:
            _renew(folder, token, owner)
        yield
        if token is not None:
            _renew(folder, token, owner)


@contextlib.contextmanager
def _locked(folder: str, token: Optional[str]) -> Iterator[None]:
    try:
        handle = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DeviceError(f"the work folder {folder!r} cannot be written: {error.strerror}") from error
    try:
        if not _try_lock(handle):
            held = _read(folder)
            if not _end_our_own(held, token) or not _lock_soon(handle):
                raise _busy(held, "a command of it is running")
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_soon(handle: int) -> bool:
    deadline = time.monotonic() + _DYING_S
    while not _try_lock(handle):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _end_our_own(held: Optional[Dict[str, Any]], token: Optional[str]) -> bool:
    """End an earlier command of the same run: it asks again, so it has lost the link to that one."""
    if held is None or token is None or held["token"] != token or held["boot"] != _boot() or held["pid"] <= 1:
        return False
    with contextlib.suppress(OSError):
        os.kill(held["pid"], signal.SIGKILL)
    return True


def _renew(folder: str, token: str, owner: str) -> Dict[str, Any]:
    _refuse_if_held(folder, token)
    held = _read(folder)
    since = held["since"] if held is not None and held["token"] == token else time.monotonic()
    lease = {
        "token": token,
        "owner": owner,
        "since": since,
        "renewed": time.monotonic(),
        "boot": _boot(),
        "pid": os.getpid(),
    }
    path = os.path.join(folder, _LEASE)
    try:
        with open(path + ".part", "w", encoding="utf-8") as stream:
            json.dump(lease, stream)
        os.replace(path + ".part", path)
    except OSError as error:
        raise DeviceError(f"the work folder {folder!r} cannot be written: {error.strerror}") from error
    return lease


def _refuse_if_held(folder: str, token: str) -> None:
    held = _read(folder)
    if held is None or held["token"] == token:
        return
    silent_s = time.monotonic() - held["renewed"]
    if held["boot"] == _boot() and 0 <= silent_s < FREE_AFTER_S:
        raise _busy(held, f"it was last heard of {_words(silent_s)} ago")


def _busy(held: Optional[Dict[str, Any]], how: str) -> BusyError:
    owner, age = "another run", ""
    if held is not None:
        owner = held["owner"]
        if held["boot"] == _boot():
            age = f" since {_words(max(0.0, time.monotonic() - held['since']))}"
    return BusyError(
        f"{owner} has this device{age}; {how}",
        "Wait for it. If that run is dead, free the device: taco devices unlock --device URL",
    )


def _read(folder: str) -> Optional[Dict[str, Any]]:
    """The lease; None where there is none that can be understood."""
    try:
        with open(os.path.join(folder, _LEASE), encoding="utf-8") as stream:
            held = json.load(stream)
        return {
            "token": str(held["token"]),
            "owner": str(held["owner"]),
            "since": float(held["since"]),
            "renewed": float(held["renewed"]),
            "boot": str(held["boot"]),
            "pid": int(held["pid"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _boot() -> str:
    """Which start of the machine this is."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
