"""Compare two runs by their reports alone: accuracy on common pictures, time on a common device, size, settings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from taco.metrics.accuracy import is_unequal, paired_drop
from taco.metrics.quality import compare_paired
from taco.report import wording
from taco.report.accuracy_schema import Answers, Paired
from taco.report.diff_schema import (
    AccuracyChange,
    ClassChange,
    Difference,
    Interval,
    Setting,
    Side,
    SizeChange,
    SpeedChange,
)
from taco.report.proof import borderline, proof
from taco.report.schema import Report
from taco.timing.timings import median_ratio

#: Each of two intervals, so that both hold with 95 % (Bonferroni).
_EACH = 0.975
#: What two intervals of few rounds hold together below this proves nothing.
_SURE = 0.9
_DEVICE = ("machine", "board", "processor", "cores")
_NOTHING = "nothing"


def compare(a: Report, b: Report, names: tuple[str, str]) -> Difference:
    """Put two reports beside each other.

    Args:
        a: The one to compare with.
        b: The other one; every change is from `a` to `b`.
        names: What the person calls them.
    """
    accuracy, speed = _accuracy(a, b), _speed(a, b)
    sizes = [
        SizeChange(name=name, a=getattr(a.size.compressed, field), b=getattr(b.size.compressed, field))
        for name, field in (
            ("parameters", "params"),
            ("parameters that are not zero", "nonzero"),
            ("multiply-accumulates (MACs)", "macs"),
            ("ONNX file, bytes", "bytes"),
        )
    ]
    return Difference(
        a=_side(a, names[0]),
        b=_side(b, names[1]),
        verdict=_verdict(accuracy, speed, sizes, names),
        accuracy=accuracy,
        speed=speed,
        sizes=sizes,
        settings=list(_settings(a, b)),
        warnings=list(_warnings(a, b, names)),
    )


def _side(report: Report, name: str) -> Side:
    return Side(name=name, target=report.target, created=report.created, command=report.command)


def _accuracy(a: Report, b: Report) -> AccuracyChange:
    said_a, said_b = _answers(a), _answers(b)
    common = [name for name, (truth, _) in said_a.items() if name in said_b and said_b[name][0] == truth]
    why = _why_not(a, b, len(common))
    points, paired, balanced = None, None, False
    if why is None:
        classes = {name: place for place, name in enumerate(a.task.classes)}
        labels = np.array([classes[said_a[p][0]] for p in common], np.int64)
        one = np.array([classes[said_a[p][1]] for p in common], np.int64)
        other = np.array([classes[said_b[p][1]] for p in common], np.int64)
        balanced = is_unequal(np.bincount(labels, minlength=len(classes)))
        drop, both = paired_drop(labels, one, other, balanced), compare_paired(labels, one, other)
        points = Interval(value=-drop.points, low=-drop.high, high=-drop.low)
        paired = Paired(
            both=both.both,
            only_first=both.only_first,
            only_second=both.only_second,
            neither=both.neither,
            p=both.p,
        )
    shown = common if why is None else []
    return AccuracyChange(
        a=a.accuracy.exported.top1 if a.accuracy.exported else None,
        b=b.accuracy.exported.top1 if b.accuracy.exported else None,
        pictures=len(common),
        points=points,
        paired=paired,
        balanced=balanced,
        classes=[_class(a, b, name, [(said_a[p], said_b[p]) for p in shown]) for name in _classes(a, b)],
        why_not=why,
    )


def _answers(report: Report) -> dict[str, tuple[str, str]]:
    """Return, by picture, its true class and the answer; of copies the first one counts."""
    found: Answers | None = report.accuracy.answers
    told: dict[str, tuple[str, str]] = {}
    if found is not None:
        names = report.task.classes
        for picture, truth, said in zip(found.ids, found.truth, found.said, strict=True):
            told.setdefault(picture, (names[truth], names[said]))
    return told


def _why_not(a: Report, b: Report, common: int) -> str | None:
    if set(a.task.classes) != set(b.task.classes):
        return "the runs know different classes"
    if a.accuracy.answers is None or b.accuracy.answers is None:
        return (
            "one of the reports does not hold its answers picture by picture (it has none, or is of an older version)"
        )
    if not common:
        return "no picture was judged by both runs"
    return None


def _classes(a: Report, b: Report) -> list[str]:
    return list(dict.fromkeys([*a.task.classes, *b.task.classes]))


def _class(a: Report, b: Report, name: str, said: list[tuple[tuple[str, str], tuple[str, str]]]) -> ClassChange:
    here = [(one[1] == name, other[1] == name) for one, other in said if one[0] == name]
    points = 100 * sum(int(new) - int(old) for old, new in here) / len(here) if here else None
    recalls = [r.accuracy.exported.per_class.get(name) if r.accuracy.exported else None for r in (a, b)]
    return ClassChange(name=name, a=recalls[0], b=recalls[1], points=points, pictures=len(here))


def _speed(a: Report, b: Report) -> SpeedChange:
    times = [None if r.latency_ms is None else r.latency_ms.compressed.p50 for r in (a, b)]
    one, other = times
    ratio, interval, coverage = None, None, None
    if one is None or other is None:
        how = "not compared: at least one of the two was not timed"
    elif differ := _devices_differ(a, b):
        how = f"not compared: measured on different devices ({differ})"
    elif a.speedup_rounds and b.speedup_rounds and _same_dense(a, b):
        old, new = median_ratio(a.speedup_rounds, _EACH), median_ratio(b.speedup_rounds, _EACH)
        ratio, interval = new.value / old.value, (new.low / old.high, new.high / old.low)
        coverage = max(0.0, old.coverage + new.coverage - 1)
        how = (
            "through the same dense model, which took turns with each of the two on this device; the interval holds "
            "both runs' own intervals"
        )
    else:
        ratio = one / other
        how = "p50 over p50 on the same device, but not in turns: without an interval, and the device may have changed"
    return SpeedChange(a_ms=one, b_ms=other, ratio=ratio, interval=interval, coverage=coverage, how=how)


def _devices_differ(a: Report, b: Report) -> str:
    """Say in what the devices differ, as far as the reports tell; empty where they are the same."""
    places = [r.device.address if r.device else "this machine" for r in (a, b)]
    if places[0] != places[1]:
        return f"{places[0]}; {places[1]}"
    told = [r.measured_on or {} for r in (a, b)]
    return next((f"{told[0].get(k)}; {told[1].get(k)}" for k in _DEVICE if told[0].get(k) != told[1].get(k)), "")


def _same_dense(a: Report, b: Report) -> bool:
    """Whether both were timed against the same dense model in the same runtime."""
    return all(
        (
            a.target == b.target,
            a.runtime == b.runtime,
            a.model.name == b.model.name,
            a.model.weights_sha256 == b.model.weights_sha256,
            a.size.dense.model_dump(exclude={"pictures"}) == b.size.dense.model_dump(exclude={"pictures"}),
        )
    )


def _settings(a: Report, b: Report) -> Iterator[Setting]:
    one, other = _flat(a), _flat(b)
    for name in dict.fromkeys([*one, *other]):
        before, after = one.get(name, _NOTHING), other.get(name, _NOTHING)
        if before != after:
            yield Setting(name=name, a=before, b=after)


def _flat(report: Report) -> dict[str, str]:
    task, model, runtime, sparsity = report.task, report.model, report.runtime, report.sparsity
    found: dict[str, object] = {
        "task": task.name,
        "classes": ", ".join(task.classes),
        "shots a class": task.shots,
        "evaluation pictures": task.eval_images,
        "judged on": report.accuracy.evaluated_on,
        "split by": task.split_by,
        "looks at boxes": "yes" if task.cropped else "no",
        "unlabelled frames": task.unlabelled_images,
        "model": model.name,
        "weights, sha256": model.weights_sha256[:16],
        "head": model.head,
        "target": report.target,
        "runtime": f"{runtime.name} {runtime.version or '(not run)'}",
        "precision": runtime.precision,
        "provider": runtime.provider,
        "threads": runtime.threads,
        "reads pictures of, pixels": report.size.compressed.pictures,
        "chosen by": report.chosen_by,
        "speed-up asked": report.speedup_asked,
        "width ratio": f"{report.width_ratio:.4g}",
        "zeros asked, %": None if sparsity is None else f"{sparsity.asked_percent:g} {sparsity.pattern}",
        "seed": report.seed,
        "taco-export": report.taco_version,
        **{f"recovery: {key}": value for key, value in (report.recovery or {}).items()},
        **{f"version of {key}": value for key, value in report.versions.items()},
    }
    return {name: _NOTHING if value is None else str(value) for name, value in found.items()}


def _warnings(a: Report, b: Report, names: tuple[str, str]) -> Iterator[str]:
    for report, name in zip((a, b), names, strict=True):
        if report.model.random_weights:
            yield f"{name} has RANDOM WEIGHTS: its accuracy is meaningless"
        if report.accuracy.evaluated_on == "select":
            yield f"{name} was judged on pictures that also guided its choices: its accuracy is likely too good"
        if report.shipped != "yes":
            ending = "shipped by force" if report.shipped == "forced" else "not shipped"
            yield f"{name} failed a check before shipping ({ending})"
        if report.device is not None and report.device.unstable:
            yield f"the measurement of {name} was disturbed: {report.device.unstable[0]}"


def _verdict(accuracy: AccuracyChange, speed: SpeedChange, sizes: list[SizeChange], names: tuple[str, str]) -> str:
    bytes_ = next(size for size in sizes if size.name.startswith("ONNX"))
    share = wording.percent(100 * bytes_.b / bytes_.a) if bytes_.a else "unknown"
    clauses = (_accuracy_clause(accuracy), _speed_clause(speed), f"its file has {share} of the size")
    return f"{names[1]} against {names[0]}: {'; '.join(clauses)}."


def _accuracy_clause(found: AccuracyChange) -> str:
    if found.points is None:
        return f"which of them is right more often cannot be told ({found.why_not})"
    change = found.points
    ends = wording.interval(change.low, change.high, "points")
    pictures = wording.counted(found.pictures, "picture that both judged", "pictures that both judged")
    told = f"{wording.points(change.value)}, 95 % interval {ends}, {pictures}"
    lost = (-change.high, -change.low)
    proven = proof(lost, found.paired)
    if proven == "borderline" and found.paired is not None:
        return f"whether it is right more or less often is {borderline(lost, found.paired)} ({told})"
    if proven == "gain":
        return f"it is right more often (by {told})"
    if proven == "loss":
        return f"it is right LESS often (by {told})"
    return f"no difference in how often they are right is proven ({told})"


def _speed_clause(found: SpeedChange) -> str:
    if found.ratio is None:
        return f"their times are {found.how}"
    times = f"{wording.milliseconds(found.b_ms or 0)} instead of {wording.milliseconds(found.a_ms or 0)}"
    if found.interval is None:
        return f"it takes {times} for a picture ({found.how})"
    low, high = found.interval
    sure = found.coverage or 0.0
    ends = f"{100 * sure:.0f} % interval {wording.factor(low)} to {wording.factor(high)}"
    told = f"{wording.factor(found.ratio)}, {ends}; {times}"
    if sure < _SURE:
        return f"there were too few rounds to tell which is faster ({told})"
    if low > 1:
        return f"it is faster ({told})"
    if high < 1:
        return f"it is SLOWER ({told})"
    return f"no difference in time is proven ({told})"
