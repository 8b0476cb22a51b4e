"""What the command line prints: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taco.progress import PlainProgress, Progress, TerminalProgress
from taco.wording import asked_points, precision, some_of_each

if TYPE_CHECKING:
    from taco.answers.prediction import Prediction
    from taco.evaluate import Evaluation
    from taco.metrics.accuracy import Proportion
    from taco.metrics.gates import Gate
    from taco.report.schema import Report
    from taco.steps.plan import Plan
    from taco.targets.loading import Target


def log_to_stderr(*, quiet: bool, verbose: bool = False) -> None:
    """Let our own modules tell what they do, on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("taco").setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)


def progress(*, quiet: bool) -> Progress:
    """Return bars on a terminal, log lines elsewhere."""
    console = Console(stderr=True)
    return TerminalProgress(console) if console.is_terminal and not quiet else PlainProgress()


def waking_up(*, quiet: bool) -> contextlib.AbstractContextManager[object]:
    """Show that torch is being imported, which takes seconds."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return contextlib.nullcontext()
    return console.status("starting torch")


def error(text: str) -> None:
    """Print one error."""
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text("Error: ", style="bold red") + Text(text), highlight=False)


def note(text: str) -> None:
    """Print one note on stderr."""
    Console(stderr=True, soft_wrap=True).print(Text(text), highlight=False)


def answers(found: Sequence[Prediction], pictures: int) -> None:
    """Note on stderr which answers of a prediction a person should look at."""
    failed = len({answer.path for answer in found if answer.failure})
    if failed:
        note(f"{failed} of {pictures} pictures could not be read; they are listed with the reason")
    unsure = sum(answer.sure is False for answer in found)
    if unsure:
        note(f"{unsure} of {len(found)} answers are not sure and marked so: look at those pictures yourself")


def gates(found: Sequence[Gate]) -> None:
    """Print one line a check."""
    console = Console(soft_wrap=True)
    words = {True: ("passed", "green"), False: ("FAILED", "bold red"), None: ("not decided", "yellow")}
    for gate in found:
        word, style = words[gate.passed]
        line = Text(f"{word:<12}", style=style) + Text(f"{gate.name}: {gate.measured} (allowed: {gate.limit})")
        console.print(line, highlight=False)


def score(found: Evaluation) -> None:
    """Print the accuracy, recall and precision of every class, and what else one number would hide."""
    console, total = Console(soft_wrap=True), found.score.top1
    kind = "class-balanced accuracy" if found.score.balanced else "accuracy"
    console.print(f"{kind} {total.percent:.1f} % on {total.n} pictures ({_interval(total)})", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("CLASS", "RIGHT", "95 % INTERVAL", "PICTURES", "PRECISION"):
        table.add_column(column, overflow="fold")
    for name, recall in found.score.per_class.items():
        if recall is not None:
            ends, precise = f"{recall.low:.1f} to {recall.high:.1f}", found.quality.precision[name]
            precision = "never the answer" if precise is None else f"{precise.percent:.1f} %"
            table.add_row(Text(name), f"{recall.percent:.1f} %", ends, str(recall.n), precision)
    console.print(table)
    for line in _more(found):
        console.print(line, highlight=False, markup=False)
    for line in some_of_each(found.skipped):
        note(f"skipped {line}")


def _more(found: Evaluation) -> Iterator[str]:
    from taco.metrics.quality import BINS

    balanced, worst = found.quality.balanced, found.quality.worst
    if not found.score.balanced:
        yield f"class-balanced accuracy {balanced.percent:.1f} % ({_interval(balanced)})"
    recall = None if worst is None else found.score.per_class[worst]
    if recall is not None:
        yield f"worst class: {worst}, {recall.percent:.1f} % of {recall.n} ({_interval(recall)})"
    yield (
        f"calibration error {found.quality.calibration.error:.1f} points ({BINS} bins of equal width): how far "
        "probabilities are from what is right"
    )
    if found.sure is not None:
        right = found.sure.right
        share = "" if right is None else f"; {right.percent:.1f} % of them are right ({_interval(right)})"
        yield f"sure from {found.sure.threshold:.3f}: {found.sure.sure.percent:.1f} % of the answers{share}"
    if found.paired is not None and found.other is not None:
        yield (
            f"the other bundle: {found.other.top1.percent:.1f} %. Right only there {found.paired.only_first}, only "
            f"here {found.paired.only_second}, McNemar p = {found.paired.p:.3g}"
        )


def _interval(share: Proportion) -> str:
    return f"95 % interval {share.low:.1f} to {share.high:.1f}"


def targets(found: Sequence[Target]) -> None:
    """Print one line a target."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("TARGET", "RUNTIME", "PRECISION", "MEASURED", "WHAT IT IS"):
        table.add_column(column, overflow="fold")
    runtimes = {"ort": "ONNX Runtime", "ov": "OpenVINO", "trt": "TensorRT"}
    for target in found:
        where = "here" if target.local else "on the device"
        table.add_row(target.name, runtimes[target.runtime], target.precision, where, target.description)
    Console(soft_wrap=False).print(table)


