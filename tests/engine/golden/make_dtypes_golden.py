"""Makes dtypes.safetensors with Python's safetensors: a tensor of each dtype. Run once; the result is committed.

    python3 tests/engine/golden/make_dtypes_golden.py      (needs torch, safetensors; made with torch 2.15, safetensors 0.8)
"""

import pathlib

import safetensors.torch
import torch

VALUES = [0.0, -0.0, 1.0, -1.5, 65504.0, 2.0**-24, -(2.0**-14), float("inf"), float("-inf"), float("nan")]


def main():
    tensors = {
        "f32": torch.tensor(VALUES),
        "f16": torch.tensor(VALUES).to(torch.float16),
        "bf16": torch.tensor(VALUES).to(torch.bfloat16),
        "i32": torch.arange(6, dtype=torch.int32).view(2, 3),
        "u8": torch.tensor([1, 2, 255], dtype=torch.uint8),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }
    path = pathlib.Path(__file__).resolve().parent / "dtypes.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"made by": "safetensors", "ünï": "cödé"})


if __name__ == "__main__":
    main()
