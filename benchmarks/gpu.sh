#!/usr/bin/env bash
# Everything that needs a GPU, in at most eight minutes: installs from the lock, runs the tests on
# CUDA, compares stacked with single models, times references against the rate of matrix products,
# unlearning against a retrain, and audits the demo's batch end to end. Writes JSON and tables to a folder.
#
# Example: bash benchmarks/gpu.sh results-of-gpu
# Without a GPU, GPU_DEVICE=cpu runs the same at small sizes, to see that the script works.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-benchmarks/results/gpu}"
device="${GPU_DEVICE:-cuda}"
mkdir -p "$out"
began=$SECONDS
step() { # step <seconds> <name> <command …>: a step that fails or takes too long does not end the rest
  local limit=$1 name=$2
  shift 2
  if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then result=done; else result="exit $?"; fi
  echo "$((SECONDS - began)) s  $name: $result" | tee -a "$out/steps.txt"
}
: >"$out/steps.txt"
step 150 install make .venv/.ready
python=.venv/bin/python
if [ "$device" = cuda ]; then
  size=(--models 64 --stacks 8 --stacks 64 --epochs 2 --model benchmarks.resnet9:build --world cifar)
else
  size=(--models 4 --stacks 4 --epochs 1 --records 128 --world digits)
fi
step 30 device "$python" -c "import torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())"
step 100 tests "$python" -m pytest -q -n0 tests/tasks/training/test_stacked.py \
  tests/tasks/training/test_training_loop.py
printf '<!-- side by side -->\n<!-- end of side by side -->\n' >"$out/page.md"
step 150 references "$python" -m benchmarks.side_by_side --device "$device" --rounds 1 "${size[@]}" \
  --out "$out" --page "$out/page.md"
step 60 unlearning "$python" -m benchmarks.gpu --device "$device" --out "$out"
audit() { # the demo's batch, end to end, on the device
  local place
  place=$(mktemp -d)
  local tool="$PWD/.venv/bin"
  cd "$place"
  "$tool/erasure-audit" init .
  "$tool/python" -c "from pathlib import Path; from tasks.common import settings; \
settings.assign(Path('params.yaml'), ['compute.device=$device', 'compute.together=8'])"
  "$tool/erasure-audit" demo
}
export -f audit
export device
step 120 audit bash -c "set -e; audit"
cat "$out/steps.txt"
