"""A unit file for systemd that watches a folder; the person reads it, changes it, and puts it in place.

The command is a list of words; each is quoted by the rules of systemd.service(5), so that no name of a folder can mean
anything but itself.
"""

from __future__ import annotations

import os
import pwd
from typing import List, Sequence

from taco.device.wire import RequestError

NAME = "taco-watch.service"
_UNIT = """\
# Names new pictures as they arrive. To install it:
#   sudo cp {name} /etc/systemd/system/ && sudo systemctl enable --now {name}
[Unit]
Description=Name new pictures (taco-export)
StartLimitIntervalSec=0

[Service]
{user}ExecStart={command}
Restart=always
RestartSec=5
SuccessExitStatus=143
Nice=10
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"""


def watch_words(python: str, current: str, pictures: str, results: str) -> List[str]:
    """The command that watches a folder.

    Args:
        python: The interpreter.
        current: What leads to the bundle in use.
        pictures: The folder that is watched.
        results: The folder of the results.
    """
    return [python, "-I", os.path.join(current, "agent.pyz"), "watch", current, pictures, results]


def unit_file(words: Sequence[str]) -> str:
    """Write the unit.

    Args:
        words: Program and arguments; the program's path is absolute.

    Raises:
        RequestError: A word cannot stand in a unit file.
    """
    return _UNIT.format(name=NAME, user=_user(), command=" ".join(map(quoted, words)))


def quoted(word: str) -> str:
    """Quote one word of `ExecStart=`.

    Raises:
        RequestError: It holds a NUL or is no valid Unicode.
    """
    if "\0" in word or any("\ud800" <= sign <= "\udfff" for sign in word):
        raise RequestError(f"{word!r} cannot stand in a unit file", "Give the folder another name.")
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return (
        '"' + "".join(sign if ord(sign) >= 32 and ord(sign) != 127 else f"\\x{ord(sign):02x}" for sign in plain) + '"'
    )


def _user() -> str:
    """The line that names who deploys; root needs none."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name if os.getuid() else ""
    except KeyError:
        name = ""
    return f"User={name}\n" if name else ""
