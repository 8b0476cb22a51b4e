"""Tests of `taco.device.processors`: which there are, and which models are timed on."""

import os

import pytest
from device_models import write_conv

from taco.device.bench import bench
from taco.device.processors import chosen_for, physical_cores, stay_on, usable_cpus


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_two_threads_of_one_core_count_once(tmp_path):
    for cpu, siblings in enumerate(("0,4", "1,5", "0,4", "1,5")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    assert physical_cores(str(tmp_path), cpus=range(4)) == 2
    assert physical_cores(str(tmp_path), cpus=[0, 2]) == 1


def test_cores_without_topology_count_one_each(tmp_path):
    assert physical_cores(str(tmp_path), cpus=range(3)) == 3
    assert physical_cores(str(tmp_path), cpus=[]) == 1


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("9900000 100000", 8),
        ("5 0", 8),
    ],
)
def test_a_container_s_quota_caps_the_cores(tmp_path, quota, expected):
    write(tmp_path, "sys/fs/cgroup/cpu.max", quota + "\n")
    assert physical_cores(str(tmp_path), cpus=range(8)) == expected


def test_without_affinity_every_processor_counts(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cpus() == [0, 1, 2]


def test_every_thread_has_a_core_of_its_own_and_all_of_them_need_no_choice(tmp_path):
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    assert chosen_for(1, str(tmp_path), range(4)) == [1]
    assert chosen_for(2, str(tmp_path), range(4)) is None
    assert chosen_for(1, str(tmp_path), [2]) is None


@pytest.mark.parametrize("ranked_by", ["cpu_capacity", "cpufreq/cpuinfo_max_freq"])
def test_the_fastest_cores_are_taken_and_the_last_of_equal_ones(tmp_path, ranked_by):
    for cpu, speed in enumerate((1024, 400, 1024, 400)):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/{ranked_by}", f"{speed}\n")
    assert [chosen_for(threads, str(tmp_path), range(4)) for threads in (1, 2, 3)] == [[2], [0, 2], [0, 2, 3]]


def test_what_is_not_known_ranks_by_number(tmp_path):
    write(tmp_path, "sys/devices/system/cpu/cpu1/cpu_capacity", "no number")
    assert chosen_for(2, str(tmp_path), range(4)) == [2, 3]


def test_a_processor_that_is_not_there_changes_nothing():
    before = usable_cpus()
    assert stay_on([10_000]) is None
    assert stay_on(None) is None
    assert usable_cpus() == before


@pytest.mark.skipif(physical_cores() < 2, reason="needs two cores")
@pytest.mark.parametrize("provider", ["CPUExecutionProvider", "CPU"])
def test_models_of_one_thread_really_stay_on_one_core(tmp_path, provider):
    if provider == "CPU":
        pytest.importorskip("openvino")
    models = {name: str(write_conv(tmp_path / f"{name}.onnx")) for name in "ab"}
    found = bench({"models": models, "threads": 1, "rounds": 1, "provider": provider}, str(tmp_path))
    assert [model["session"]["cpus"] for model in found["models"].values()] == [chosen_for(1)] * 2
    every = bench({"models": models, "threads": physical_cores(), "rounds": 1, "provider": provider}, str(tmp_path))
    assert all("cpus" not in model["session"] for model in every["models"].values())
