"""The command line: parse, call, print. No logic.

Exit codes: 0 done; 2 wrong usage or input; 3 the budget cannot be reached; 4 a check failed and nothing was shipped;
5 a device, runtime or measurement is missing; 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

import taco
from taco.commands import arguments, database, devices, front, inspect, printing, profile, report, width_arguments
from taco.commands.config import DEFAULT_TARGET, dump_config
from taco.commands.flags import described, typed
from taco.commands.request import make_request
from taco.errors import EXIT_INTERRUPTED, EXIT_OK, GateError, InputError, TacoError
from taco.options import ExportOptions, make_options
from taco.trouble import explain

EXIT_HELP = (
    "Exit codes: 0 done; 2 wrong usage or input; 3 the budget cannot be reached (says what can); 4 a check failed, "
    "nothing was shipped; 5 a device, runtime or measurement is missing; 130 interrupted."
)

app = typer.Typer(
    name="taco",
    help="A small, fast specialist for the device you own, from a large vision model and a few labelled pictures.",
    epilog=EXIT_HELP,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
targets_app = typer.Typer(help="What can be aimed at.", invoke_without_command=True, no_args_is_help=False)
app.add_typer(targets_app, name="targets")
app.add_typer(database.app, name="database")
app.add_typer(profile.app, name="profile")
app.add_typer(devices.app, name="devices")
app.add_typer(report.app, name="report")
app.command(epilog=EXIT_HELP)(front.front)
app.command(epilog=EXIT_HELP)(inspect.inspect)
app.command(epilog=EXIT_HELP)(devices.deploy)
app.command(epilog=EXIT_HELP)(devices.bench)

#: Commands that store every part that is done; the others have nothing before their end.
_STORING = ("export", "front", "database")

#: Only read for its defaults, so that the help cannot disagree with the options.
_DEFAULT = ExportOptions(task=Path(), target=DEFAULT_TARGET, out=Path())


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(taco.__version__)
        raise typer.Exit


@app.command(epilog=EXIT_HELP)
def export(
    context: typer.Context,
    task: arguments.Task = None,
    target: arguments.Target = DEFAULT_TARGET,
    out: arguments.Out = None,
    device: arguments.Device = None,
    classes: arguments.Classes = None,
    shots: arguments.Shots = _DEFAULT.shots,
    evaluation: arguments.Evaluation = None,
    images: arguments.Images = None,
    boxes: arguments.Boxes = None,
    crop: arguments.Crop = None,
    class_map: arguments.ClassMap = None,
    sure: arguments.Sure = _DEFAULT.sure,
    model: arguments.Model = _DEFAULT.model,
    weights: arguments.Weights = None,
    head: arguments.Head = _DEFAULT.head,
    fine_tune: arguments.FineTune = _DEFAULT.fine_tune,
    input_size: arguments.InputSize = None,
    speedup: arguments.Speedup = None,
    latency_ms: arguments.LatencyMs = None,
    max_drop: arguments.MaxDrop = None,
    macs: arguments.Macs = None,
    max_bytes: arguments.MaxBytes = None,
    max_macs: arguments.MaxMacs = None,
    max_memory: arguments.MaxMemory = None,
    sparsity: arguments.Sparsity = None,
    pattern: arguments.SparsityPattern = None,
    recover_minutes: arguments.RecoverMinutes = _DEFAULT.recover_minutes,
    unlabelled: arguments.Unlabelled = None,
    gate_drop: arguments.GateDrop = None,
    gate_class_drop: arguments.GateClassDrop = None,
    blank_recall: arguments.BlankRecall = _DEFAULT.blank_recall,
    force: arguments.Force = False,
    bake_preprocessing: arguments.BakePreprocessing = None,
    from_run: arguments.FromRun = None,
    config: arguments.Config = None,
    dump: arguments.Dump = False,
    dry_run: arguments.DryRun = False,
    quiet: arguments.Quiet = False,
    verbose: arguments.Verbose = False,
    json_output: arguments.JsonOutput = False,
    split_by: arguments.SplitWhat = _DEFAULT.split_by,
    min_confidence: arguments.MinConfidence = _DEFAULT.min_confidence,
    max_images: arguments.MaxImages = _DEFAULT.max_images,
    include: arguments.Include = None,
    exclude: arguments.Exclude = None,
    solver: arguments.Solver = _DEFAULT.solver,
    damping: arguments.Damping = None,
    sequential: arguments.Sequential = _DEFAULT.sequential,
    calibration: arguments.CalibrationOn = _DEFAULT.calibration,
    agnostic_images: arguments.AgnosticImages = None,
    executor: arguments.Executor = _DEFAULT.executor,
    compute: arguments.Compute = _DEFAULT.compute,
    allocation: width_arguments.Allocation = _DEFAULT.allocation,
    search: width_arguments.SearchHow = _DEFAULT.search,
    search_evaluations: width_arguments.SearchEvaluations = _DEFAULT.search_evaluations,
    take_over: width_arguments.TakeOver = _DEFAULT.take_over,
    widths: width_arguments.Widths = None,
    latency_table: width_arguments.LatencyTable = None,
    feedback: width_arguments.Feedback = None,
    threads: arguments.Threads = None,
    runtime_device: arguments.RuntimeDevice = None,
    seed: arguments.Seed = _DEFAULT.seed,
    random_weights: arguments.RandomWeights = False,
    debug: arguments.Debug = False,
) -> None:
    """Compress a large vision model for YOUR classes and YOUR device; export, measure and report it."""
    request = make_request(typed(context, locals()), config)
    printing.log_to_stderr(quiet=quiet, verbose=verbose)
    for text in () if quiet else request.notes:
        printing.note(text)
    if dump:
        checked = make_options({"task": "photos", **request.values}).model_dump()
        shown = checked if "task" in request.values else {**checked, "task": None}
        typer.echo(dump_config(shown, described(context, arguments.TASK)).encode(), nl=False)
        return
    request.check_task()
    progress = printing.progress(quiet=quiet)
    with printing.waking_up(quiet=quiet):
        from taco import api
    options = make_options(dict(request.values))
    if dry_run:
        with api.planned(options) as plan:
            typer.echo(printing.plan(plan, request.config))
        return
    result = api.export(options, progress, command=["taco", "export", *_arguments()])
    if json_output:
        typer.echo(result.report.model_dump_json(indent=2))
    elif not quiet:
        printing.result(result.report, result.folder, already_done=result.already_done)


@app.command(epilog=EXIT_HELP)
def predict(
    bundle: Annotated[Path, typer.Argument(help="The --out folder of an export.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, folders of them, or one Camtrap DP package.")],
    form: Annotated[
        Literal["csv", "json", "megadetector", "camtrap-dp"],
        typer.Option(
            "--format",
            metavar="FORM",
            help="csv, json, megadetector (for Timelapse and others), or camtrap-dp (the observations of a package).",
        ),
    ] = "csv",
    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="MegaDetector's JSON for these pictures, for a model that learned from boxes."
        ),
    ] = None,
    min_confidence: Annotated[
        float, typer.Option(help="Boxes that the detector is less sure of than this are no animals.")
    ] = _DEFAULT.min_confidence,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write.", show_default="stdout")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the model.", show_default="every core")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Name the animals in new pictures with a bundle alone (onnxruntime, numpy and Pillow)."""
    del debug
    printing.log_to_stderr(quiet=quiet, verbose=False)
    from taco.files import write_atomically
    from taco.formats.megadetector import read_boxes
    from taco.predict import common_root, find_images, render
    from taco.predict import predict as classify
    from taco.verify import open_bundle

    if output is not None and (output.is_dir() or not output.parent.is_dir()):  # known before hours of work
        raise InputError(f"--output {output} cannot be a file there", "Give a file in a folder that exists")
    opened, found, root = open_bundle(bundle), find_images(images), common_root(images)
    detector = None if boxes is None else read_boxes(boxes, [root])
    with printing.progress(quiet=quiet).step("name the pictures", len(found)) as advance:
        answers = list(classify(opened, found, threads, advance, detector, min_confidence))
    text = render(answers, opened, form, root, detector)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(output, text.encode())
    if not quiet:
        printing.answers(answers, len(found))


