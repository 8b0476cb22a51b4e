"""Put a bundle in place on the device: all of it or nothing, whatever happens on the way.

The files have been sent before, under names made of their hashes. They are gathered in a folder of their own, checked,
written to the disk, and the folder gets its name in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from typing import Any, Dict, List, Mapping

from taco.device.wire import DeviceError, RequestError

FOLDER = "bundles"
ENGINES = "engines/"
#: Names that the host gives to what it sends; see `taco.agent_calls`.
_SENT = re.compile(
    r"[0-9a-f]{64}(\.[a-z]+)?|request-[0-9a-f]{16}\.json|agent-[0-9a-f]{16}\.pyz|\.taco-[0-9a-f]{32}\.part"
)
_ENGINE = re.compile(r"[A-Za-z0-9._@-]+-[0-9a-f]{16}\.engine(\.json|\.part)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def deploy(request: Any, folder: str = ".") -> Dict[str, Any]:
    """Make `bundles/NAME` of files that were sent.

    Args:
        request: `{"name", "files": {name in the bundle: {"from": file that was sent, "sha256"}}}`.
        folder: The work folder.

    Returns:
        `{"folder": absolute path, "already": whether it was there}`.

    Raises:
        RequestError: A name would leave the folder.
        DeviceError: A file is missing or damaged, or the disk is full; nothing is left of the attempt.
    """
    name, files = _checked(request)
    home = os.path.join(os.path.abspath(folder), FOLDER)
    final, staged = os.path.join(home, name), os.path.join(home, f".new-{name}")
    try:
        os.makedirs(home, exist_ok=True)
        if _is_complete(final, files):
            return {"folder": final, "already": True}
        shutil.rmtree(staged, ignore_errors=True)
        os.mkdir(staged)
        for inside, entry in files.items():
            _place(os.path.join(folder, entry["from"]), os.path.join(staged, inside), entry["sha256"])
        _swap(staged, final)
    except OSError as error:
        raise DeviceError(
            f"the bundle cannot be put into {home!r}: {error.strerror}", "Free some space on the device."
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return {"folder": final, "already": False}


def sweep(folder: str, agent: str) -> List[str]:
    """Remove what was sent for one run: models, pictures, requests, other versions of the agent; bundles stay.

    Engines that were built for the run go too; how fast kernels are (`timing.cache`) is kept for the next one.

    Args:
        folder: The work folder.
        agent: The agent that runs, which stays.

    Returns:
        What was removed.
    """
    removed = [n for n in sorted(os.listdir(folder)) if _SENT.fullmatch(n) and n != os.path.basename(agent)]
    if os.path.isdir(os.path.join(folder, ENGINES)):
        removed += [ENGINES + n for n in sorted(os.listdir(os.path.join(folder, ENGINES))) if _ENGINE.fullmatch(n)]
    for name in removed:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)
    return removed


def _checked(request: Any) -> Any:
    if not isinstance(request, dict) or not isinstance(request.get("files"), dict):
        raise RequestError("a request to deploy needs 'name' and 'files'")
    name, files = request.get("name"), request["files"]
    words = [name, *files, *(_plain(entry.get("from")) for entry in files.values())]
    bad = [word for word in words if not isinstance(word, str) or not _NAME.fullmatch(word)]
    if bad:
        raise RequestError(f"{bad[0]!r} cannot be the name of a file in a bundle")
    return name, files


def _plain(place: Any) -> Any:
    """A file that was sent lies in the work folder; an engine that was built here, in the folder of engines."""
    return place[len(ENGINES) :] if isinstance(place, str) and place.startswith(ENGINES) else place


def _is_complete(final: str, files: Mapping[str, Mapping[str, str]]) -> bool:
    if not os.path.isdir(final) or set(os.listdir(final)) != set(files):
        return False
    return all(_sha256(os.path.join(final, name)) == entry["sha256"] for name, entry in files.items())


def _place(source: str, destination: str, sha256: str) -> None:
    if not os.path.isfile(source):
        raise DeviceError(f"{os.path.basename(source)!r} was not sent", "Run the command again.")
    with open(source, "rb") as original, open(destination, "wb") as stream:
        shutil.copyfileobj(original, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())
    if _sha256(destination) != sha256:
        raise DeviceError(f"{os.path.basename(destination)!r} is damaged on the device", "Run the command again.")


def _swap(staged: str, final: str) -> None:
    """Give the folder its name; an older one of that name is moved away first and removed last."""
    old = f"{staged}.old"
    shutil.rmtree(old, ignore_errors=True)
    if os.path.isdir(final):
        os.rename(final, old)
    os.rename(staged, final)
    handle = os.open(os.path.dirname(final), os.O_RDONLY)
    with contextlib.suppress(OSError):
        os.fsync(handle)
    os.close(handle)
    shutil.rmtree(old, ignore_errors=True)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
