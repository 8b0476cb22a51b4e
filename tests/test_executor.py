"""Jobs: the same results wherever they ran, as they finish, largest first; a killed process loses nothing."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from taco.errors import InputError, MeasurementError, SolverError, TacoError
from taco.executor import Executor, Job

pytestmark = pytest.mark.filterwarnings("ignore:A worker stopped while some jobs were given:UserWarning")


def square(a: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], int]:
    matrix = torch.from_numpy(a)  # as every job of ours: numpy's own threads are not counted here
    return (matrix @ matrix).numpy(), torch.get_num_threads()


def refuse(a: int) -> int:
    if a == 2:
        raise SolverError("blocks.2: not positive definite", "Raise the damping")
    return a


def die_once(flag: str, a: int) -> int:
    if a == 1 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * a


def die_always(a: int) -> int:
    if a == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * a


def die_beside_slower(a: int) -> int:
    if a == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return 10 * a


def whoami(log: str, a: int) -> int:
    with Path(log).open("a") as file:
        file.write(f"{os.getpid()} {a}\n")
    time.sleep(0.3)
    return a


def jobs_of(*arguments: tuple[Any, ...]) -> list[Job]:
    return [Job(f"blocks.{i}", float(i), lambda a=a: a) for i, a in enumerate(arguments)]  # type: ignore[misc]


def matrices() -> list[Job]:
    rng = np.random.default_rng(0)
    return jobs_of(*((rng.normal(size=(97, 97)).astype(np.float32),) for _ in range(5)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", Executor("local")),
        ("local:3", Executor("local", workers=3)),
        ("ray", Executor("ray")),
        ("dask://10.0.0.1:8786", Executor("dask", "tcp://10.0.0.1:8786")),
        ("dask://[::1]:8786", Executor("dask", "tcp://[::1]:8786")),
    ],
)
def test_executors_are_read(text: str, expected: Executor) -> None:
    assert Executor.parse(text) == expected


@pytest.mark.parametrize("text", ["", "local:", "local:0", "local:-1", "locally", "dask", "dask://host", "dask:h:1"])
def test_other_words_are_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"not known.*dask://scheduler:8786"):
        Executor.parse(text)


def test_one_process_and_several_give_the_same_bits_with_one_thread_each() -> None:
    before = torch.get_num_threads()
    alone = dict(Executor.parse("local:1").map(square, matrices()))
    together = dict(Executor.parse("local:2").map(square, matrices()))
    assert alone.keys() == together.keys() == {f"blocks.{i}" for i in range(5)}
    for name, (product, threads) in alone.items():
        assert threads == together[name][1] == 1
        assert np.array_equal(product, together[name][0])
    assert torch.get_num_threads() == before


def test_the_largest_starts_first_and_arguments_are_made_when_it_does() -> None:
    made: list[str] = []

    def arguments(name: str) -> tuple[int]:
        made.append(name)
        return (len(made),)

    sizes = {"small": 1.0, "large": 9.0, "middle": 4.0}
    jobs = [Job(name, size, lambda name=name: arguments(name)) for name, size in sizes.items()]  # type: ignore[misc]
    seen = []
    for name, result in Executor.parse("local:1").map(refuse, [*jobs[:1], *jobs[2:]]):
        seen.append((name, result, list(made)))
        break
    assert seen == [("middle", 1, ["middle"])]


def test_no_job_is_no_work() -> None:
    assert list(Executor.parse("local:2").map(refuse, [])) == []


@pytest.mark.parametrize("executor", ["local:1", "local:2"])
def test_an_error_of_a_job_comes_through_as_it_is(executor: str) -> None:
    with pytest.raises(SolverError, match=r"blocks\.2: not positive") as caught:
        list(Executor.parse(executor).map(refuse, jobs_of((1,), (2,), (3,))))
    assert caught.value.todo == "Raise the damping"


@pytest.mark.slow
def test_a_process_that_is_killed_once_costs_nothing(tmp_path: Path) -> None:
    flag = tmp_path / "died"
    found = dict(Executor.parse("local:2").map(die_once, jobs_of(*((str(flag), a) for a in range(4)))))
    assert flag.exists(), "nothing was killed: this tests nothing"
    assert found == {f"blocks.{a}": 10 * a for a in range(4)}


@pytest.mark.slow
def test_a_job_that_kills_every_process_is_named() -> None:
    found = {}
    results = Executor.parse("local:2").map(die_always, jobs_of((0,), (1,), (2,), (3,)))
    with pytest.raises(TacoError, match=r"worked on blocks\.1 was killed again and again.*memory"):
        found.update(results)
    assert "blocks.1" not in found


@pytest.mark.slow
def test_it_is_named_though_jobs_before_and_after_it_are_left() -> None:
    results = Executor.parse("local:2").map(die_beside_slower, jobs_of((0,), (1,), (2,)))
    with pytest.raises(TacoError, match=r"worked on blocks\.1 was killed again and again"):
        list(results)


@pytest.mark.parametrize(("executor", "package"), [("dask://localhost:1", "distributed"), ("ray", "ray")])
def test_what_is_not_installed_is_said(executor: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(MeasurementError, match=rf"needs the package {package}.*pip install 'taco-export\[") as caught:
        Executor.parse(executor).check()
    assert caught.value.exit_code == 5


def test_this_machine_needs_nothing() -> None:
    Executor.parse("local").check()


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_said() -> None:
    pytest.importorskip("distributed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(MeasurementError, match=rf"no Dask scheduler answers at tcp://127\.0\.0\.1:{port}"):
        Executor.parse(f"dask://127.0.0.1:{port}").check()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        yield cluster


def at(cluster: Any) -> Executor:
    return Executor.parse(str(cluster.scheduler_address).replace("tcp:", "dask:"))


@pytest.mark.slow
def test_dask_gives_the_same_bits_as_this_machine(cluster: Any) -> None:
    here, there = dict(Executor().map(square, matrices())), dict(at(cluster).map(square, matrices()))
    at(cluster).check()
    assert here.keys() == there.keys()
    for name, (product, threads) in here.items():
        assert there[name][1] == threads == 1
        assert np.array_equal(product, there[name][0])


@pytest.mark.slow
def test_an_error_of_a_job_comes_through_dask(cluster: Any) -> None:
    with pytest.raises(SolverError, match=r"blocks\.2: not positive"):
        list(at(cluster).map(refuse, jobs_of((1,), (2,), (3,))))


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ballast = np.zeros(100_000)  # an argument that joblib would keep on one worker only
    jobs = [Job(str(a), 1.0, lambda a=a: (str(log), a, ballast)) for a in range(12)]  # type: ignore[misc]
    killed: list[int] = []

    def kill() -> None:
        while not log.exists():
            time.sleep(0.05)
        killed.append(int(log.read_text().split()[0]))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    found = dict(at(cluster).map(whoami_with_ballast, jobs))
    thread.join()
    assert found == {str(a): a for a in range(12)}
    lines = [line.split() for line in log.read_text().splitlines()]
    assert {pid for pid, _ in lines} - {str(killed[0])}, "another process went on"
    assert len(lines) > len(jobs), "what the killed worker was doing was done again"


def whoami_with_ballast(log: str, a: int, ballast: npt.NDArray[np.float64]) -> int:
    return whoami(log, a + int(ballast.sum()))


@pytest.mark.slow
def test_a_job_that_kills_every_dask_worker_is_named(cluster: Any) -> None:
    with pytest.raises(TacoError, match=r"every Dask worker that worked on blocks\.1 died"):
        list(at(cluster).map(die_always, jobs_of((0,), (1,), (2,))))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_bits_as_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    places = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))  # its workers import `square`, too
    here, there = dict(Executor().map(square, matrices())), dict(Executor.parse("ray").map(square, matrices()))
    assert {n: p.tobytes() for n, (p, _) in here.items()} == {n: p.tobytes() for n, (p, _) in there.items()}