@app.command(epilog=EXIT_HELP)
def verify(
    bundle: Annotated[Path, typer.Argument(help="The --out folder of an export.")],
    threads: Annotated[int | None, typer.Option(help="Threads of the model.", show_default="every core")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Check a bundle: hashes, schema, model file, and its answers on the inputs that it carries."""
    del debug
    from taco.verify import verify as check

    checks = check(bundle, threads)
    printing.gates(checks)
    if any(gate.passed is False for gate in checks):
        raise GateError(f"{bundle} fails a check", "Export it again, or copy it again")


@app.command(epilog=EXIT_HELP)
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The --out folder of an export.")],
    task: Annotated[Path, typer.Argument(help="Labelled pictures, in any form that `taco export` takes.")],
    classes: arguments.Classes = None,
    images: arguments.Images = None,
    boxes: arguments.Boxes = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE", help="Another bundle with the same classes, to compare with on the same pictures."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the confusion matrix as an SVG file.")] = None,
    threads: arguments.Threads = None,
    quiet: arguments.Quiet = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    debug: arguments.Debug = False,
) -> None:
    """Say how right a bundle is on labelled pictures, on this machine; torch is not needed."""
    del debug
    if plot is not None and (plot.suffix.lower() != ".svg" or plot.is_dir() or not plot.parent.is_dir()):
        raise InputError(f"--plot {plot} cannot be drawn", "Give a name that ends in .svg, in a folder that exists")
    printing.log_to_stderr(quiet=quiet, verbose=False)
    from taco.commands.config import split_names
    from taco.evaluate import evaluate as judge
    from taco.evaluate import list_for
    from taco.task import ListOptions
    from taco.verify import open_bundle

    opened = open_bundle(bundle)
    crop = None if opened.manifest.crop_margin else False
    asked = ListOptions(None if classes is None else split_names(classes), images, boxes, crop)
    listing = list_for(opened, task, asked)
    with printing.progress(quiet=quiet).step("judge the pictures", len(listing.pictures)) as advance:
        found = judge(opened, listing, threads, advance, None if against is None else open_bundle(against))
    if plot is not None:
        from taco.files import write_atomically
        from taco.report.detail_figures import confusion_matrix

        write_atomically(plot, confusion_matrix(found.quality.confusion, opened.manifest.classes).encode())
    if json_output:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        printing.score(found)


@targets_app.callback()
def _targets(context: typer.Context) -> None:
    """List every target, or show one."""
    if context.invoked_subcommand is None:
        from taco.targets.loading import list_targets

        printing.targets(list_targets())


@targets_app.command("show")
def _targets_show(name: Annotated[str, typer.Argument(help="Name of a target.")]) -> None:
    """Show one target's file: every figure with its source."""
    from taco.targets.loading import FOLDER, load_target

    target = load_target(name)
    typer.echo((FOLDER / f"{target.name}.toml").read_text(encoding="utf-8"), nl=False)


@app.command()
def unpack(
    source: Annotated[Path, typer.Argument(help="A packed model, or the --out folder of a sparse export.")],
    output: Annotated[Path, typer.Argument(metavar="FILE", help="The ONNX file to write.")],
) -> None:
    """Make the full ONNX model of a packed one, byte for byte."""
    from taco import api

    written = api.unpack(source, output)
    printing.note(f"{written}: {written.stat().st_size / 1e6:.1f} MB, whole")


def main() -> None:
    """Entry point of `taco`."""
    sys.exit(_guarded(lambda: app(_arguments(), prog_name="taco", standalone_mode=False), _arguments()))


def main_export() -> None:
    """Entry point of `taco-export`, the same as `taco export`."""
    arguments = ["export", *_arguments()]
    sys.exit(_guarded(lambda: app(arguments, prog_name="taco-export", standalone_mode=False), arguments))


def _guarded(call: Callable[[], Any], arguments: Sequence[str]) -> int:
    """Turn every error into one message and its exit code; tracebacks only with --debug."""
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no UTF-8: printed as the bytes that they are
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        outcome = call()
    except TacoError as error:
        if debug:
            raise
        printing.error(str(error))
        return error.exit_code
    except TyperException as error:
        printing.error(f"{error.format_message()} See --help")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        outcome = EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_OK
    except Exception as error:  # the one place that may catch all: said in one line, raised with --debug
        if debug:
            raise
        known = explain(error)
        fault = f"{type(error).__name__}: {error}. This is a fault of taco-export: please report it with --debug"
        printing.error(fault if known is None else str(known))
        return TacoError.exit_code
    if outcome == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this value
        printing.error(f"interrupted; {_left_by(arguments)}")
    return outcome if isinstance(outcome, int) else EXIT_OK


def _left_by(arguments: Sequence[str]) -> str:
    """Say what an interrupted command has left, and what the same command does next time."""
    if next((word for word in arguments if not word.startswith("-")), None) in _STORING:
        return "nothing was left half written. The same command goes on where this one stopped"
    return "no result was written, because this command has it only at its end. The same command begins again"


def _arguments() -> list[str]:
    return sys.argv[1:]


if __name__ == "__main__":
    main()
