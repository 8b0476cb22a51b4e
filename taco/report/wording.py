"""Figures and small phrases as a person reads them: rounding, units, plurals, marks of doubt."""

from __future__ import annotations

from collections.abc import Sequence

from taco.report.parts import Latency, Proportion
from taco.report.schema import Report

_GAP = "\N{NO-BREAK SPACE}"
"""Between a figure and its unit, so that no line ends between them."""

NOT_MEASURED = "not measured"
FEW_PICTURES = 30
"""Below this many evaluation pictures a class's recall is only a hint (ARCHITECTURE section 8)."""
TOO_FEW = "too few to tell"


def percent(value: float) -> str:
    """`97.4 %`; what is not quite 0 or 100 is never rounded to it."""
    one = f"{value:.1f}"
    return f"{value:.2f}{_GAP}%" if one in {"0.0", "100.0"} and float(one) != value else f"{one}{_GAP}%"


def interval(low: float, high: float, unit: str = "") -> str:
    """`95.1 to 98.9 %`, or `-0.3 to 1.9 points` with another unit."""
    return f"{_range(low, high)}{_GAP}{unit or '%'}"


def signed(value: float) -> str:
    """One decimal, a true minus sign, no negative zero."""
    text = f"{abs(value):.1f}"
    return f"\N{MINUS SIGN}{text}" if value < 0 and float(text) else text


def points(value: float) -> str:
    """`0.8 points`, `1.0 point`."""
    return f"{signed(value)} point{'' if signed(abs(value)) == '1.0' else 's'}"


def more(low: float | None, limit: float) -> str:
    """How surely more than a limit was lost: by the lower end of the loss's interval, None where there is none."""
    return "surely more" if low is not None and low > limit else "more, though within what chance may do,"


def proportion(value: Proportion | None) -> str:
    """`97.4 % (95.1 to 98.9)`."""
    return "no picture" if value is None else f"{percent(value.percent)} ({_range(value.low, value.high)})"


def milliseconds(value: float) -> str:
    """Three significant digits and the unit: `3.14 ms`, `31.4 ms`, `314 ms`."""
    return f"{bare_milliseconds(value)}{_GAP}ms"


def bare_milliseconds(value: float) -> str:
    """Three significant digits, for columns that have the unit in their heading."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{decimals}f}"


def factor(value: float) -> str:
    """`1.61x`; what is not quite 1 is never rounded to it."""
    two = f"{value:.2f}"
    return f"{value:.4f}x" if two == "1.00" and value != 1 else f"{two}x"


def spread(values: Sequence[float]) -> str:
    """`1.58x to 1.66x in 9 rounds`."""
    return f"{factor(min(values))} to {factor(max(values))} in {counted(len(values), 'round')}"


def variation(latency: Latency) -> str:
    """Coefficient of variation of the raw samples, `3.1 %`."""
    n = len(latency.samples)
    if n < 2:
        return "\N{EN DASH}"
    mean = sum(latency.samples) / n
    deviation = (sum((sample - mean) ** 2 for sample in latency.samples) / (n - 1)) ** 0.5
    return f"{100 * deviation / mean:.1f}{_GAP}%" if mean else "\N{EN DASH}"


def amount(value: int) -> str:
    """A plain integer with thin groups: `3 383 000`."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def large(value: int) -> str:
    """`3.38 M`, `385 M`, `1.2 k`: three significant digits."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{_three(value / size)}{_GAP}{unit}"
    return str(value)


def size(value: int) -> str:
    """Decimal bytes: `13.4 MB`."""
    return f"{large(value)}B" if value >= 1000 else f"{value} bytes"


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(n: int, noun: str, many: str = "") -> str:
    """`1 picture`, `320 pictures`, `8 classes`."""
    return f"{amount(n)} {noun if n == 1 else many or noun + 's'}"


def place(address: str) -> str:
    """A device's address as a person says it: `pi@trap1` of `ssh://pi@trap1?emulated`, `this machine` of `local`."""
    bare = address.removeprefix("ssh://").partition("?")[0]
    return "this machine" if bare == "local" else bare


def watts(value: float | None) -> str:
    """`5.31 W`."""
    return "unknown" if value is None else f"{value:.2f}{_GAP}W"


def joules(value: float | None) -> str:
    """Three significant digits: `0.265 J`."""
    return "unknown" if value is None else f"{value:.3g}{_GAP}J"


def pictures(n: int) -> str:
    """A number of pictures for a table: `320`, or `12 (few)` where it is too small to tell."""
    return f"{amount(n)} (few)" if 0 < n < FEW_PICTURES else amount(n)


def accuracy_mark(report: Report) -> str:
    """What has to stand beside every accuracy of this report; empty when nothing has to."""
    marks = []
    if report.model.random_weights:
        marks.append("random weights: meaningless")
    if report.accuracy.evaluated_on == "select":
        marks.append("on pictures that also guided choices: likely too good")
    return "; ".join(marks)


def marked(text: str, report: Report) -> str:
    """`text` with the accuracy mark in brackets behind it."""
    mark = accuracy_mark(report)
    return f"{text} [{mark}]" if mark else text


def _range(low: float, high: float) -> str:
    return f"{signed(low)}{_GAP}to{_GAP}{signed(high)}"


def _three(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f}"
