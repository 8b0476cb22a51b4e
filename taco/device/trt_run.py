"""Run trtexec, and say in words why it failed: memory, an operator, its options, an engine from elsewhere, a crash."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from typing import List, NamedTuple, Optional, Sequence, Tuple

from taco.device.trt_versions import Version, version_in
from taco.device.wire import DeviceError
from taco.device.with_parent import die_with_parent

FOLDERS = ("usr/src/tensorrt/bin", "usr/bin", "usr/local/bin")
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
CRASHED = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT)
TAIL = 600
_FREE_MEMORY = "Close other programs (the desktop too: sudo systemctl isolate multi-user), add swap, and run again."


class Symptom(NamedTuple):
    """Words in a log, what they mean, and what to do."""

    pattern: str
    what: str
    todo: str


SYMPTOMS: Tuple[Symptom, ...] = (
    Symptom(r"Unknown option: (\S+)", "this trtexec does not know the option {0}", "Please report its version."),
    Symptom(
        r"No importer registered for op: (\w+)|no importer registered for op: (\w+)",
        "this TensorRT cannot read the operator {0}",
        "Update JetPack, or choose another --model.",
    ),
    Symptom(
        r"UNSUPPORTED_NODE[^\n]*|Plugin not found[^\n]*",
        "this TensorRT cannot read a node of the graph ({0})",
        "Update JetPack, or choose another --model.",
    ),
    Symptom(
        r"not compatible with this version of TensorRT|[Vv]ersion tag does not match|Platform specific tag mismatch",
        "the engine was built by another TensorRT or for another GPU",
        "Delete the folder engines and run again: engines are built on the device that runs them.",
    ),
    Symptom(r"\(out of memory\)|OutOfMemory|out of memory", "the GPU ran out of memory", _FREE_MEMORY),
    Symptom(
        r"Could not find any implementation for node (\S+)",
        "TensorRT found no kernel for {0}",
        "It may lack memory to try one: " + _FREE_MEMORY,
    ),
)


class Trtexec:
    """NVIDIA's command-line builder.

    Args:
        path: Where it is.
        timeout_s: How long one run may take.

    Raises:
        DeviceError: It does not run, or does not say its version.
    """

    def __init__(self, path: str, timeout_s: float = 3600.0) -> None:
        self.path = path
        self._timeout_s = timeout_s
        # --help ends without a GPU, and its first line names the version.
        code, log = self._call(["--help"], ".")
        try:
            self.version: Version = version_in(log)
        except DeviceError as error:
            raise explained(log, code, "asked for its version") if code not in (0, 1) else error from error

    def run(self, arguments: Sequence[str], doing: str, folder: str) -> str:
        """Run it.

        Args:
            arguments: Its options.
            doing: What is being done, for messages, such as `building the engine of compressed`.
            folder: Working folder.

        Returns:
            Everything that it printed.

        Raises:
            DeviceError: It failed; says why.
        """
        code, log = self._call(arguments, folder)
        if code != 0 or "&&&& FAILED" in log:
            raise explained(log, code, doing)
        return log

    def _call(self, arguments: Sequence[str], folder: str) -> Tuple[int, str]:
        try:
            done = subprocess.run(
                [self.path, *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self._timeout_s,
                check=False,
                # What ends us for a lost link must not leave a build behind, which would keep the GPU busy.
                preexec_fn=die_with_parent,
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(
                f"trtexec took longer than {self._timeout_s:g} s", "Run again; nothing is lost."
            ) from error
        except OSError as error:
            raise DeviceError(
                f"{self.path} cannot be run: {error.strerror}", "Name another one with --trtexec."
            ) from error
        return done.returncode, done.stdout.decode("utf-8", "replace")


def find_trtexec(asked: Optional[str], root: str = "/") -> str:
    """Return the path of trtexec.

    Args:
        asked: What the person named; None looks where JetPack puts it, then on PATH.
        root: Where `usr` is.

    Raises:
        DeviceError: It is not there.
    """
    if asked is not None:
        if os.path.isfile(asked):
            return os.path.abspath(asked)
        raise DeviceError(f"there is no trtexec at {asked!r}", "Give its path, as in --trtexec /usr/bin/trtexec.")
    places = [os.path.join(root, folder, "trtexec") for folder in FOLDERS]
    found = next((path for path in places if os.path.isfile(path)), None) or shutil.which("trtexec")
    if found is None:
        raise DeviceError(
            "trtexec is not on this machine: TensorRT's tools are missing",
            "On a Jetson: sudo apt install libnvinfer-bin (part of nvidia-jetpack).",
        )
    return found


def explained(log: str, code: int, doing: str) -> DeviceError:
    """Return the error that says why trtexec failed.

    Args:
        log: What it printed.
        code: Its exit code; negative for a signal.
        doing: What was being done.
    """
    if code in KILLED:
        return DeviceError(
            f"{doing} was killed by the system, because memory ran out (exit code 137)",
            f"TensorRT needs several times the memory of the engine while it builds. {_FREE_MEMORY}",
        )
    for symptom in SYMPTOMS:
        match = re.search(symptom.pattern, log)
        if match:
            found = next((group for group in match.groups() if group), match.group(0))
            return DeviceError(f"{doing} failed: {symptom.what.format(found)}", symptom.todo)
    number = -code if code < 0 else code - 128
    if number in CRASHED:
        return DeviceError(
            f"{doing} crashed ({signal.Signals(number).name}); its last words: {_last(log)}",
            "This is a fault in TensorRT: update JetPack, or report it to NVIDIA with the file trtexec.log.",
        )
    return DeviceError(f"{doing} failed with exit code {code}; its last words: {_last(log)}", "See trtexec.log.")


def _last(log: str) -> str:
    """Return the end of a log: its errors where it has any."""
    lines: List[str] = [line for line in log.splitlines() if "[E]" in line] or log.splitlines()
    return " | ".join(line.strip() for line in lines[-3:])[-TAIL:] or "nothing"
