"""The agent's command line: doctor, bench, jetson, sweep and hash; answers travel as `taco.device.wire` says."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import sys
from typing import Any, Dict, List, NoReturn, Optional

from taco.device.bench import bench
from taco.device.probe import probe
from taco.device.trt_job import run_kit
from taco.device.trt_kit import read_kit
from taco.device.trt_machine import Surroundings
from taco.device.trt_report import failed, write_reports
from taco.device.trt_sweep import sweep
from taco.device.wire import DeviceError, RequestError, emit

EXIT_GATE = 4
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
DESCRIPTION = "Measures models on this machine for taco-export. Needs Python 3.8 or newer, numpy and a runtime."
EPILOG = """exit codes: 0 done; 2 the request is wrong; 4 an engine lost answers; 5 something is missing here;
130 interrupted.
The answer is one line of JSON behind a marker line on stdout; a summary for people goes to stderr."""


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Returns:
        Exit code.
    """
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        answer = arguments.command(arguments)
        _deliver(answer, arguments.output)
        return int(answer.get("exit_code", 0))
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        emit(error.payload(), sys.stdout)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    name = os.path.basename(sys.argv[0])
    parser = argparse.ArgumentParser(
        prog=name if name.endswith(".pyz") else "python -m taco.device",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    doctor = commands.add_parser("doctor", help="say what this machine is and which runtimes it has")
    doctor.set_defaults(command=_doctor)
    timing = commands.add_parser(
        "bench",
        help="time models against each other",
        description="Times models in alternating rounds, each in its own process.",
        epilog='REQUEST.json: {"models": {"dense": "dense.onnx", "compressed": "model.onnx"}, "threads": null, '
        '"rounds": 25, "round_ms": 40, "max_seconds": 60, "provider": "CPUExecutionProvider", "seed": 0}. '
        'provider is one of ONNX Runtime, or CPU, GPU, NPU of OpenVINO; "providers": {"dense": "CPU"} gives a model '
        "its own. "
        "All but models may be left out; paths start at the request's folder; threads null is every physical core.",
    )
    timing.add_argument("request", metavar="REQUEST.json", help="what to time; - reads it from stdin")
    timing.set_defaults(command=_bench)
    hashing = commands.add_parser("hash", help="SHA-256 of files, null for those that are not there")
    hashing.add_argument("files", metavar="FILE", nargs="+", help="a file on this machine")
    hashing.set_defaults(command=_hash)
    jetson = commands.add_parser(
        "jetson",
        help="build, judge, time and report the models of this folder with TensorRT",
        description="Does everything that a folder for a Jetson is for: builds the engines, judges them on the "
        "pictures in the folder, times them in alternating rounds, and writes report.json and report.md.",
    )
    jetson.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="the copied folder (default: here)")
    jetson.add_argument("--trtexec", metavar="PATH", help="NVIDIA's trtexec, where it is not in its usual place")
    jetson.set_defaults(command=_jetson)
    sweeping = commands.add_parser(
        "sweep",
        help="build and time many small TensorRT engines against each other",
        description="Builds an engine of every model of a request and times them in alternating rounds.",
    )
    sweeping.add_argument("request", metavar="REQUEST.json", help="which models; - reads it from stdin")
    sweeping.add_argument("--trtexec", metavar="PATH", help="NVIDIA's trtexec, where it is not in its usual place")
    sweeping.set_defaults(command=_sweep)
    for command in (doctor, timing, hashing, jetson, sweeping):
        command.add_argument("--output", metavar="FILE", help="write the JSON to this file instead of stdout")
    return parser


def _terminated(_number: int, _frame: Any) -> NoReturn:
    # An ordinary exit, so that `finally` ends the workers.
    sys.exit(EXIT_TERMINATED)


def _doctor(_arguments: argparse.Namespace) -> Dict[str, Any]:
    found = probe()
    for key in ("board", "processor", "os", "python", "cores_physical", "memory_total_mib"):
        print(f"{key:>17}: {found[key]}", file=sys.stderr)
    for name, entry in found["runtimes"].items():
        print(f"{name:>17}: {entry['version']}", file=sys.stderr)
    return found


def _bench(arguments: argparse.Namespace) -> Dict[str, Any]:
    folder = "." if arguments.request == "-" else os.path.dirname(os.path.abspath(arguments.request))
    result = bench(_read_json(arguments.request), folder)
    for name, model in result["models"].items():
        samples = [sample for samples in model["rounds_ms"] for sample in samples]
        print(f"{name!r}: median {statistics.median(samples):.3f} ms of {len(samples)} runs", file=sys.stderr)
    return result


def _jetson(arguments: argparse.Namespace) -> Dict[str, Any]:
    kit = read_kit(os.path.abspath(arguments.folder))
    found = run_kit(kit, Surroundings(arguments.trtexec), _tell)
    for line in write_reports(kit, found):
        print(line, file=sys.stderr)
    broken = failed(found)
    if broken:
        print(f"FAILED: {', '.join(broken)}: do not use these engines", file=sys.stderr)
    return {**found, "exit_code": EXIT_GATE if broken else 0}


def _sweep(arguments: argparse.Namespace) -> Dict[str, Any]:
    folder = "." if arguments.request == "-" else os.path.dirname(os.path.abspath(arguments.request))
    request = _read_json(arguments.request)
    return sweep(request, os.path.abspath(folder), Surroundings(arguments.trtexec), _tell)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _read_json(path: str) -> Any:
    try:
        if path == "-":
            return json.loads(sys.stdin.read())
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except OSError as error:
        raise RequestError(f"the request {path!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"the request {path!r} is not JSON: {error}") from error


def _hash(arguments: argparse.Namespace) -> Dict[str, Any]:
    return {"files": {path: _sha256(path) for path in arguments.files}}


def _sha256(path: str) -> Optional[str]:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def _deliver(answer: Dict[str, Any], path: Optional[str]) -> None:
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
