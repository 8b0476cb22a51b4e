"""The public Python API: the same steps as the command line, which only calls these functions."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from taco.address import parse_address
from taco.attached.fleet import Failed, Others, reach
from taco.attached.ondevice import Device, leased
from taco.bundle import MANIFEST, Bundle, check_file, read_manifest, withdraw
from taco.database import LayerDatabase
from taco.errors import BundleError, GateError, InputError, MeasurementError
from taco.field.database_job import DatabaseOptions, build_database
from taco.field.fleet_job import deploy_others
from taco.files import write_atomically
from taco.formats.megadetector import read_boxes
from taco.front.job import FrontOptions, make_front
from taco.front.page import write_front
from taco.front.picking import export_options, picked
from taco.front.schema import Front
from taco.heap import kept_heap
from taco.options import MIN_CONFIDENCE, ExportOptions, make_options
from taco.pictures.bank import any_readable
from taco.pipeline import run
from taco.predict import Prediction, common_root, find_images, predict
from taco.progress import PlainProgress, Progress
from taco.report.read import read_report
from taco.report.schema import Report
from taco.report.write import ReportPaths, write_report
from taco.rundir import RunDir, content_key
from taco.sparse.packing import PACKED_NAME, unpack_model
from taco.steps.checks import gates_of
from taco.steps.plan import Plan, make_plan
from taco.steps.recovering import BANK_STEP
from taco.summaries.device_summary import deployed, engine_there
from taco.summaries.summary import make_report, write_bundle
from taco.verify import open_bundle, verify

__all__ = [
    "DatabaseOptions",
    "ExportOptions",
    "ExportResult",
    "Front",
    "FrontOptions",
    "FrontResult",
    "LayerDatabase",
    "build_database",
    "classify",
    "export",
    "front",
    "make_options",
    "make_plan",
    "planned",
    "redraw_report",
    "unpack",
    "verify",
]


@dataclasses.dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export gave.

    Attributes:
        report: Everything that was found.
        folder: The bundle.
        already_done: True when the same run had finished before and nothing was done.
    """

    report: Report
    folder: Path
    already_done: bool


@kept_heap()
def export(
    options: ExportOptions, progress: Progress | None = None, command: Sequence[str] = (), plan: Plan | None = None
) -> ExportResult:
    """Do the whole job: from a task's pictures to a bundle and its report in `options.out`.

    Args:
        options: From `make_options`.
        progress: Told about every step; None logs.
        command: The command line, for the report.
        plan: From `make_plan`, when the caller has made one already.

    Raises:
        TacoError: See taco.errors; the message says what to do.
    """
    progress = progress or PlainProgress()
    rundir = RunDir(options.out)
    with rundir.locked(), contextlib.ExitStack() as stack:
        with progress.step("check the request"):
            plan = plan or stack.enter_context(planned(options))
        asked = plan.asked
        request = content_key(asked)
        finished = _finished(rundir, request)
        if finished is not None:
            return ExportResult(finished, options.out, already_done=True)
        if plan.device is not None:
            stack.enter_context(leased(plan.device))
        rundir.remember_asked(asked)
        if options.from_run is not None and options.from_run.absolute() != options.out.absolute():
            rundir.adopt(options.from_run)
        done = run(plan, rundir, progress)
        checks = gates_of(done)
        report = make_report(done, checks, progress.seconds, command)
        if report.shipped == "no":
            _refuse(report, options.out)
        with progress.step("write the bundle"):
            manifest = write_bundle(done, checks, options.out)
        if plan.device is not None:
            with progress.step(f"put the bundle on {plan.device.name}"):
                folders = deploy_others(done.units, Bundle(options.out))
                placed = plan.device.deploy(Bundle(options.out), there=engine_there(done))
                report = deployed(report, plan.device.probe["executable"], placed.folder, folders)
        with progress.step("write the report"):
            write_report(report, options.out)
        passing = [str(skipped.path) for skipped in done.material.task.skipped if skipped.passing]
        model = manifest.files["model.onnx"].sha256
        rundir.remember_finished({"request": request, "model": model, "passing": passing})
        rundir.forget(BANK_STEP)
        rundir.drop_scratch()
        return ExportResult(report, options.out, already_done=False)


@dataclasses.dataclass(frozen=True, slots=True)
class FrontResult:
    """What a front gave.

    Attributes:
        front: Every model, measured and judged.
        page: `front.html`.
        export: The bundle of the point that was picked; None without.
    """

    front: Front
    page: Path
    export: ExportResult | None


@kept_heap()
def front(
    options: ExportOptions,
    how: FrontOptions | None = None,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    pick: str | None = None,
) -> FrontResult:
    """Make a front: several budgets from one latency table, beside everything a person would do instead.

    Args:
        options: From `make_options`; the budget in it is not used. `taco front` gives it `RECOVER_MINUTES`.
        how: Which speeds, which other models.
        progress: Told about every step; None logs.
        command: The command line, for the page.
        pick: Number or name of a point that is then made into a whole bundle, in a folder of its name.

    Raises:
        TacoError: See taco.errors; the message says what to do.
    """
    progress, how = progress or PlainProgress(), how or FrontOptions()
    if options.device is not None and len(options.device) > 1:
        raise InputError(
            f"a front is measured on one device, and --device names {len(options.device)}", "Make one front for each"
        )
    rundir = RunDir(options.out)
    with rundir.locked(), contextlib.ExitStack() as stack:
        with progress.step("check the request"):
            plan = stack.enter_context(planned(options))
        if plan.device is not None:
            stack.enter_context(leased(plan.device))
        rundir.remember_asked(plan.asked)
        if options.from_run is not None and options.from_run.absolute() != options.out.absolute():
            rundir.adopt(options.from_run)
        found = make_front(plan, how, rundir, progress, command)
        page = write_front(found, options.out)
        rundir.drop_scratch()
        if pick is None:
            rundir.forget(BANK_STEP)
    made = None
    if pick is not None:
        made = export(export_options(options, picked(found, pick), options.out), progress, command)
        rundir.forget(BANK_STEP)
    return FrontResult(found, page, made)


