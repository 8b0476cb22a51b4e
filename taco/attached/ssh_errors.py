"""What OpenSSH's complaints mean, and what a person does about each."""

from __future__ import annotations

from dataclasses import dataclass

from taco.errors import LinkError, MeasurementError

_TAIL = 400


@dataclass(frozen=True, slots=True)
class _Complaint:
    words: tuple[str, ...]
    what: str
    todo: str


_FOR_GOOD = (
    _Complaint(
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "HOST IDENTIFICATION HAS CHANGED"),
        "the host key of {name} is not the one that you know: it was set up anew, or somebody else answers",
        "If you set it up anew, forget the old key: ssh-keygen -R {host}. Then log in once by hand: ssh {name}",
    ),
    _Complaint(
        ("Host key verification failed", "host key is known for"),
        "the host key of {name} is not known on this machine",
        "Log in once by hand and compare the key: ssh {name}",
    ),
    _Complaint(
        ("Permission denied", "Too many authentication failures"),
        "{name} refuses the login",
        "Make `ssh {name}` work without a password: ssh-copy-id {name}, or unlock your key with ssh-add",
    ),
    _Complaint(
        ("Could not resolve hostname",),
        "there is no host {name}",
        "Check the name in the address and in ~/.ssh/config",
    ),
    _Complaint(
        ("Bad configuration option", "bad configuration options", "no such identity", "Bad owner or permissions"),
        "ssh refuses its configuration for {name}",
        "Make `ssh {name}` work by hand",
    ),
)


def connection_error(name: str, host: str, stderr: str) -> MeasurementError:
    """Turn what ssh said when it failed (exit code 255) into an error.

    Args:
        name: What a person types behind `ssh`.
        host: The host in it.
        stderr: What ssh said.

    Returns:
        A `LinkError` where a later attempt may succeed, else a plain `MeasurementError`.
    """
    for complaint in _FOR_GOOD:
        if any(words in stderr for words in complaint.words):
            names = {"name": name, "host": host}
            return MeasurementError(complaint.what.format(**names), complaint.todo.format(**names))
    said = " ".join(stderr.split())[-_TAIL:] or "nothing"
    return LinkError(
        f"{name} cannot be reached, or the link to it broke; ssh said: {said}",
        f"Check that it is switched on and that `ssh {name}` works by hand",
    )