def plan(found: Plan, config: Path | None = None) -> str:
    """Describe what a run will do.

    Args:
        found: From `make_plan`.
        config: The settings file that was used.
    """
    options, budget = found.options, found.budget
    clock = "an estimate by the latency table" if budget.estimated else "measured"
    how = f"--speedup {budget.speedup:g}, {clock}" if budget.speedup else f"--macs {budget.macs or 1:g}"
    if budget.latency_ms is not None:
        how = f"--latency-ms {budget.latency_ms:g}, {clock}"
    if budget.max_drop is not None:
        how = f"--max-drop {asked_points(budget.max_drop)} on the select pictures, the fastest such model"
    if budget.given:
        how = f"--widths {options.widths}"
    if budget.sparsity is not None:
        how = f"{budget.sparsity:.1%} of the weights zero, {options.mask}; widths stay"
    limits = {"--max-bytes": budget.limits.size_bytes, "--max-macs": budget.limits.macs}
    limits["--max-memory"] = budget.limits.memory_bytes
    how = ", ".join([how, *(f"{flag} {value:g}" for flag, value in limits.items() if value is not None)])
    widths = sum(u.width for u in found.units.within_blocks if u.kind != "heads")
    heads = sum(u.kind == "heads" for u in found.units.within_blocks)
    lines = [
        *([f"settings  {config}"] if config else []),
        *([f"from      {options.from_run}"] if options.from_run else []),
        *_planned_pictures(found),
        f"model     {found.generalist.name}, weights from {found.generalist.weights_source}",
        *(["WARNING   random weights: every accuracy will be meaningless"] if found.generalist.random_weights else []),
        *([f"pictures  {_input_words(found)}"] if found.resized else []),
        f"head      {options.head}{', a fine-tune tried too' if options.fine_tune else ''}",
        f"target    {found.target.name}: {found.target.description}",
        *([f"device    {found.device.name}: {found.device.board}"] if found.device else []),
        *(f"device    {other.name}: {other.board}" for other in found.others.devices.values()),
        *(f"MISSING   {address}: {failed}" for address, failed in found.others.missing.items()),
        f"budget    {how}",
        f"units     {len(found.units.within_blocks) - heads} inner widths, {widths} channels, multiples of "
        f"{found.target.channel_multiple}{f'; the heads of {heads} attentions' if heads else ''}; "
        f"{len(found.units.dense)} sets of channels stay dense",
        f"recovery  {options.recover_minutes:g} minutes"
        + (f", also on {len(found.frames.views)} views of unlabelled frames" if found.frames.views else ""),
        f"out       {options.out}",
        "Nothing was done (--dry-run).",
    ]
    return "\n".join(lines)


def _input_words(found: Plan) -> str:
    own, *others = ("x".join(map(str, one.generalist.preprocessing.input_size[1:])) for one in (found, *found.resized))
    if found.options.input_size == "auto":
        return f"of {', '.join([own, *others])} pixels compete; the dense model that is compared with reads {own}"
    return f"of {others[0]} pixels; the dense model that is compared with reads {own}"


