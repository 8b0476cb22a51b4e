"""Tests of `taco.device.probe` and `taco.device.runtimes` on made-up machines."""

import pytest

from taco.device.probe import probe, telemetry
from taco.device.processors import usable_cpus
from taco.device.runtimes import find_runtimes


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def pi(tmp_path):
    """A Raspberry Pi 5 as its kernel shows it."""
    core = "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd aes crc32 asimdhp asimddp\nCPU part\t: 0xd0b\n\n"
    cpuinfo = "".join(core.format(cpu) for cpu in range(4)) + "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
    write(tmp_path, "proc/cpuinfo", cpuinfo)
    write(tmp_path, "proc/device-tree/model", b"Raspberry Pi 5 Model B Rev 1.0\0")
    write(tmp_path, "proc/meminfo", "MemTotal:        8255968 kB\nMemFree: 1 kB\nMemAvailable:    7340032 kB\n")
    write(tmp_path, "proc/loadavg", "0.15 0.10 0.05 1/234 567\n")
    write(tmp_path, "etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    for cpu in range(4):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        write(tmp_path, f"{folder}/topology/thread_siblings_list", f"{cpu}\n")
        write(tmp_path, f"{folder}/cpufreq/scaling_governor", "ondemand\n")
        write(tmp_path, f"{folder}/cpufreq/scaling_cur_freq", f"{1500000 + 300000 * cpu}\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48850\n")
    write(tmp_path, "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "50005\n")
    return tmp_path


def test_a_pi_is_recognised(pi):
    found = probe(str(pi))
    assert found["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["processor"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert found["memory_total_mib"] == 8062
    assert found["isa"] == ["asimd", "asimddp", "asimdhp"]
    assert found["jetson_linux"] == "unknown"


def test_a_pi_s_state_is_read(pi):
    assert telemetry(str(pi)) == {
        "memory_available_mib": 7168,
        "governor": "ondemand",
        "clocks_mhz": [1500.0, 1800.0, 2100.0, 2400.0],
        "temperatures_c": {"cpu-thermal": 48.9},
        "load_average": [0.15, 0.10, 0.05],
        "throttled": {"raspberry_pi_flags": "50005"},
        "power_mode": "unknown",
        "power_w": {},
        "gpu_clock_mhz": None,
    }


def test_an_empty_tree_is_unknown_and_never_a_crash(tmp_path):
    found = probe(str(tmp_path))
    assert found["processor"] == found["board"] == "unknown"
    assert found["memory_total_mib"] is None
    assert found["isa"] == []
    assert found["cores_physical"] >= 1
    assert found["telemetry"] == {
        "memory_available_mib": None,
        "governor": "unknown",
        "clocks_mhz": [],
        "temperatures_c": {},
        "load_average": None,
        "throttled": {},
        "power_mode": "unknown",
        "power_w": {},
        "gpu_clock_mhz": None,
    }


def test_rubbish_files_are_unknown_and_never_a_crash(pi):
    for path in list(pi.rglob("*")):
        if path.is_file():
            path.write_bytes(b"\xff\xfe rubbish \0\n:::\n")
    found = probe(str(pi))
    assert found["memory_total_mib"] is None
    assert found["telemetry"]["clocks_mhz"] == []
    assert found["telemetry"]["temperatures_c"] == {}


def test_folders_in_place_of_files_are_unknown(tmp_path):
    for path in ("proc/cpuinfo", "proc/meminfo", "proc/loadavg", "etc/os-release", "var/lib/dpkg/status"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir(parents=True)
    write(tmp_path, "usr/bin/trtexec", "")
    found = probe(str(tmp_path))
    assert found["telemetry"]["load_average"] is None
    assert found["runtimes"]["trtexec"]["version"] == "unknown"


def test_this_very_machine_can_be_probed():
    found = probe()
    assert found["cores_logical"] == len(usable_cpus())
    assert 1 <= found["cores_physical"] <= found["cores_logical"]
    assert found["python"].startswith("3.")
    assert found["runtimes"]["onnxruntime"]["version"]


def test_an_x86_processor_s_name_and_clock_come_from_cpuinfo(tmp_path):
    text = (
        "model name\t: 13th Gen Intel(R) Core(TM) i5-1340P\ncpu MHz\t\t: 1896.002\nflags\t\t: fpu avx2 avx_vnni sse\n"
    )
    write(tmp_path, "proc/cpuinfo", text)
    write(tmp_path, "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "12\n")
    found = probe(str(tmp_path))
    assert found["processor"] == "13th Gen Intel(R) Core(TM) i5-1340P"
    assert found["isa"] == ["avx2", "avx_vnni"]
    assert found["telemetry"]["clocks_mhz"] == [1896.0]
    assert found["telemetry"]["throttled"] == {"x86_package_count": "12"}


def test_a_jetson_is_recognised(tmp_path):
    write(tmp_path, "proc/cpuinfo", "processor: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n")
    write(tmp_path, "proc/device-tree/model", b"NVIDIA Jetson Orin Nano Developer Kit\0")
    write(tmp_path, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    zones = {"cpu-thermal": "51000", "gpu-thermal": "-256000", "soc-thermal": "50562"}
    for index, (name, value) in enumerate(zones.items()):
        write(tmp_path, f"sys/class/thermal/thermal_zone{index}/type", name)
        write(tmp_path, f"sys/class/thermal/thermal_zone{index}/temp", value)
    found = probe(str(tmp_path))
    assert found["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["processor"] == "ARMv8 Processor rev 1 (v8l)"
    assert found["jetson_linux"] == "R36.4.3"
    assert found["telemetry"]["temperatures_c"] == {"cpu-thermal": 51.0, "soc-thermal": 50.6}


def test_zones_of_one_name_are_all_kept_in_natural_order(tmp_path):
    for index in (0, 2, 10):
        write(tmp_path, f"sys/class/thermal/thermal_zone{index}/type", "acpitz")
        write(tmp_path, f"sys/class/thermal/thermal_zone{index}/temp", str(40000 + index * 1000))
    assert telemetry(str(tmp_path))["temperatures_c"] == {"acpitz": 40.0, "acpitz 2": 42.0, "acpitz 3": 50.0}


def test_unequal_governors_are_all_named(tmp_path):
    for cpu, name in enumerate(("schedutil", "performance", "schedutil")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", name)
    assert telemetry(str(tmp_path))["governor"] == "performance+schedutil"


def test_trtexec_is_found_with_the_version_of_its_package(tmp_path):
    write(tmp_path, "usr/src/tensorrt/bin/trtexec", "")
    stanzas = [
        "Package: libc6\nVersion: 2.35",
        "Package: libnvinfer-bin\nStatus: installed\nVersion: 10.3.0.30-1+cuda12.5",
    ]
    write(tmp_path, "var/lib/dpkg/status", "\n\n".join(stanzas) + "\n")
    assert find_runtimes(str(tmp_path))["trtexec"] == {
        "version": "10.3.0.30-1+cuda12.5",
        "path": str(tmp_path / "usr/src/tensorrt/bin/trtexec"),
    }


def test_a_runtime_that_is_not_there_has_no_entry(tmp_path):
    assert "trtexec" not in find_runtimes(str(tmp_path))


def test_a_package_of_another_name_counts_as_the_runtime(tmp_path, monkeypatch):
    package = tmp_path / "onnxruntime_gpu-1.16.3.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.16.3\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert find_runtimes(str(tmp_path)) == {"onnxruntime": {"version": "1.16.3", "package": "onnxruntime-gpu"}}
