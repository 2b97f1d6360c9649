"""Choose the device that models compute on, and make it deterministic."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.common import settings
from tasks.common.errors import ModelError

if TYPE_CHECKING:
    import torch


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Constants of glibc's <malloc.h>."""
KEPT_AT_MOST = 32 << 20
"""Largest piece of memory that glibc keeps, bytes; its limit on 64-bit machines."""


@dataclass(frozen=True)
class Backend:
    """A device and its arithmetic."""

    device: torch.device
    bf16: bool
    threads: int
    tf32: bool = False
    portable: bool = False
    """the instruction sets are fixed, see `settings.Compute.portable`"""

    def memory_format(self, channels: int) -> torch.memory_format:
        """The memory layout of images with so many channels: channels last if faster, else
        PyTorch's default.

        Channels last is faster with bf16, and for colour on the CPU. With one channel both are
        identical.
        """
        import torch

        faster = self.bf16 or (self.device.type == "cpu" and channels > 1)
        return torch.channels_last if faster else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """The context in which models compute: bf16 if the settings ask for it, else float32."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def facts(self) -> dict[str, str | int]:
        """The facts that a report shows."""
        import torch

        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {
            "device": name,
            "threads": self.threads,
            "precision": "bf16" if self.bf16 else "tf32" if self.tf32 else "float32",
            "torch": torch.__version__,
        }


def prepare(compute: settings.Compute) -> Backend:
    """Choose the device and make PyTorch deterministic.

    Raises:
        ModelError: CUDA or its TF32 is asked for and there is none.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    cuda = torch.cuda.is_available()
    if compute.device == "cuda" and not cuda:
        raise ModelError(
            "compute.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu"
        )
    device = torch.device("cuda" if cuda and compute.device != "cpu" else "cpu")
    # torch.use_deterministic_algorithms(True) would import the compiler: 7 s per process
    torch._C._set_deterministic_algorithms(True, warn_only=False)  # noqa: SLF001
    # filling is a debugging aid that writes all memory twice
    torch._C._set_deterministic_fill_uninitialized_memory(False)  # noqa: SLF001
    _keep_memory()
    torch.backends.cudnn.benchmark = False
    tf32 = compute.precision == "tf32"
    if tf32 and device.type != "cuda":
        raise ModelError(
            "compute.precision is tf32, which only CUDA has, and the device is the CPU; set it "
            "to float32 or bf16"
        )
    # PyTorch's default is TF32 in convolutions and float32 in products
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.set_num_threads(compute.threads)
    bf16 = compute.precision == "bf16" or (compute.precision == "auto" and _multiplies_bf16(device))
    fixed = device.type == "cpu" and compute.is_portable()
    return Backend(device, bf16, compute.threads, tf32, fixed)


def _keep_memory() -> None:
    """Keep freed memory in glibc for the next step; otherwise it is page-faulted in again."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other systems have none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_AT_MOST)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _multiplies_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # AVX-512 without AMX gains too little to pay for the rounding
    return bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001
