"""Where the arithmetic is done, and that it is done the same way every time."""

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
"""What glibc's <malloc.h> calls them"""
KEPT_AT_MOST = 32 << 20
"""Bytes of a piece of memory that glibc can keep; it takes no more on machines of 64 bit."""


@dataclass(frozen=True)
class Backend:
    """A device and how it multiplies."""

    device: torch.device
    bf16: bool
    threads: int
    tf32: bool = False
    portable: bool = False
    """the instruction sets are fixed, see `settings.Compute.portable`"""

    def memory_format(self, channels: int) -> torch.memory_format:
        """How images of so many channels lie in memory: channels last where that is faster, else
        PyTorch's default.

        Faster it is with bf16, and for colour on a processor. Of one channel both are the same.
        """
        import torch

        faster = self.bf16 or (self.device.type == "cpu" and channels > 1)
        return torch.channels_last if faster else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """The context in which models compute: bf16 where it is asked for, else float32."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def facts(self) -> dict[str, str | int]:
        """What a report says of it."""
        import torch

        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {
            "device": name,
            "threads": self.threads,
            "precision": "bf16" if self.bf16 else "tf32" if self.tf32 else "float32",
            "torch": torch.__version__,
        }


def prepare(wish: settings.Compute) -> Backend:
    """Choose the device and make PyTorch deterministic.

    Raises:
        ModelError: CUDA or its TF32 is asked for and there is none.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    cuda = torch.cuda.is_available()
    if wish.device == "cuda" and not cuda:
        raise ModelError(
            "compute.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu"
        )
    device = torch.device("cuda" if cuda and wish.device != "cpu" else "cpu")
    # torch.use_deterministic_algorithms(True) would import the compiler: 7 s per process
    torch._C._set_deterministic_algorithms(True, warn_only=False)  # noqa: SLF001
    # filling finds faulty operations, and writes all memory twice
    torch._C._set_deterministic_fill_uninitialized_memory(False)  # noqa: SLF001
    _keep_memory()
    torch.backends.cudnn.benchmark = False
    tf32 = wish.precision == "tf32"
    if tf32 and device.type != "cuda":
        raise ModelError(
            "compute.precision is tf32, which only CUDA has, and the device is the CPU; set it "
            "to float32 or bf16"
        )
    # PyTorch's default is TF32 in convolutions and float32 in products
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.set_num_threads(wish.threads)
    bf16 = wish.precision == "bf16" or (wish.precision == "auto" and _multiplies_bf16(device))
    fixed = device.type == "cpu" and wish.is_portable()
    return Backend(device, bf16, wish.threads, tf32, fixed)


def _keep_memory() -> None:
    """Let glibc keep freed memory for the next step: given back, it would be page-faulted in
    again."""
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
