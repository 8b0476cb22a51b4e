"""`taco devices`, `taco deploy` and `taco bench`: what is there, put a bundle there, and time it there."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from taco.commands import arguments, device_printing
from taco.errors import InputError, MeasurementError

Url = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="URL",
        help="ssh://USER@HOST:PORT/FOLDER, of which HOST alone is needed and may be an alias of your ssh "
        "configuration; or local.",
        show_default=False,
    ),
]
BundleFolder = Annotated[Path, typer.Argument(help="The --out folder of an export.", show_default=False)]
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}

app = typer.Typer(
    help="Your own devices, through your own ssh.\n\nMake `ssh pi@trap1` work without a password first; then "
    "`taco devices doctor --device ssh://pi@trap1` tells what is there and what is missing.",
    no_args_is_help=True,
)


@app.command()
def doctor(
    device: Url,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")] = False,
    debug: arguments.Debug = False,
) -> None:
    """Say what a device is, which runtimes it has, and the command that installs what is missing."""
    del debug
    from taco.attached.ondevice import examine

    try:
        found = examine(device)
    except MeasurementError as error:
        if json_output:
            typer.echo(json.dumps({"reachable": False, "device": device, "error": error.what, "todo": error.todo}))
        raise
    if json_output:
        typer.echo(json.dumps(found, indent=2, sort_keys=True))
    else:
        device_printing.examined(found)


@app.command()
def unlock(device: Url, debug: arguments.Debug = False) -> None:
    """Free a device that a dead run still holds."""
    del debug
    from taco.address import parse_address
    from taco.attached.ondevice import attached
    from taco.attached.ondevice import unlock as free

    with attached(parse_address(device)) as found:
        had = free(found)
    typer.echo("nobody had it" if had is None else f"freed; {had} had it")


def deploy(
    device: Url,
    bundle: Annotated[
        Path | None, typer.Argument(help="The --out folder of an export; none with --rollback.", show_default=False)
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Use the bundle that was in use there before this one.")
    ] = False,
    watch: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="On the device: where pictures arrive, for the unit file.", show_default="none"
        ),
    ] = None,
    results: Annotated[
        str, typer.Option(metavar="FOLDER", help="On the device: where results go, for the unit file.")
    ] = "results",
    debug: arguments.Debug = False,
) -> None:
    """Put a bundle on a device and use it there from now on; say how to watch a folder with it."""
    del debug
    if rollback == (bundle is not None):
        raise InputError(
            "one thing at a time: a bundle is put there, or the one before it is used again",
            "Give BUNDLE, or --rollback without one",
        )
    from taco.address import parse_address
    from taco.attached.ondevice import Watch, attached, leased
    from taco.verify import open_bundle

    opened, address = None if bundle is None else open_bundle(bundle), parse_address(device)
    with attached(address) as found, leased(found):
        if opened is None:
            typer.echo(found.roll_back())
            return
        done = found.deploy(opened, None if watch is None else Watch(watch, results))
        typer.echo(done.folder)
        device_printing.deployed(found, done)


def bench(
    bundle: BundleFolder,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Where to time it; give it again for more devices of the same kind: they are timed at the same time.",
            show_default="local",
        ),
    ] = None,
    sustained: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Let the model work so long without a pause, as in 30m.", show_default="no"),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Also with so many threads each, as in 1,2,4.", show_default="no"),
    ] = None,
    idle: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Pause before a first run; 0 is none.", show_default="10"),
    ] = None,
    operators: Annotated[
        bool, typer.Option("--operators", help="Also the time of every operator, by ONNX Runtime's profiler.")
    ] = False,
    threads: arguments.Threads = None,
    frames_per_day: Annotated[
        float | None,
        typer.Option(metavar="N", help="Estimate what a day of so many pictures needs.", show_default="no estimate"),
    ] = None,
    battery_wh: Annotated[
        float | None,
        typer.Option(metavar="WH", help="And how long a battery of so many watt-hours lasts.", show_default="none"),
    ] = None,
    rest_w: Annotated[
        float | None,
        typer.Option(metavar="W", help="Power between pictures, by your own meter.", show_default="what it tells"),
    ] = None,
    active_w: Annotated[
        float | None,
        typer.Option(metavar="W", help="Power at work, by your own meter.", show_default="what it tells"),
    ] = None,
    into_report: Annotated[
        bool, typer.Option("--report", help="Put it into the report of the bundle, and draw that again.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")] = False,
    debug: arguments.Debug = False,
) -> None:
    """Time a bundle on one or more devices: warm, cold, after idling; with --sustained also hot.

    A device that cannot be reached does not stop the others; it is named, and the exit code is 5.
    """
    del debug
    from taco.address import parse_address
    from taco.field.bench_job import BenchJob, check_day, run_bench
    from taco.field.benching import BenchAsked
    from taco.verify import open_bundle

    day = check_day(frames_per_day, battery_wh, rest_w, active_w)
    hot = 0.0 if sustained is None else seconds_of(sustained)
    asked = BenchAsked(threads, idle, hot, counts_of(sweep), operators)
    addresses = tuple(parse_address(text) for text in device or ["local"])
    job = BenchJob(open_bundle(bundle), addresses, asked, day, ("taco", *sys.argv[1:]))
    found: dict[str, Any] = run_bench(job, into_report=into_report)
    if json_output:
        typer.echo(json.dumps(found, indent=2))
    else:
        device_printing.benched_all(found)
    missing = [unit["device"] for unit in found.get("units", ()) if "problem" in unit]
    if missing:
        raise MeasurementError(f"{', '.join(missing)}: not measured", "The others were; see above what is wrong")


def seconds_of(text: str) -> float:
    """Read a duration: 90, 90s, 30m or 2h.

    Raises:
        InputError: It is none.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match.group(1)) * _SECONDS[match.group(2)] if match else 0.0
    if not 0 < seconds <= 86400:
        raise InputError(f"--sustained {text!r} is no time", "Give seconds, minutes or hours, as in 30m; at most 24h")
    return seconds


def counts_of(text: str | None) -> tuple[int, ...]:
    """Read numbers of threads.

    Raises:
        InputError: One is none.
    """
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and 1 <= int(word) <= 1024 for word in words) or len(words) > 16:
        raise InputError(f"--sweep {text!r} is no list of threads", "Give numbers as in 1,2,4")
    return tuple(map(int, words))
