"""Several devices at once: each is asked in a thread of its own, and one that fails does not stop the others.

On one device everything stays serial, under its own lease; only different devices work at the same time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TypeVar

from taco.address import Address
from taco.attached.ondevice import Device, attached
from taco.attached.processes import STOP
from taco.errors import InputError, MeasurementError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Others:
    """The attached devices beside the first one.

    Attributes:
        devices: Those that were reached, by their addresses.
        missing: Address -> why a device that was named takes no part.
    """

    devices: Mapping[str, Device] = field(default_factory=dict)
    missing: Mapping[str, Failed] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """A device that did not do what was asked.

    Attributes:
        what: Why.
        todo: What a person can do about it; empty where nothing is known.
    """

    what: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.what}. {self.todo}" if self.todo else self.what


def at_once(
    jobs: Mapping[str, Callable[[], _T]], advance: Callable[[int], None] = lambda _n: None
) -> dict[str, _T | Failed]:
    """Run one job a device, all at the same time.

    A job that raises MeasurementError becomes a `Failed`; any other error ends the jobs and is raised, and so does
    Ctrl-C: the programs that are running are ended, and each job tidies up behind itself.

    Args:
        jobs: Name of the device -> what is done with it.
        advance: Called with 1 for every job that has ended.

    Returns:
        Name -> what came out, in the order of `jobs`.
    """
    stop = threading.Event()

    def run(job: Callable[[], _T]) -> _T | Failed:
        STOP.set(stop)
        try:
            return job()
        except MeasurementError as error:
            return Failed(error.what, error.todo)
        finally:
            STOP.set(None)

    with ThreadPoolExecutor(max(1, len(jobs)), "device") as pool:
        futures = {name: pool.submit(run, job) for name, job in jobs.items()}
        try:
            for future in as_completed(futures.values()):
                future.result()
                advance(1)
        except BaseException:
            stop.set()
            raise
        return {name: future.result() for name, future in futures.items()}


def reach(addresses: Sequence[Address], stack: contextlib.ExitStack) -> tuple[dict[str, Device], dict[str, Failed]]:
    """Attach several devices at once.

    Args:
        addresses: Where they are.
        stack: Leaves them again.

    Returns:
        Address as it was given -> the device, and -> why it could not be reached.

    Raises:
        MeasurementError: None can be reached; of one alone its own reason.
    """
    check_distinct(addresses)
    if len(addresses) == 1:
        return {addresses[0].text: stack.enter_context(attached(addresses[0]))}, {}

    def entering(address: Address) -> Callable[[], Device]:
        return lambda: stack.enter_context(attached(address))

    found = at_once({address.text: entering(address) for address in addresses})
    missing = {text: outcome for text, outcome in found.items() if isinstance(outcome, Failed)}
    if len(missing) == len(addresses):
        told = "; ".join(f"{text}: {failed.what}" for text, failed in missing.items())
        raise MeasurementError(f"none of the {len(addresses)} devices can be reached: {told}", "Try `ssh` to one first")
    return {text: outcome for text, outcome in found.items() if isinstance(outcome, Device)}, missing


def check_distinct(addresses: Sequence[Address]) -> None:
    """Refuse one device under two addresses that are the same.

    Raises:
        InputError: Two are.
    """
    places = [(a.host, a.user, a.port, a.folder if a.host else "") for a in addresses]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise InputError(f"--device {addresses[number].text} was given twice", "Name each device once")
