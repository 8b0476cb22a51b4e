"""Lists of independent jobs: on this machine's cores (joblib), on a Dask cluster, or on Ray (ARCHITECTURE section 6).

Every job runs with one thread, so that its result is the same bit for bit wherever it ran; results come as they finish;
the largest jobs start first, and only as many as keep the workers busy are in flight, so that memory stays bounded.
Arguments cross as numpy arrays inside tuples.

Why Dask is asked directly and not through joblib (docs/adr/0007): joblib's backend keeps every large argument on one
worker only, so that it is lost with that worker; it waits for ever for a job that Dask gave up; and with a single
worker it runs the jobs here instead of there.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED
from typing import Any, Literal, Self, TypeVar

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

from taco.errors import InputError, MeasurementError, TacoError
from taco.heap import kept_heap

R = TypeVar("R")

_IN_FLIGHT = 2  # jobs a worker of a cluster: one that runs and one that waits
_DEATHS = 3  # a worker may die so often in a row, with no job finished in between
_ANSWER_S = 10.0
_PATIENCE_S = 120.0  # a cluster may have no worker for so long while some are starting again
_EXAMPLES = "Executors are written as in local, local:4, dask://scheduler:8786, ray"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One call.

    Attributes:
        name: What it works on; errors name it.
        size: How long it takes beside the others, in any unit.
        arguments: Makes the arguments, when the job is about to start.
    """

    name: str
    size: float
    arguments: Callable[[], tuple[Any, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Executor:
    """Where jobs run. Make it with `parse`.

    Attributes:
        kind: local, dask or ray.
        address: Of Dask's scheduler.
        workers: Processes on this machine; -1 is one for each core.
    """

    kind: Literal["local", "dask", "ray"] = "local"
    address: str = ""
    workers: int = -1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `local`, `local:N`, `dask://host:port` or `ray`.

        Raises:
            InputError: It is none of them.
        """
        kind, _, rest = text.partition(":")
        if kind == "dask" and rest.startswith("//") and rest.rpartition(":")[2].isdecimal():
            return cls("dask", "tcp:" + rest)
        if text in ("local", "ray"):
            return cls(text)  # type: ignore[arg-type]
        if kind == "local" and rest.isdecimal() and int(rest) > 0:
            return cls("local", workers=int(rest))
        raise InputError(f"--executor {text!r} is not known", _EXAMPLES)

    def check(self) -> None:
        """Look whether jobs can run there, before hours of work.

        Raises:
            MeasurementError: What it needs is not installed, or no scheduler answers.
        """
        package = {"dask": "distributed", "ray": "ray"}.get(self.kind)
        if package is not None and importlib.util.find_spec(package) is None:
            raise MeasurementError(
                f"--executor {self.kind} needs the package {package}", f"pip install 'taco-export[{self.kind}]'"
            )
        if self.kind == "dask":
            _connect(self.address).close()

    def map(self, function: Callable[..., R], jobs: Sequence[Job]) -> Iterator[tuple[str, R]]:
        """Call `function` for every job; yield (name, result) as they finish.

        Args:
            function: Importable by its name. It is called with a job's arguments.
            jobs: Independent of each other, with different names.

        Raises:
            MeasurementError: See `check`; or the cluster is lost.
            TacoError: A job's process died again and again; names the job. What `function` raises comes through.
        """
        ordered = sorted(jobs, key=lambda job: -job.size)
        if self.kind == "dask":
            return _dask(self.address, function, ordered)
        if self.kind == "ray":
            return _ray(function, ordered)
        return _local(self.workers, function, ordered)


def _call(function: Callable[..., R], name: str, arguments: tuple[Any, ...]) -> tuple[str, R]:
    """Run one job with one thread, on whichever machine this is."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with kept_heap():
            return name, function(*arguments)
    finally:
        torch.set_num_threads(threads)


def _local(workers: int, function: Callable[..., R], jobs: Sequence[Job]) -> Iterator[tuple[str, R]]:
    """Processes of this machine; when one is killed, what is left runs in new ones, at last one job at a time."""
    left = {job.name: job for job in jobs}
    deaths = 0
    while left and deaths < _DEATHS - 1:
        try:
            for name, result in _pool(workers)(_calls(function, list(left.values()))):
                deaths = 0
                del left[name]
                yield name, result
        except BrokenProcessPool:
            deaths += 1
    careful = max(2, joblib.cpu_count())  # with one, the job would run in this very process
    for job in left.values():  # a call of its own each: joblib takes several jobs off a list at a time
        try:
            yield from _pool(careful)(_calls(function, [job]))
        except BrokenProcessPool as error:
            raise TacoError(
                f"the process that worked on {job.name} was killed again and again",
                "Most likely the memory of this machine is full: close other programs, or give --executor local:1, "
                "then give the same command again: it goes on where this one stopped",
            ) from error


def _calls(function: Callable[..., R], jobs: Sequence[Job]) -> Iterator[Any]:
    """The calls joblib makes: a job's arguments are made when it is about to start."""
    for job in jobs:
        yield joblib.delayed(_call)(function, job.name, job.arguments())


def _pool(workers: int) -> joblib.Parallel:
    return joblib.Parallel(
        n_jobs=workers,
        backend="loky",
        batch_size=1,
        pre_dispatch="n_jobs",  # a job that waits here would be a second copy of its arguments
        return_as="generator_unordered",
        max_nbytes=None,  # no files for large arguments, which a kill would leave behind
    )


def _dask(address: str, function: Callable[..., R], jobs: Sequence[Job]) -> Iterator[tuple[str, R]]:
    """Dask runs a job again elsewhere when its worker dies, up to its own `allowed-failures`."""
    from distributed import wait

    client = _connect(address)
    waiting = iter(jobs)
    running: dict[Any, str] = {}
    silent_s = 0.0
    try:
        while True:
            room = _IN_FLIGHT * max(1, sum(client.ncores().values())) - len(running)
            for job in itertools.islice(waiting, max(0, room)):
                running[_submit(client, function, job)] = job.name
            if not running:
                return
            try:
                with client.as_current():
                    done = wait(list(running), timeout=_ANSWER_S, return_when=FIRST_COMPLETED).done
            except TimeoutError:
                silent_s = 0.0 if client.ncores() else silent_s + _ANSWER_S
                if silent_s >= _PATIENCE_S:
                    raise MeasurementError(
                        f"{address} has had no worker for {silent_s:.0f} s",
                        "Start workers, then give the same command again: it goes on where this one stopped",
                    ) from None
                continue
            for future in done:
                yield _outcome(future, running.pop(future), address)
    finally:
        client.cancel(list(running))
        client.close()


def _connect(address: str) -> Any:
    from distributed import Client

    try:
        client = Client(address, timeout=_ANSWER_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise MeasurementError(
            f"no Dask scheduler answers at {address}", "Start one with `dask scheduler`, and workers beside it"
        ) from error
    try:
        client.wait_for_workers(1, timeout=_ANSWER_S)
    except TimeoutError as error:
        client.close()
        raise MeasurementError(f"the Dask scheduler at {address} has no worker", "Start some: `dask worker`") from error
    return client


def _submit(client: Any, function: Callable[..., R], job: Job) -> Any:
    with warnings.catch_warnings():
        # The arguments travel with the job on purpose: kept on one worker they would be lost with it.
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
        return client.submit(_call, function, job.name, job.arguments(), pure=False)


def _outcome(future: Any, name: str, address: str) -> tuple[str, Any]:
    from distributed import CancelledError, KilledWorker

    try:
        result: tuple[str, Any] = future.result()
    except KilledWorker as error:
        raise TacoError(
            f"every Dask worker that worked on {name} died ({error.last_worker})",
            "Most likely they need more memory: give them more, then give the same command again",
        ) from error
    except CancelledError as error:
        raise MeasurementError(
            f"the Dask scheduler at {address} was lost while it worked on {name}",
            "Start it again, then give the same command again: it goes on where this one stopped",
        ) from error
    except ModuleNotFoundError as error:
        raise MeasurementError(
            f"the Dask workers lack {error.name}", "Install taco-export in their environment, too"
        ) from error
    return result


def _ray(function: Callable[..., R], jobs: Sequence[Job]) -> Iterator[tuple[str, R]]:
    """Ray's pool gives lists only: some jobs at a time."""
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    if not ray.is_initialized():
        ray.init(logging_level="ERROR", log_to_driver=False)
    cores = int(ray.cluster_resources().get("CPU", 1))
    with joblib.parallel_config(backend="ray", n_jobs=cores):
        for first in range(0, len(jobs), _IN_FLIGHT * cores):
            some = jobs[first : first + _IN_FLIGHT * cores]
            yield from joblib.Parallel(batch_size=1)(
                joblib.delayed(_call)(function, job.name, job.arguments()) for job in some
            )
