"""Where a device is: `local`, or `ssh://[user@]host[:port][/folder]`.

Host, user and port go to OpenSSH as they stand, and what is left out is left to the person's own configuration, so that
`ssh://trap1` may be an alias with a jump host, a key and a port of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from taco.errors import InputError

LOCAL = "local"
FOLDER = "taco-export"
_EXAMPLE = "Give local, or ssh://[user@]host[:port][/folder] as in ssh://pi@trap1"
_HOST = re.compile(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*")
_USER = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+@\\-]*")


@dataclass(frozen=True, slots=True)
class Address:
    """A device's address.

    Attributes:
        text: As it was given.
        host: Name, alias or number; None is this machine.
        user: None leaves it to the person's configuration.
        port: None leaves it to the person's configuration.
        folder: Work folder on the device, absolute, or relative to the home folder.
        emulated: Whether the person says that the device is an emulator, whose times mean nothing.
        python: Its interpreter; None looks for one.
        trtexec: NVIDIA's trtexec there; None looks where JetPack puts it.
    """

    text: str
    host: str | None
    user: str | None = None
    port: int | None = None
    folder: str = FOLDER
    emulated: bool = False
    python: str | None = None
    trtexec: str | None = None


def parse_address(text: str) -> Address:
    """Read an address.

    Args:
        text: `local`, or an ssh URL. `/folder` is an absolute path, `/~/folder` one in the home folder. Options follow
            a `?`: `emulated` declares an emulator, `python=/path` and `trtexec=/path` name programs there.

    Raises:
        InputError: It is no such address; says what is wrong with it.
    """
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname and _as_written(parts.netloc)
    except ValueError as error:
        raise InputError(f"--device {text!r} is no address: {error}", _EXAMPLE) from error
    options = _options(parts.query, text)
    emulated, python, trtexec = "emulated" in options, options.get("python"), options.get("trtexec")
    if not parts.scheme and not parts.netloc and parts.path == LOCAL:
        return Address(text, None, emulated=emulated, python=python, trtexec=trtexec)
    if parts.scheme != "ssh" or not host:
        raise InputError(f"--device {text!r} is no address", _EXAMPLE)
    if parts.password is not None:
        raise InputError(f"--device {parts.hostname}: a password in an address is not used", "Use a key: ssh-copy-id")
    user = None if parts.username is None else unquote(parts.username)
    if not _HOST.fullmatch(host) or (user is not None and not _USER.fullmatch(user)):
        raise InputError(f"--device {text!r}: the host or user holds a character that none can have", _EXAMPLE)
    return Address(text, host, user, port, _folder(unquote(parts.path), text), emulated, python, trtexec)


def _as_written(netloc: str) -> str:
    """Return the host in its own case: an alias of an ssh configuration may have capitals."""
    host = netloc.rpartition("@")[2]
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _folder(path: str, text: str) -> str:
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in path):
        raise InputError(f"--device {text!r}: the folder holds a control character", "Choose another folder")
    if path.startswith("/~/"):
        path = path[len("/~/") :]
        if path.startswith("/") or not path.strip("/"):
            raise InputError(f"--device {text!r} names no folder", _EXAMPLE)
    return path.rstrip("/") or FOLDER


def _options(query: str, text: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - {"emulated", "python", "trtexec"})
    if unknown or "" in (options.get("python"), options.get("trtexec")):
        raise InputError(
            f"--device {text!r}: the options are ?emulated, ?python=/path/to/python and ?trtexec=/path/to/trtexec",
            _EXAMPLE,
        )
    return options
