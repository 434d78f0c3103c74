"""Writes the small PyTorch files that are read in tests where PyTorch is not installed.

Run it from anywhere, with PyTorch installed: ``python tests/golden/make_torch_files.py``. It
writes, beside itself, the same checkpoint as a zip and as a legacy file, a module saved whole, a
safetensors file, and golden.npz with what they hold (bfloat16 as float32, which holds it exactly).
"""

import pathlib
import time

import numpy as np
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).parent


class Net(torch.nn.Module):
    """A module small enough to keep in a repository; with a buffer that is saved and one not."""

    def __init__(self):
        super().__init__()
        self.torso = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.ReLU())
        self.norm = torch.nn.BatchNorm1d(3)
        self.head = torch.nn.Linear(3, 2, bias=False)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def main() -> None:
    torch.manual_seed(0)
    net = Net()
    base = torch.arange(24.0).reshape(4, 6) / 7
    tensors = {
        "plain": base,
        "transposed": base.t(),
        "sliced": base[1:3, 2:5],
        "stepped": base[::2, 1::3],
        "expanded": torch.arange(3.0).expand(1, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "half": torch.tensor([0.5, -1.25]).half(),
        "bfloat16": torch.tensor([0.5, -1.25, 3.0]).bfloat16(),
        "int64": torch.tensor([2**40, -1]),
        "bool": torch.tensor([True, False, True]),
        "complex64": torch.tensor([1 + 2j, -3j]),
    }
    checkpoint = {
        "Q": net.state_dict(),
        "tensors": tensors,
        "best": np.float64(1.25),
        "returns": np.arange(6, dtype=np.int32).reshape(2, 3),
        "saved": time.gmtime(0),
        "step": 7,
        "shape": torch.Size([2, 3]),
    }
    torch.save(checkpoint, HERE / "golden_zip.pth")
    torch.save(checkpoint, HERE / "golden_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(net, HERE / "golden_module.pth")
    safetensors.torch.save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
        HERE / "golden.safetensors",
    )
    expected = {f"tensors/{name}": _numpy(tensor) for name, tensor in tensors.items()}
    expected |= {f"Q/{name}": _numpy(tensor) for name, tensor in net.state_dict().items()}
    np.savez_compressed(HERE / "golden.npz", **expected)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


if __name__ == "__main__":
    main()
