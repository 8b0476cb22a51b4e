"""Put a bundle in place on the device: all of it or nothing, whatever happens on the way.

The files have been sent before, under names made of their hashes. They are gathered in a folder of their own, checked,
written to the disk, and the folder gets its name in one step. Then it is tried, and the link to the bundle in use is
switched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from typing import Any, Callable, Dict, List, Mapping, Optional

from taco.device import unit, versions
from taco.device.durable import sync_folder, write_whole
from taco.device.wire import DeviceError, RequestError

FOLDER = "bundles"
ENGINES = "engines/"
#: Names that the host gives to what it sends; see `taco.attached.agent_calls`.
_SENT = re.compile(
    r"[0-9a-f]{64}(\.[a-z]+)?|request-[0-9a-f]{16}\.json|agent-[0-9a-f]{16}\.pyz|\.taco-[0-9a-f]{32}\.part"
)
_ENGINE = re.compile(r"[A-Za-z0-9._@-]+-[0-9a-f]{16}\.engine(\.json|\.part)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def deploy(request: Any, folder: str = ".", check: Callable[[str], None] = lambda _folder: None) -> Dict[str, Any]:
    """Make `bundles/NAME` of files that were sent, and let `bundles/current` lead to it.

    Args:
        request: `{"name", "files": {name in the bundle: {"from": file that was sent, "sha256"}}}`. A name stands for
            one content: what lies under it with another one is damaged, and mended. `"watch": {"pictures", "results"}`
            names the folders of the unit file; without it an older unit file stays.
        folder: The work folder.
        check: Raises for a folder whose bundle does not run here: then it is not used.

    Returns:
        `{"folder": absolute path, "already": whether it was there, "before": name of what was in use before or None,
        "current": path of the link, "unit": path of the unit file}`.

    Raises:
        RequestError: A name would leave the folder.
        DeviceError: A file is missing or damaged, the bundle does not run, or the disk is full; what was in use before
            still is.
    """
    name, files = _checked(request)
    work = os.path.abspath(folder)
    home = os.path.join(work, FOLDER)
    final, staged = os.path.join(home, name), os.path.join(home, f".new-{name}")
    try:
        os.makedirs(home, exist_ok=True)
        already = _is_complete(final, files)
        if not already:
            _gather(folder, staged, files)
            _put(staged, final)
        try:
            check(final)
        except DeviceError:
            if not already and versions.current(home) != name:
                shutil.rmtree(final, ignore_errors=True)
            raise
        unit_path = _write_unit(work, home, request.get("watch"))
        before = versions.switch(home, name)
        versions.prune(home, name)
    except OSError as error:
        raise DeviceError(
            f"the bundle cannot be put into {home!r}: {error.strerror}", "Free some space on the device."
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    link = os.path.join(home, versions.CURRENT)
    return {"folder": final, "already": already, "before": before, "current": link, "unit": unit_path}


def roll_back(folder: str, check: Callable[[str], None], leaving: Optional[str] = None) -> Dict[str, Any]:
    """Use the bundle that was in use before.

    Args:
        folder: The work folder.
        check: As for `deploy`.
        leaving: As `taco.device.versions.roll_back`.

    Returns:
        `{"folder": absolute path of what is in use now}`.

    Raises:
        DeviceError: There is none, it does not run, or the folder cannot be written.
    """
    home = os.path.join(os.path.abspath(folder), FOLDER)
    try:
        return {"folder": os.path.join(home, versions.roll_back(home, check, leaving))}
    except OSError as error:
        raise DeviceError(f"{home!r} cannot be written: {error.strerror}", "Free some space on the device.") from error


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
    if bad or name in (versions.CURRENT, versions.HISTORY, unit.NAME):
        raise RequestError(f"{(bad or [name])[0]!r} cannot be the name of a bundle or of a file in one")
    return name, files


def _plain(place: Any) -> Any:
    """A file that was sent lies in the work folder; an engine that was built here, in the folder of engines."""
    return place[len(ENGINES) :] if isinstance(place, str) and place.startswith(ENGINES) else place


def _gather(folder: str, staged: str, files: Mapping[str, Mapping[str, str]]) -> None:
    shutil.rmtree(staged, ignore_errors=True)
    os.mkdir(staged)
    for inside, entry in files.items():
        _place(os.path.join(folder, entry["from"]), os.path.join(staged, inside), entry["sha256"])
    sync_folder(staged)


def _put(staged: str, final: str) -> None:
    """Give the folder its name, or mend the one that has it: it may be in use and is never away."""
    if not os.path.isdir(final):
        os.rename(staged, final)
        sync_folder(os.path.dirname(final))
        return
    wanted = os.listdir(staged)
    for name in wanted:
        os.replace(os.path.join(staged, name), os.path.join(final, name))
    for name in set(os.listdir(final)) - set(wanted):
        path = os.path.join(final, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    sync_folder(final)


def _write_unit(work: str, home: str, asked: Any) -> str:
    """Write the unit file where there is none or its folders are named."""
    place = os.path.join(home, unit.NAME)
    if asked is None and os.path.exists(place):
        return place
    folders = [(asked or {}).get(key) or key for key in ("pictures", "results")]
    if not all(isinstance(path, str) for path in folders):
        raise RequestError("'watch' must name the folders 'pictures' and 'results'")
    pictures, results = (os.path.join(work, path) for path in folders)
    words = unit.watch_words(sys.executable, os.path.join(home, versions.CURRENT), pictures, results)
    write_whole(place, unit.unit_file(words).encode())
    return place


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


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
