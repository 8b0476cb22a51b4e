"""A database under kill -9, a full disk, a flipped byte and dying workers, as processes of their own."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from tiny_database import MOST, contents, make

from taco.database import LayerDatabase
from taco.errors import InputError

pytestmark = pytest.mark.slow
#: Builds that must be killed, and begun at most: one that ends first, on a fast machine, was not killed.
KILLS, TRIES = 4, 24


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "db"
    make(folder)
    return contents(folder)


def test_killed_at_random_moments_it_ends_with_the_same_files(whole: dict[str, bytes], tmp_path: Path) -> None:
    moments, killed = random.Random(3), 0
    for number in range(TRIES):
        folder = tmp_path / str(number)
        process = Forked(partial(make, folder, executor="local:1"), tmp_path / f"{number}-streams")
        while process.poll() is None and not (folder / "index.json").exists():
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        killed += process.wait(60) == -signal.SIGKILL
        database = LayerDatabase.open(folder)
        database.verify()
        for unit in database.units:
            assert database.weight(unit, MOST).any(), "what the index names can be read, even now"
        make(folder)
        assert contents(folder) == whole
        if killed == KILLS:
            break
    assert killed == KILLS


def test_a_second_build_of_the_same_folder_is_refused(tmp_path: Path, whole: dict[str, bytes]) -> None:
    import fcntl

    folder = tmp_path / "db"
    make(folder)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"another taco is working in .*db"):
            make(folder)
    make(folder)
    assert contents(folder) == whole


@pytest.mark.parametrize("kilobytes", [8, 16, 24])
def test_a_full_disk_is_said_and_a_larger_one_goes_on(
    kilobytes: int, whole: dict[str, bytes], small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = small_disk(f"size={kilobytes}k") / "db"
    process = Forked(partial(make, folder, executor="local:1"), tmp_path / "streams").completed(120)
    assert process.returncode != 0, "the database must not fit, or this size tests nothing"
    assert "No space left on device" in process.stderr
    assert "Free some space, or choose another --out" in process.stderr
    if (folder / "index.json").stat().st_size if (folder / "index.json").exists() else 0:
        database = LayerDatabase.open(folder)
        database.verify()
        assert database.index.finished is None
    small_disk("size=10m")
    make(folder)
    assert contents(folder) == whole


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        yield cluster


def test_dask_gives_the_same_files_and_a_killed_worker_changes_nothing(
    cluster: Any, whole: dict[str, bytes], tmp_path: Path
) -> None:
    address = str(cluster.scheduler_address).replace("tcp:", "dask:")
    make(tmp_path / "db", executor=address)
    assert contents(tmp_path / "db") == whole
    pids = [worker.pid for worker in cluster.workers.values()]
    folder = tmp_path / "killed"
    killed = []

    def kill() -> None:
        while not (folder / "index.json").exists():
            time.sleep(0.001)
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])

    thread = threading.Thread(target=kill)
    thread.start()
    make(folder, executor=address)
    thread.join()
    assert killed
    assert contents(folder) == whole