def _planned_pictures(found: Plan) -> list[str]:
    options, task, evaluation = found.options, found.listings.task, found.listings.evaluation
    looked = "boxes around the animals" if found.listings.cropped else "whole frames"
    apart = {
        "auto": "places kept apart where they are known, else bursts, else single pictures",
        "location": "places kept apart",
        "sequence": "bursts kept apart",
        "image": "single pictures kept apart",
    }
    judged = f"{len(evaluation.pictures)} pictures of {evaluation.name}" if evaluation else "what the shots leave"
    lines = [
        f"task      {task.name}: {len(task.pictures)} pictures of {len(task.classes)} classes, "
        f"{options.shots} shots a class",
        f"views     {looked}",
        f"judged on {judged}",
        f"split     {apart[options.split_by]}",
    ]
    if skipped := len(task.skipped) + (len(evaluation.skipped) if evaluation else 0):
        lines.append(f"skipped   {_counted(skipped, 'picture')}; the report will list them")
    return lines


def result(report: Report, folder: Path, *, already_done: bool) -> None:
    """Print what came out: accuracy, size, speed and where the report lies."""
    console = Console(soft_wrap=True)
    if already_done:
        console.print(f"This run is already finished in {folder}; nothing was done.", highlight=False)
    if report.model.random_weights:
        console.print(Text("RANDOM WEIGHTS: every accuracy is meaningless", style="bold red"))
    for name, value in _lines(report):
        console.print(Text(f"{name:<10}", style="bold") + Text(value), highlight=False)
    for warning in report.warnings:
        console.print(Text("warning   ", style="yellow") + Text(warning), highlight=False)
    if report.next_step:
        console.print(Text("next      ", style="bold") + Text(report.next_step), highlight=False)
    console.print(Text("report    ", style="bold") + Text(str(folder / "report.html")), highlight=False)


def _lines(report: Report) -> list[tuple[str, str]]:
    lines = [
        ("pictures", _pictures(report)),
        ("accuracy", _accuracy(report)),
        *_details(report),
        ("size", _size(report)),
        *_precision(report),
        *_half(report),
        *_sparsity(report),
    ]
    from taco.report.engines import not_on_hardware

    latency = report.latency_ms
    if latency is None or report.speedup is None:
        found = report.estimate
        told = f"; estimated {found.dense_ms:.2f} ms -> {found.compressed_ms:.2f} ms a picture" if found else ""
        return [*lines, ("speed", f"not measured; widths chosen by {report.chosen_by}{told}"), *_device(report)]
    rounds = report.speedup_rounds or []
    spread = f"{min(rounds):.2f} to {max(rounds):.2f} over {len(rounds)} rounds" if rounds else ""
    where = "this machine" if report.local else f"the {report.target}"
    if report.device is not None:
        where = report.device.board
    stand_in = not_on_hardware(report)
    speed = (
        f"{report.speedup:.2f} times as fast, {stand_in or f'measured on {where}'} ({spread}): "
        f"{latency.dense.p50:.2f} ms -> {latency.compressed.p50:.2f} ms a picture"
    )
    return [*lines, ("speed", speed), *_device(report)]


def _device(report: Report) -> list[tuple[str, str]]:
    found = report.device
    if found is None:
        return []
    told = f"{found.same_answers} of {found.images} answers are those of this machine"
    lines = [("device", f"{found.board}: {told}; the bundle is in {found.deployed_to}")]
    return [*lines, *(("devices", line) for line in _units(report))]


def _units(report: Report) -> list[str]:
    from taco.report.units import outcome, spread_sentence

    if report.units is None:
        return []
    return [spread_sentence(report.units), *(outcome(unit) for unit in report.units.units)]


def _precision(report: Report) -> list[tuple[str, str]]:
    found = report.precision
    if found is None:
        return []
    other = precision(found.compared_with)
    if found.given_up is not None:
        return [("INT8", f"given up, the model is in {other}: {found.given_up}")]
    gain = f"whether it is faster than {other} was not measured"
    if found.faster_than_fp32 is not None:
        gain = f"{found.faster_than_fp32[0]:.2f} times as fast as {other} of the same model"
    return [("INT8", f"{found.quantised} of {found.layers} layers ({found.scheme}); {gain}")]


