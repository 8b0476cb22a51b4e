"""What the fork server of tests/forked.py imports: all that a run needs, and one export, which torch.onnx prepares for.

Nothing here may start a thread: a child has only the thread that forked it. So ONNX Runtime, which starts one on
import, is left to the children, and tqdm, with which torch.onnx shows progress, does without its own.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import dying  # noqa: F401 - imported for the children, as is what follows
import forked  # noqa: F401
import torch
import tqdm

import taco.api
import taco.cli
import taco.exporters.ort
import taco.pipeline
import taco.report.write  # noqa: F401
from taco.exporters.graph import export_proto
from taco.exporters.protocol import Compressed

torch.set_num_threads(1)
tqdm.tqdm.monitor_interval = 0
export_proto(Compressed(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), (3, 2, 2)))
if len(list(Path("/proc/self/task").iterdir())) > 1:
    raise RuntimeError("the fork server has started a thread: its children would wait for it for ever")
