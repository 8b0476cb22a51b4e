"""When a picture was taken, on the camera's own clock: ISO 8601 with or without zone, or the way EXIF writes it."""

from __future__ import annotations

import datetime


class DateReader:
    """Reads dates, and counts those that are none, for one warning at the end."""

    def __init__(self) -> None:
        self._unreadable = 0
        self._first = ""

    def read(self, value: object) -> datetime.datetime | None:
        """Return the moment that a text names; None where it is empty or no date, which is counted."""
        if value is None or value == "":
            return None
        moment = _parse(value.strip("\0 ")) if isinstance(value, str) else None
        if moment is None:
            self._first = self._first or repr(value)[:60]
            self._unreadable += 1
        return moment

    def taken(self, value: object) -> float | None:
        """Return `LabelledPicture.taken`: seconds since 1970 on the clock that the text shows, whatever its zone."""
        moment = self.read(value)
        return None if moment is None else clock(moment)

    def warnings(self) -> list[str]:
        """Say how many could not be read."""
        if not self._unreadable:
            return []
        return [f"{self._unreadable} dates cannot be read and are ignored, such as {self._first}"]


def clock(moment: datetime.datetime) -> float:
    """Return the seconds since 1970 that the clock on the wall shows."""
    return moment.replace(tzinfo=datetime.UTC).timestamp()


def exif_date(text: str) -> datetime.datetime | None:
    """Return the moment that a text names in the way of EXIF; None where it names none."""
    try:
        return datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None


def _parse(text: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return exif_date(text)
