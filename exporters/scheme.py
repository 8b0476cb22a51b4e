"""How numbers are held in eight bits: the kernels of the runtime on the target's processor decide (docs/adr/0011).

x86 multiplies unsigned activations by signed weights (U8S8). Without VNNI it adds two products in 16 bits, which
overflow, unless weights keep to seven bits. ARM wants both signed (S8S8). TensorRT wants both signed with every zero
point 0, weights as floats behind a Q of their own, and no quantised bias (RUNTIMES.md).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from taco.device.probe import probe

Instructions = Literal["auto", "x86-vnni", "x86", "arm"]


@dataclasses.dataclass(frozen=True, slots=True)
class Scheme:
    """What Q/DQ nodes a runtime needs.

    Attributes:
        signed: Activations are int8; else uint8.
        weight_bits: 8, or 7 where products of 8 would overflow.
        all_sides: Outputs of convolutions, and every operand of an Add or Mul between them, are quantised too: ONNX
            Runtime computes an operator in INT8 only between DQ and Q on all sides. OpenVINO needs inputs alone.
        symmetric: Zero points of activations are 0.
        float_weights: Weights stay floats, rounded to the grid, behind a Q and a DQ; biases stay floats.
        least_outputs: Layers with fewer output channels stay in floats.
    """

    signed: bool
    weight_bits: int
    all_sides: bool
    symmetric: bool = False
    float_weights: bool = False
    least_outputs: int = 1

    @property
    def words(self) -> str:
        """The scheme as engineers name it, as in `U8S8, 7-bit weights`."""
        symmetric = "symmetric, " if self.symmetric else ""
        return f"{'S8' if self.signed else 'U8'}S8, {symmetric}{self.weight_bits}-bit weights"

    @property
    def activation_limits(self) -> tuple[int, int]:
        """Smallest and largest activation."""
        return (-128, 127) if self.signed else (0, 255)

    @property
    def weight_limit(self) -> int:
        """Largest magnitude of a weight."""
        return int(2 ** (self.weight_bits - 1)) - 1


#: A product with a side below 16 is not to be quantised.
TENSORRT = Scheme(True, 8, all_sides=False, symmetric=True, float_weights=True, least_outputs=16)


def scheme_for(runtime: str, instructions: Instructions) -> Scheme:
    """Return the scheme of a runtime on a processor.

    Args:
        runtime: `ort`, `ov` or `trt`.
        instructions: What the processor has; auto looks at this machine. TensorRT runs on the GPU and needs none.
    """
    if runtime == "trt":
        return TENSORRT
    known = here() if instructions == "auto" else instructions
    return Scheme(signed=known == "arm", weight_bits=7 if known == "x86" else 8, all_sides=runtime == "ort")


def here() -> Literal["x86-vnni", "x86", "arm"]:
    """Say what this machine's processor has for eight-bit products."""
    found = probe()
    if found["machine"] in ("aarch64", "arm64"):
        return "arm"
    return "x86-vnni" if {"avx512_vnni", "avx_vnni"} & set(found["isa"]) else "x86"
