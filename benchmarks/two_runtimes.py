"""What a second runtime alive in the same process costs: why each model is timed in a process of its own.

`python -m benchmarks.two_runtimes` times a small ONNX Runtime session alone, then in turn with an OpenVINO session of
the same process, in alternating rounds; the median of the rounds' ratios is what the neighbour costs.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch

from taco.device.openvino_session import OvSession
from taco.device.processors import physical_cores
from taco.device.session import OrtSession, fixed_input
from taco.exporters.graph import write_onnx
from taco.exporters.protocol import Compressed
from taco.timing.timings import median_ratio

ROUNDS, RUNS = 25, 10


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_onnx(Compressed(timm.create_model("mobilenetv3_small_100").eval(), (3, 224, 224)), file)
        threads = physical_cores()
        mine, other = OrtSession(str(file), threads), OvSession(str(file), threads)
    picture = fixed_input(mine, 0)

    def round_ms(beside: bool) -> float:
        samples = []
        for _ in range(RUNS):
            if beside:
                other.run(picture)
            start = time.perf_counter()
            mine.run(picture)
            samples.append(1e3 * (time.perf_counter() - start))
        return float(np.median(samples))

    round_ms(beside=True)
    pairs = [(round_ms(beside=False), round_ms(beside=True)) for _ in range(ROUNDS)]
    ratio = median_ratio([beside / alone for alone, beside in pairs])
    print(
        f"ONNX Runtime behind a run of OpenVINO in the same process takes {ratio.value:.2f} times as long as alone "
        f"({ratio.low:.2f} to {ratio.high:.2f} over {ROUNDS} rounds, {threads} threads; alone "
        f"{np.median([alone for alone, _ in pairs]):.2f} ms)"
    )


if __name__ == "__main__":
    main()
