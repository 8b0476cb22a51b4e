"""An emulated aarch64 "Raspberry Pi 5": a Debian Python with onnxruntime for arm64, and files of that board.

Everything comes from the mirrors that this machine uses, in a folder of its own; about 230 MB and half a minute. Its
answers are those of arm64 code. Its times mean nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QEMU = Path("/usr/bin/qemu-aarch64-static")
PACKAGES = (
    *("libc6", "libstdc++6", "libgcc-s1", "libgomp1", "python3-minimal", "libpython3-stdlib", "python3", "dash"),
    *("coreutils", "grep", "sed", "netbase", "base-files"),
)
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
CORES = 4
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
CORE = (
    "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: " + FEATURES + "\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
)
VCGENCMD = """#!/bin/sh
case "$1" in
 measure_temp) echo "temp=48.8'C";; get_throttled) echo "throttled=0x0";;
 *) echo 'error=1 error_msg="Command not registered"'; exit 255;; esac
"""


def fake_pi(cache: Path) -> Path:
    """The root of the emulated system, made once; skips where that cannot be."""
    if not QEMU.exists():
        pytest.skip("no qemu-aarch64-static here: apt-get install qemu-user-static")
    root = cache / "pi"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of pytest-xdist may want it at once
        if not (root / "made").exists():
            _make(root, cache)
    probe = enter(root, "/usr/bin/python3", "-c", "import platform; print(platform.machine())")
    if probe.stdout.strip() != "aarch64":
        pytest.skip(f"this kernel cannot emulate arm64 in a namespace: {probe.stderr.strip()[-200:]}")
    return root


def _make(root: Path, cache: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    try:
        _unpack_debian(root)
        _unpack_wheels(root, cache / "wheels")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"an arm64 Debian cannot be fetched here: {getattr(error, 'stderr', None) or error}")
    _dress(root)
    (root / "made").touch()


def enter(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the emulated system."""
    return subprocess.run(
        [sys.executable, "-S", "-E", str(HERE / "enter.py"), str(root), *command],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def shell(root: Path, folder: Path) -> Path:
    """A program for sshd's ForceCommand, which runs every command in the emulated system."""
    made = folder / "fake-pi-shell"
    made.write_text(
        f'#!/bin/sh\nexec /usr/bin/python3 -S -E "{HERE}/enter.py" "{root}" /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    made.chmod(0o755)
    return made


def _unpack_debian(root: Path) -> None:
    """apt with a state of its own for arm64; packages are only unpacked, so that no script of theirs runs."""
    state = root.parent / "apt"
    shutil.rmtree(state, ignore_errors=True)
    for name in ("lists/partial", "archives/partial", "dpkg"):
        (state / name).mkdir(parents=True)
    (state / "dpkg/status").touch()
    root.mkdir(parents=True)
    settings = {
        "Dir::State": str(state),
        "Dir::State::lists": f"{state}/lists",
        "Dir::State::status": f"{state}/dpkg/status",
        "Dir::Cache": str(state),
        "Dir::Cache::archives": f"{state}/archives",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    for words in (("update",), ("-y", "--download-only", "install", *PACKAGES)):
        subprocess.run(["apt-get", "-qq", *options, *words], check=True, capture_output=True, text=True, timeout=300)
    for package in sorted((state / "archives").glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as packed:
            subprocess.run(
                ["tar", "-C", str(root), "-xf", "-", "--exclude=./usr/share/doc"], stdin=packed.stdout, check=True
            )
    shutil.rmtree(state)


def _unpack_wheels(root: Path, wheels: Path) -> None:
    version = next((root / "usr/bin").glob("python3.*[0-9]")).name.removeprefix("python")
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", *platforms, "--python-version", version,
         "--only-binary=:all:", "-d", str(wheels), "onnxruntime", "numpy", "pillow"],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(root / f"usr/local/lib/python{version}/dist-packages")


def _dress(root: Path) -> None:
    """Make it look like the board: without these files, onnxruntime for arm64 does not even start."""
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\npi:x:1000:1000::/home/pi:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\npi:x:1000:\n")
    for name in ("home/pi", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "usr/local/bin/vcgencmd").parent.mkdir(parents=True, exist_ok=True)
    (root / "usr/local/bin/vcgencmd").write_text(VCGENCMD)
    (root / "usr/local/bin/vcgencmd").chmod(0o755)
    fake = root / "opt/fake"
    cores = "".join(CORE.format(core) for core in range(CORES))
    _write(fake / "proc/cpuinfo", f"{cores}Revision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
    processors, every = fake / "sys/devices/system/cpu", f"0-{CORES - 1}\n"
    for name, text in {
        "possible": every,
        "present": every,
        "online": every,
        "offline": "\n",
        "kernel_max": "255\n",
    }.items():
        _write(processors / name, text)
    for core in range(CORES):
        folder = processors / f"cpu{core}"
        _write(folder / "topology/physical_package_id", "0\n")
        _write(folder / "topology/core_id", f"{core}\n")
        _write(folder / "topology/thread_siblings_list", f"{core}\n")
        _write(folder / "topology/core_siblings_list", every)
        for name, khz in (("cpuinfo_max_freq", 2400000), ("scaling_cur_freq", 2400000), ("cpuinfo_min_freq", 1500000)):
            _write(folder / "cpufreq" / name, f"{khz}\n")
        _write(folder / "cpufreq/scaling_governor", "ondemand\n")
    _write(fake / "sys/class/thermal/thermal_zone0/temp", "48850\n")
    _write(fake / "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def cache_folder() -> Path:
    """Where the emulated system is kept between runs of the tests."""
    return Path(os.environ.get("TACO_EDGE_LAB", HERE.parents[1] / "build" / "edge_lab"))
