"""What the agent's commands do: from parsed arguments to an answer of plain JSON values."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import sys
import zipfile
from typing import Any, Dict, Optional

from taco.device.bench import bench
from taco.device.classify import classify, predict
from taco.device.deploy import sweep
from taco.device.lease import release, take
from taco.device.probe import probe
from taco.device.wire import DeviceError, RequestError, emit

_MEMBER = re.compile(r"[0-9]+\.[a-z]+")


def doctor(_arguments: argparse.Namespace) -> Dict[str, Any]:
    """Describe this machine."""
    found = probe()
    for key in ("board", "processor", "os", "python", "cores_physical", "memory_total_mib"):
        print(f"{key:>17}: {found[key]}", file=sys.stderr)
    for name, entry in found["runtimes"].items():
        print(f"{name:>17}: {entry['version']}", file=sys.stderr)
    for lack in found["missing"]:
        print(f"{'missing':>17}: {lack['what']} ({lack['why']}): {lack['command']}", file=sys.stderr)
    return found


def bench_models(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Time models against each other."""
    result = bench(read_json(arguments.request), folder_of(arguments.request))
    for name, model in result["models"].items():
        samples = [sample for samples in model["rounds_ms"] for sample in samples]
        print(f"{name!r}: median {statistics.median(samples):.3f} ms of {len(samples)} runs", file=sys.stderr)
    if result["probe_before"]["emulated"]:
        print(f"These are not times of a device: {result['probe_before']['emulated']}", file=sys.stderr)
    return result


def classify_pictures(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Ask a model about pictures."""
    return classify(read_json(arguments.request), folder_of(arguments.request))


def predict_pictures(arguments: argparse.Namespace) -> None:
    """Print one line a picture: its class, the probability and its path, between tabs."""
    for path, name, share, reason in predict(arguments.bundle, arguments.pictures, arguments.threads):
        shown = f"{name}\t{share:.4f}" if name is not None else f"(unreadable: {reason})\t"
        sys.stdout.write(f"{shown}\t{path.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')!r}\n")
    sys.stdout.flush()


def take_device(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Take the device for a run."""
    if not arguments.lease:
        raise RequestError("'take' needs --lease TOKEN")
    return take(".", arguments.lease, arguments.owner)


def release_device(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Give the device back; the run that had it leaves nothing there but its bundles."""
    found = release(".", arguments.lease)
    if arguments.lease and found["released"]:
        found["removed"] = len(sweep(".", sys.argv[0]))
    return found


def unpack_archive(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Put the pictures of an archive into a folder of its name, as a whole; names are numbers, so none can lead out."""
    archive: str = arguments.archive
    folder = os.path.splitext(archive)[0]
    staged = f"{folder}.part{os.getpid()}"
    try:
        if not os.path.isdir(folder):
            with zipfile.ZipFile(archive) as opened:
                if any(not _MEMBER.fullmatch(name) for name in opened.namelist()):
                    raise RequestError(f"{archive!r} holds other things than numbered pictures")
                opened.extractall(staged)
            os.rename(staged, folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise DeviceError(f"the pictures of {archive!r} cannot be unpacked: {error}", "Free some space.") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return {"folder": folder}


def profile_model(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Time every operator of a model."""
    try:
        from taco.device.profile import profile
    except ImportError as error:
        raise DeviceError(f"numpy cannot be imported on this device: {error}", "Install numpy.") from error
    found = profile(arguments.model, arguments.provider, arguments.threads)
    for node in sorted(found["nodes"], key=lambda node: -node["ms"])[:10]:
        print(f"{node['ms']:9.3f} ms  {node['op']:<20} {node['name']}", file=sys.stderr)
    return found


def hash_files(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Hash files."""
    return {"files": {path: _sha256(path) for path in arguments.files}}


def deliver(answer: Dict[str, Any], path: Optional[str]) -> None:
    """Print an answer, or write it to a file.

    Raises:
        RequestError: The file cannot be written.
    """
    if path is None:
        emit(answer, sys.stdout)
        return
    temporary = f"{path}.part{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(answer, stream, allow_nan=False, sort_keys=True)
        os.replace(temporary, path)
    except OSError as error:
        raise RequestError(f"the answer cannot be written to {path!r}: {error.strerror}") from error
    print(f"written to {path}", file=sys.stderr)


def folder_of(request: str) -> str:
    """Return the folder that a request's paths start at."""
    return "." if request == "-" else os.path.dirname(os.path.abspath(request))


def read_json(path: str) -> Any:
    """Read a request, from stdin where it is "-"."""
    try:
        if path == "-":
            return json.loads(sys.stdin.read())
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except OSError as error:
        raise RequestError(f"the request {path!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"the request {path!r} is not JSON: {error}") from error


def _sha256(path: str) -> Optional[str]:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
