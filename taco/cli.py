"""The command line: parse, call, print. No logic.

Exit codes: 0 done; 2 wrong usage or input; 3 the budget cannot be reached; 4 a check failed and nothing was shipped;
5 a device, runtime or measurement is missing; 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

import taco
from taco import printing
from taco.errors import EXIT_INTERRUPTED, EXIT_OK, InputError, TacoError

EXIT_HELP = (
    "Exit codes: 0 done; 2 wrong usage or input; 3 the budget cannot be reached (says what can); 4 a check failed, "
    "nothing was shipped; 5 a device, runtime or measurement is missing; 130 interrupted."
)
EXAMPLE = "for example: taco-export photos/ --target host-cpu --speedup 1.5 --out runs/trap1"

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

_TASK, _MODEL, _SIZE, _RUN = "The task", "The model", "How small, how fast", "The run"


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(taco.__version__)
        raise typer.Exit


@app.command(epilog=EXIT_HELP)
def export(
    task: Annotated[
        Path | None,
        typer.Argument(
            help="Your pictures: a folder with one folder a class, or a CSV `path,label`.", show_default=False
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="The device; `taco targets` lists them.", rich_help_panel=_RUN)
    ] = "host-cpu",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result. [default: runs/TARGET]", rich_help_panel=_RUN)
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Only these classes, separated by commas.", rich_help_panel=_TASK)
    ] = None,
    shots: Annotated[int, typer.Option(help="Labelled pictures a class to learn from.", rich_help_panel=_TASK)] = 16,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval", help="Pictures to judge the result on. [default: what the shots leave]", rich_help_panel=_TASK
        ),
    ] = None,
    class_map: Annotated[
        Path | None, typer.Option(help="JSON or CSV: class -> ImageNet index or synset.", rich_help_panel=_TASK)
    ] = None,
    model: Annotated[str, typer.Option(help="Any timm model.", rich_help_panel=_MODEL)] = "tf_efficientnet_lite0",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights, .safetensors or .pth. [default: an installed weight package, else timm's hub]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Load no weights: for trying speed only.", rich_help_panel=_MODEL)
    ] = False,
    head: Annotated[
        Literal["auto", "imagenet", "fit", "keep"],
        typer.Option(
            help="auto: cut ImageNet's head to your classes if all are known, else fit. keep: your checkpoint's own.",
            rich_help_panel=_MODEL,
        ),
    ] = "auto",
    speedup: Annotated[
        float | None,
        typer.Option(help="At least this many times as fast as the dense model, MEASURED.", rich_help_panel=_SIZE),
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option(
            help="Keep this share of the multiply-accumulates (1 = cut nothing). [default: the target's own]",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    recover_minutes: Annotated[
        float, typer.Option(help="Minutes of distillation after cutting; 0 is none.", rich_help_panel=_SIZE)
    ] = 5.0,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the timed model. [default: every core]", rich_help_panel=_RUN)
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws shots, folds and views.", rich_help_panel=_RUN)] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.", rich_help_panel=_RUN)] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every detail.", rich_help_panel=_RUN)] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print report.json on stdout.", rich_help_panel=_RUN)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, do nothing.", rich_help_panel=_RUN)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=_RUN)] = False,
) -> None:
    """Compress a large vision model for YOUR classes and YOUR device; export, measure and report it."""
    del debug  # read from the command line by `_guarded`
    if task is None:
        raise InputError("no pictures were given", EXAMPLE)
    values: dict[str, Any] = {
        "task": task,
        "target": target,
        "out": out or Path("runs") / target,
        "classes": _names(classes),
        "shots": shots,
        "evaluation": evaluation,
        "class_map": class_map,
        "model": model,
        "weights": weights,
        "random_weights": random_weights,
        "head": head,
        "speedup": speedup,
        "macs": macs,
        "recover_minutes": recover_minutes,
        "threads": threads,
        "seed": seed,
    }
    _export(values, quiet=quiet, verbose=verbose, json_output=json_output, dry_run=dry_run)


def _export(values: dict[str, Any], *, quiet: bool, verbose: bool, json_output: bool, dry_run: bool) -> None:
    _log(quiet=quiet, verbose=verbose)
    progress = printing.progress(quiet=quiet)
    with printing.waking_up(quiet=quiet):
        from taco import api
    options = api.make_options(values)
    if dry_run:
        typer.echo(printing.plan(api.make_plan(options)))
        return
    result = api.export(options, progress, command=["taco", "export", *_arguments()])
    if json_output:
        typer.echo(result.report.model_dump_json(indent=2))
    elif not quiet:
        printing.result(result.report, result.folder, already_done=result.already_done)


@app.command(epilog=EXIT_HELP)
def predict(
    bundle: Annotated[Path, typer.Argument(help="The --out folder of an export.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    form: Annotated[Literal["csv", "json"], typer.Option("--format", help="How to write the result.")] = "csv",
    output: Annotated[Path | None, typer.Option(help="File to write. [default: stdout]")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the model. [default: every core]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Name the animals in new pictures with a bundle alone (onnxruntime, numpy and Pillow)."""
    del debug
    _log(quiet=quiet, verbose=False)
    from taco.bundle import Bundle
    from taco.files import write_atomically
    from taco.predict import find_images, render
    from taco.predict import predict as classify

    opened = Bundle(bundle)
    found = find_images(images)
    with printing.progress(quiet=quiet).step("name the pictures", len(found)) as advance:
        answers = list(classify(opened, found, threads, advance))
    text = render(answers, opened.manifest.classes, form)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(output, text.encode())
    failed = [a for a in answers if a.failure]
    if failed and not quiet:
        printing.note(f"{len(failed)} of {len(answers)} pictures could not be read; they are listed with the reason")


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
def report(run: Annotated[Path, typer.Argument(help="The --out folder of an export.")]) -> None:
    """Draw report.html and report.md again from report.json alone."""
    from taco.report.read import read_report
    from taco.report.write import write_report

    typer.echo(str(write_report(read_report(run), run).html))


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
        printing.error(
            f"{type(error).__name__}: {error}. This is a fault of taco-export: please report it with --debug"
        )
        return TacoError.exit_code
    if outcome == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this value
        printing.error("interrupted; nothing was left half written. The same command goes on where this one stopped")
    return outcome if isinstance(outcome, int) else EXIT_OK


def _names(classes: str | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    return tuple(dict.fromkeys(name.strip() for name in classes.split(",") if name.strip()))


def _arguments() -> list[str]:
    return sys.argv[1:]


def _log(*, quiet: bool, verbose: bool) -> None:
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("taco").setLevel(level)


if __name__ == "__main__":
    main()
