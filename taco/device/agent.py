"""The agent's command line; answers travel as `taco.device.wire` says."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any, List, NoReturn, Optional

from taco.device import commands, field, trt_commands
from taco.device.lease import holding
from taco.device.wire import DeviceError, emit

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
DESCRIPTION = "Measures and runs models on this machine for taco-export. Needs Python 3.8 or newer and a runtime."
EPILOG = """exit codes: 0 done; 2 the request is wrong; 4 an engine lost answers; 5 something is missing here;
130 interrupted.
The answer is one line of JSON behind a marker line on stdout; a summary for people goes to stderr."""
BENCH_EPILOG = (
    'REQUEST.json: {"models": {"dense": "dense.onnx", "compressed": "model.onnx"}, "threads": null, '
    '"rounds": 25, "round_ms": 40, "max_seconds": 60, "provider": "CPUExecutionProvider", "seed": 0}. '
    'provider is one of ONNX Runtime, or CPU, GPU, NPU of OpenVINO; "providers": {"dense": "CPU"} gives a model '
    'its own. "idle_s": 10 also times the first run after so many seconds of sleep, "sweep": [1, 2, 4] other numbers '
    'of threads, "sustained_s": 1800 half an hour of work. '
    "All but models may be left out; paths start at the request's folder; threads null is every physical core."
)


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
        answer = _run(arguments)
        if answer is not None:
            commands.deliver(answer, arguments.output)
            return int(answer.get("exit_code", 0))
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        emit(error.payload(), sys.stdout)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _run(arguments: argparse.Namespace) -> Any:
    exclusive = bool(arguments.lease) if arguments.exclusive is None else arguments.exclusive
    if not exclusive:
        return arguments.command(arguments)
    with holding(".", arguments.lease, arguments.owner):
        return arguments.command(arguments)


def _parser() -> argparse.ArgumentParser:
    name = os.path.basename(sys.argv[0])
    parser = argparse.ArgumentParser(
        prog=name if name.endswith(".pyz") else "python -m taco.device",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    doctor = made.add_parser("doctor", help="say what this machine is, which runtimes it has, and what is missing")
    doctor.set_defaults(command=commands.doctor, exclusive=False)
    timing = made.add_parser(
        "bench",
        help="time models against each other",
        description="Times models in alternating rounds, each in its own process.",
        epilog=BENCH_EPILOG,
    )
    timing.add_argument("request", metavar="REQUEST.json", help="what to time; - reads it from stdin")
    timing.set_defaults(command=commands.bench_models, exclusive=False)
    naming = made.add_parser("predict", help="name pictures with a bundle, one line each")
    naming.add_argument("bundle", metavar="BUNDLE", help="the folder of a bundle")
    naming.add_argument("pictures", metavar="PICTURE", nargs="+", help="a picture, or a folder of them")
    naming.add_argument("--threads", type=int, default=0, help="threads of the model; every core if not given")
    naming.set_defaults(command=commands.predict_pictures, exclusive=False)
    hashing = made.add_parser("hash", help="SHA-256 of files, null for those that are not there")
    hashing.add_argument("files", metavar="FILE", nargs="+", help="a file on this machine")
    hashing.set_defaults(command=commands.hash_files, exclusive=False)
    profiling = made.add_parser("profile", help="time every operator of one model")
    profiling.add_argument("model", metavar="MODEL.onnx", help="the model")
    profiling.add_argument("--provider", default="CPUExecutionProvider", help="execution provider of ONNX Runtime")
    profiling.add_argument("--threads", type=int, default=0, help="threads of the model; every core if not given")
    profiling.set_defaults(command=commands.profile_model, exclusive=False)
    jetson = made.add_parser(
        "jetson",
        help="build, judge, time and report the models of this folder with TensorRT",
        description="Does everything that a folder for a Jetson is for: builds the engines, judges them on the "
        "pictures in the folder, times them in alternating rounds, and writes report.json and report.md. Where the "
        "folder holds micro-models (taco profile --into), every block is timed by itself after that, for a latency "
        "table: half an hour or more, and a second run goes on where it stopped.",
    )
    jetson.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="the copied folder (default: here)")
    jetson.add_argument("--trtexec", metavar="PATH", help="NVIDIA's trtexec, where it is not in its usual place")
    jetson.add_argument("--no-units", action="store_true", help="do not time blocks by themselves")
    jetson.set_defaults(command=trt_commands.run_jetson, exclusive=False)
    sweeping = made.add_parser(
        "sweep",
        help="build and time many small TensorRT engines against each other",
        description="Builds an engine of every model of a request and times them in alternating rounds.",
    )
    sweeping.add_argument("request", metavar="REQUEST.json", help="which models; - reads it from stdin")
    sweeping.add_argument("--trtexec", metavar="PATH", help="NVIDIA's trtexec, where it is not in its usual place")
    # None: a run that has the device keeps it while this works; a person on the device needs no lease.
    sweeping.set_defaults(command=trt_commands.sweep_engines, exclusive=None)
    asked = [*field.add_commands(made), *_for_the_host(made)]
    for command in (doctor, timing, naming, hashing, profiling, jetson, sweeping, *asked):
        command.add_argument("--output", metavar="FILE", help="write the JSON to this file instead of stdout")
        command.add_argument("--lease", metavar="TOKEN", help=argparse.SUPPRESS)
        command.add_argument("--owner", metavar="WHO", default="a command on the device", help=argparse.SUPPRESS)
    return parser


def _for_the_host(made: Any) -> List[argparse.ArgumentParser]:
    """Commands that only the host's programs give."""
    classify = made.add_parser("classify", help="logits of pictures by a JSON request")
    classify.add_argument("request", metavar="REQUEST.json")
    classify.set_defaults(command=commands.classify_pictures, exclusive=True)
    bench = made.add_parser("bench-alone", help="bench, while no other run has the device")
    bench.add_argument("request", metavar="REQUEST.json")
    bench.set_defaults(command=commands.bench_models, exclusive=True)
    take = made.add_parser("take", help="take the device for one run, which `--lease` names")
    take.set_defaults(command=commands.take_device, exclusive=False)
    release = made.add_parser("release", help="give the device back; without --lease whoever has it")
    release.set_defaults(command=commands.release_device, exclusive=False)
    unpack = made.add_parser("unpack", help="put the pictures of an archive into a folder of its name")
    unpack.add_argument("archive", metavar="FILE.zip")
    unpack.set_defaults(command=commands.unpack_archive, exclusive=False)
    judging = made.add_parser("judge", help="logits of pictures and layer times of TensorRT engines by a JSON request")
    judging.add_argument("request", metavar="REQUEST.json")
    judging.set_defaults(command=trt_commands.judge_engines, exclusive=True)
    telling = made.add_parser("tensorrt", help="which TensorRT this is, and whether engines can be built")
    telling.set_defaults(command=trt_commands.tell_tensorrt, exclusive=False)
    for command in (judging, telling):
        command.add_argument("--trtexec", metavar="PATH", help="NVIDIA's trtexec, where it is not in its usual place")
    return [classify, bench, take, release, unpack, judging, telling]


def _terminated(_number: int, _frame: Any) -> NoReturn:
    # An ordinary exit, so that `finally` ends the workers.
    sys.exit(EXIT_TERMINATED)
