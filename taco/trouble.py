"""What the system refuses (a full disk, a read-only card, a file that is gone), in words that help."""

from __future__ import annotations

import errno
import os
import re

from taco.errors import TacoError

_ADVICE = {
    errno.ENOSPC: "Free some space on that disk, or choose an --out on another one; then give the same command again",
    errno.EDQUOT: "Free some space in your quota, or choose an --out elsewhere; then give the same command again",
    errno.EROFS: "The disk or card is read-only: choose an --out elsewhere, or unlock it",
    errno.EACCES: "Ask for permission to that file or folder, or choose another",
    errno.EPERM: "Ask for permission to that file or folder, or choose another",
    errno.EIO: "The disk, card or cable may be failing: copy the files elsewhere and try again",
    errno.ENOENT: "It was moved or removed, or a disk was unplugged: put it back and give the same command again",
}
#: Libraries in Rust, such as safetensors, say the number of the system's error only in their text.
_RUST = re.compile(r"\(os error (\d+)\)")
_NEEDS_NO_FILE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


def explain(error: BaseException) -> TacoError | None:
    """Say what a failure of the system means for a person; None where it is none, and is a fault of ours."""
    if isinstance(error, MemoryError):
        return TacoError("the memory of this machine is full", "Close other programs, or take a smaller --max-images")
    number, name = _number_and_file(error)
    if number is None or (name is None and number not in _NEEDS_NO_FILE):
        return None
    what = os.strerror(number)
    todo = _ADVICE.get(number, "Check the path and the disk that it is on")
    return TacoError(what if name is None else f"{name}: {what}", todo)


def _number_and_file(error: BaseException) -> tuple[int | None, str | None]:
    if isinstance(error, OSError):
        name = error.filename2 or error.filename  # of a rename, where it was to go
        return error.errno, None if name is None or isinstance(name, int) else os.fsdecode(name)
    found = _RUST.search(str(error))
    return (int(found[1]), None) if found else (None, None)