@contextlib.contextmanager
def planned(options: ExportOptions) -> Iterator[Plan]:
    """Reach the device, if one is asked for, and check everything that can be checked in seconds.

    Raises:
        TacoError: The first thing that is wrong.
    """
    if options.device is None:
        yield make_plan(options)
        return
    addresses = [parse_address(text) for text in options.device]
    with contextlib.ExitStack() as stack:
        reached, missing = reach(addresses, stack)
        first, *others = [reached[address.text] for address in addresses if address.text in reached]
        plan = make_plan(options, first)
        yield dataclasses.replace(plan, others=_others(plan, others, missing))


def _others(plan: Plan, devices: Sequence[Device], missing: Mapping[str, Failed]) -> Others:
    """Tell the devices that can take part from those that lack something."""
    able, unable = {}, dict(missing)
    for device in devices:
        if plan.target.runtime == "trt":
            todo = f"Run the same again with --device {device.address.text} and another --out"
            unable[device.address.text] = Failed("every Jetson builds engines of its own, one device a run", todo)
            continue
        try:
            device.check_runtime(plan.target.runtime)
        except MeasurementError as error:
            unable[device.address.text] = Failed(error.what, error.todo)
        else:
            able[device.address.text] = device
    return Others(able, unable)


def _refuse(report: Report, folder: Path) -> None:
    """Write the evidence, leave no artifact, not even an earlier run's.

    Raises:
        GateError: Always.
    """
    withdraw(folder)
    (folder / "model.onnx").unlink(missing_ok=True)  # also one that a killed run has left without a manifest
    write_report(report, folder)
    failures = [gate for gate in report.gates if gate.passed is False]
    told = "; ".join(f"{gate.name}: {gate.measured}, allowed: {gate.limit}" for gate in failures)
    raise GateError(
        f"nothing was shipped, because a gate failed: {told}",
        f"{folder / 'report.html'} has the evidence; --force ships it all the same, marked",
    )


def _finished(rundir: RunDir, request: str) -> Report | None:
    """Return the report of a finished, undamaged bundle that answers this request; None when there is none.

    Nor is it the answer where a picture that could not be read then can be read now.
    """
    noted = rundir.finished()
    if not isinstance(noted, dict) or noted.get("request") != request or not (rundir.path / MANIFEST).is_file():
        return None
    if any_readable(map(Path, noted.get("passing", ()))):
        return None
    try:
        manifest = Bundle(rundir.path).manifest
        return read_report(rundir.path) if manifest.files["model.onnx"].sha256 == noted.get("model") else None
    except BundleError:
        return None


def classify(
    bundle: Path,
    sources: Sequence[Path],
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
    boxes: Path | None = None,
    min_confidence: float = MIN_CONFIDENCE,
) -> list[Prediction]:
    """Name the pictures in `sources` (files or folders) with a bundle.

    Args:
        bundle: Folder of the bundle.
        sources: Files, folders, or one Camtrap DP package.
        threads: Threads of the model; None is every core.
        progress: Called with 1 for every picture.
        boxes: MegaDetector's JSON for these pictures, for a bundle that learned from boxes.
        min_confidence: Least confidence of a detection that counts.

    Raises:
        InputError: A source, the boxes or the bundle cannot be used, or they do not fit.
        MeasurementError: ONNX Runtime is missing, or cannot open or run the model.
    """
    opened, images = open_bundle(bundle), find_images(sources)
    detector = None if boxes is None else read_boxes(boxes, [common_root(sources)])
    return list(predict(opened, images, threads, progress, detector, min_confidence))


def unpack(packed: Path, output: Path) -> Path:
    """Write the ONNX file that a packed model was made of, byte for byte.

    Args:
        packed: The file, or the folder of a sparse export, whose manifest must list it as it is.
        output: Where to write.

    Raises:
        BundleError: It is no packed model, or damaged; or the folder is no bundle, or one of no sparse export.
    """
    write_atomically(output, unpack_model(_packed_in(packed) if packed.is_dir() else packed))
    return output


def _packed_in(folder: Path) -> Path:
    manifest = read_manifest(folder)
    if PACKED_NAME not in manifest.files:
        raise BundleError(
            f"{folder} holds no packed model: it is no sparse export", "Give the --out folder of a run with --sparsity"
        )
    check_file(folder, PACKED_NAME, manifest)
    return folder / PACKED_NAME


def redraw_report(folder: Path) -> ReportPaths:
    """Draw `report.html` and `report.md` again from `report.json` alone."""
    return write_report(read_report(folder), folder)
