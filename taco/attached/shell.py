"""Scripts for the shell of a device, and the one place where words are quoted for it.

What ssh is given is always the same short command, which any login shell understands alike (sh, csh, fish); it reads
one line from its input and runs that as a POSIX script. So no word of ours is ever read by a login shell.

A script prints a marker before anything of its own: what comes before is a banner of the login shell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from taco.errors import InputError

#: What ssh is given. POSIX: `read` takes no byte beyond the line.
BOOTSTRAP = "exec sh -c 'IFS= read -r taco && eval \"$taco\"'"
EXIT_FOLDER, EXIT_NO_FILE, EXIT_DISK, EXIT_DAMAGED, EXIT_RENAME = 111, 112, 113, 114, 115
#: ssh's own failures have this code; a program that ends with it is told as 254.
EXIT_SSH, EXIT_OWN_255 = 255, 254
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_NEWLINE = "n=$(printf '\\nx'); n=${n%x}; "
_HASH = 'h() { { sha256sum || shasum -a 256; } 2>/dev/null < "$1" | { read -r a b; printf %s "$a"; }; }; '


def quote(word: str) -> str:
    """Quote a word for a POSIX shell, on one line: a newline becomes `$n`, which every script sets.

    Raises:
        InputError: It holds a NUL, which no argument can.
    """
    if "\0" in word:
        raise InputError(f"{word!r} holds a NUL character, which no command can be given")
    if _PLAIN.fullmatch(word):
        return word
    return "'" + word.replace("'", "'\"'\"'").replace("\n", "'\"$n\"'") + "'"


def run_script(folder: str, argv: Sequence[str], marker: str) -> str:
    """Run a program in a folder, and end all that it started when the input ends: the host has gone.

    The program has an empty input of its own. A watcher reads the script's input; at its end, which is a cancelled
    command or a lost link, it kills the process group, which sshd makes one for each command.

    Raises:
        InputError: There is no program, or a word cannot be an argument.
    """
    if not argv:
        raise InputError("there is no command to run")
    words = " ".join(map(quote, argv))
    return (
        f"{_begin(folder, marker)}exec 3<&0; {words} </dev/null 3<&- & p=$!; "
        "{ while read -r x <&3; do :; done; kill -9 0; } >/dev/null 2>&1 & w=$!; "
        "exec 3<&-; wait $p; r=$?; kill -9 $w 2>/dev/null; "
        f"[ $r -eq {EXIT_SSH} ] && r={EXIT_OWN_255}; exit $r"
    )


def look_script(folder: str, part: str, destination: str, sha256: str, marker: str) -> str:
    """Say how much of a file is there: `done`, or the number of bytes that came so far."""
    there, half = quote(f"./{destination}"), quote(f"./{part}")
    return (
        f"{_begin(folder, marker)}{_HASH}"
        f'if [ -f {there} ] && [ "$(h {there})" = {sha256} ]; then echo done; '
        f"elif [ -f {half} ]; then wc -c < {half}; else echo 0; fi"
    )


def put_script(folder: str, part: str, destination: str, sha256: str, mode: int) -> str:
    """Append the input to a part; put it in place, as a whole, when its hash is right."""
    there, half = quote(f"./{destination}"), quote(f"./{part}")
    above = quote(f"./{destination.rpartition('/')[0]}")
    return (
        f"LC_ALL=C; export LC_ALL; {_begin(folder)}{_HASH}mkdir -p {above} || exit {EXIT_DISK}; "
        f"cat >> {half} || {{ rm -f {half}; exit {EXIT_DISK}; }}; "
        f'[ "$(h {half})" = {sha256} ] || exit {EXIT_DAMAGED}; '
        f"chmod {mode:o} {half}; mv -f {half} {there} || exit {EXIT_RENAME}"
    )


def drop_script(folder: str, part: str) -> str:
    """Remove a part whose bytes are wrong."""
    return f"{_begin(folder)}rm -f {quote(f'./{part}')}"


def get_script(folder: str, source: str, marker: str) -> str:
    """Print a file's size, its hash and its bytes."""
    there = quote(f"./{source}")
    return (
        f"{_begin(folder)}{_HASH}[ -f {there} ] || exit {EXIT_NO_FILE}; "
        f"printf '\\n%s\\n%s %s\\n' {marker} \"$(wc -c < {there} | tr -d ' ')\" \"$(h {there})\"; cat {there}"
    )


def _begin(folder: str, marker: str = "") -> str:
    """Go to the work folder, made when it is missing, and print the marker."""
    place = quote(folder if folder.startswith("/") else f"./{folder}")
    home = "" if folder.startswith("/") else 'cd "${HOME:-.}" || exit 111; '
    shown = f"printf '\\n%s\\n' {marker}; " if marker else ""
    return f"{_NEWLINE}{home}mkdir -p {place} && cd {place} || exit {EXIT_FOLDER}; {shown}"
