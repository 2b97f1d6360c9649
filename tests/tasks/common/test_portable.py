"""`compute.portable`: a stage starts itself again under fixed instruction sets, and comes to the
same bits whatever its processor offers beyond them."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tasks import pack
from tasks.common import files, portable, settings
from tasks.common.settings import Compute
from tasks.training import compute

WEIGHTS = "1d12834c7ed27d822a88c0bf315d7572bfb7cbb5a29ca4e120ac8e3c9901914a"
"""SHA-256 of the model's tensors, seen on an Intel processor with AVX-512 and AMX, by torch
2.15.0."""
PARAMS = """
data: {classes: 3, channels: 1, image_size: 16}
train: {epochs: 2, batch_size: 8}
references: {seeds_per_block: 1}
compute: {device: cpu, portable: %s}
"""
FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
needs_avx2 = pytest.mark.skipif(
    platform.machine() != "x86_64" or " avx2" not in FLAGS, reason="the mode is for AVX2"
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Training records of three classes, packed, and a split."""
    data = tmp_path / "data"
    data.mkdir()
    manifest, split = ["record_id,subject_id,label,path,sha256"], ["record_id,role"]
    for number in range(24):
        rows, columns = np.mgrid[:16, :16]
        waves = np.uint8(127 + 120 * np.sin((1 + number % 3) * rows + number * columns / 24))
        Image.fromarray(waves).save(data / f"{number}.png")
        digest = files.sha256(data / f"{number}.png")
        manifest.append(f"r{number},s{number},{number % 3},{number}.png,{digest}")
        split.append(f"r{number},training")
    files.write_text(data / "manifest.csv", "\n".join(manifest) + "\n")
    files.write_text(tmp_path / "split.csv", "\n".join(split) + "\n")
    pack.make(data, settings.Data(classes=3, channels=1, image_size=16), tmp_path / "pack")
    return tmp_path


def train(workspace: Path, portable_mode: bool, **environment: str) -> str:
    """Run the stage `train` as DVC does; returns the SHA-256 of its model's tensors, by name."""
    files.write_text(workspace / "params.yaml", PARAMS % str(portable_mode).lower())
    out = workspace / f"train-{len(list(workspace.glob('train-*')))}"
    words = ["--block", "0", "--data", "data", "--pack", "pack", "--split", "split.csv"]
    inherited = {k: v for k, v in os.environ.items() if k not in portable.VARIABLES}
    done = subprocess.run(
        [sys.executable, "-m", "tasks.train", *words, "--params", "params.yaml", "--out", out.name],
        cwd=workspace,
        env={**inherited, "PYTHONPATH": str(Path(__file__).parents[3]), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256()
    for _, value in sorted(load_file(out / "seed-0.safetensors").items()):
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


@needs_avx2
def test_what_the_environment_says_of_instruction_sets_does_not_reach_a_portable_stage(
    workspace: Path,
) -> None:
    assert train(workspace, True) == train(workspace, True, ATEN_CPU_CAPABILITY="default")


@needs_avx2
def test_a_portable_training_comes_to_the_weights_that_were_seen_before(workspace: Path) -> None:
    result = train(workspace, True)
    if result != WEIGHTS and "GenuineIntel" not in FLAGS:
        pytest.skip(f"these bits were seen on Intel only; this processor came to {result}")
    assert result == WEIGHTS


def test_a_process_says_that_it_is_portable_only_where_its_environment_is() -> None:
    assert portable.holds(portable.VARIABLES) is (platform.machine() == "x86_64")
    assert not portable.holds({})
    assert not portable.holds({**portable.VARIABLES, "MKL_CBWR": "AUTO"})
    asked = compute.prepare(Compute(device="cpu", portable=True))
    assert asked.portable is portable.holds()


@pytest.mark.float32
def test_float32_is_the_default_on_every_processor() -> None:
    assert compute.prepare(Compute(device="cpu")).facts()["precision"] == "float32"