def _half(report: Report) -> list[tuple[str, str]]:
    found = report.half
    if found is None:
        return []
    if found.given_up is not None:
        return [(found.asked, f"given up, the model is in {found.used}: {found.given_up}")]
    gain = "" if found.faster_than_fp32 is None else f"{found.faster_than_fp32[0]:.2f} times as fast as fp32; "
    return [(found.asked, gain + ", ".join(f"{n} {kind}" for kind, n in found.realised.items()))]


def _sparsity(report: Report) -> list[tuple[str, str]]:
    found = report.sparsity
    if found is None:
        return []
    return [
        (
            "to send",
            f"{found.packed_bytes / 1e6:.2f} MB packed ({found.percent:.1f} % of the weights of {len(found.layers)} "
            "layers are zero); `taco unpack` makes the model of it on the device",
        )
    ]


def _pictures(report: Report) -> str:
    task = report.task
    parts = [f"{task.fit_images + task.select_images} shots, {task.eval_images} to judge on"]
    if task.cropped:
        parts.append("looked at in boxes around the animals")
    if task.held_back:
        parts.append(f"{task.held_back} held back")
    if task.skipped:
        parts.append(f"{len(task.skipped)} skipped, see report")
    return "; ".join(parts)


def _details(report: Report) -> list[tuple[str, str]]:
    """Say what an accuracy hides: new places, empty frames, night, and how far sure answers can be trusted."""
    accuracy, task = report.accuracy, report.task
    lines = []
    if accuracy.exported is None:
        return []
    if task.eval_images:
        apart = {
            "location": "no place is in both shots and evaluation",
            "sequence": "no burst is in both shots and evaluation; places may be",
            "image": "no picture is in both shots and evaluation; places and bursts may be",
        }
        lines.append(("split", apart[task.split_by]))
    blank = accuracy.exported.per_class.get(accuracy.blank_class) if accuracy.blank_class else None
    if blank is not None:
        lines.append(("empty", f"{blank.percent:.1f} % of {_counted(blank.n, 'empty frame')} are named as such"))
    if accuracy.by_light:
        names = {"day": "by day", "infrared": "in infrared"}
        each = (
            f"{light.exported.percent:.1f} % {names[kind]} ({light.exported.n})"
            for kind, light in accuracy.by_light.items()
        )
        lines.append(("light", ", ".join(each)))
    return [*lines, ("sure", _sure(report))]


def _sure(report: Report) -> str:
    found = report.accuracy.abstention
    on = "" if found.eval_sure else " on the select pictures"
    share, right = (found.eval_sure, found.eval_right) if found.eval_sure else (found.select_sure, found.select_right)
    if right is None:
        return f"no answer{on} is sure: a person must look at every picture"
    return (
        f"{share.percent:.1f} % of the answers{on} (probability from {found.threshold:.2f}); "
        f"{right.percent:.1f} % of them are right, {found.asked_percent:g} % asked"
    )


def _counted(n: int, name: str) -> str:
    return f"{n} {name}" + ("" if n == 1 else "s")


def _accuracy(report: Report) -> str:
    accuracy = report.accuracy
    if accuracy.dense is None or accuracy.exported is None or accuracy.drop_points is None:
        return "not judged"
    kind = "class-balanced accuracy" if accuracy.balanced else "accuracy"
    low, high = accuracy.drop_ci95 or (float("nan"), float("nan"))
    unseen = (
        "unseen pictures" if accuracy.evaluated_on == "evaluation" else "SELECT pictures (no unseen ones were left)"
    )
    return (
        f"dense {accuracy.dense.top1.percent:.1f} % -> exported {accuracy.exported.top1.percent:.1f} % "
        f"({kind} on {accuracy.exported.top1.n} {unseen}; drop {accuracy.drop_points:+.1f} points, "
        f"95 % interval {low:+.1f} to {high:+.1f})"
    )


def _size(report: Report) -> str:
    dense, small = report.size.dense, report.size.compressed
    read = f"; {dense.pictures} -> {small.pictures} pixels" if small.pictures != dense.pictures else ""
    return (
        f"{dense.bytes / 1e6:.1f} MB -> {small.bytes / 1e6:.1f} MB; "
        f"{dense.params / 1e6:.2f} M -> {small.params / 1e6:.2f} M parameters; "
        f"{dense.macs / 1e6:.0f} M -> {small.macs / 1e6:.0f} M multiply-accumulates{read}"
    )
