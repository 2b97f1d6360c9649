#!/usr/bin/env bash
# All that needs a GPU, in at most eight minutes: the tests of training on CUDA, stacked against
# single models, 64 references against the rate of matrix products, and an audit of the CIFAR subset
# with the price of unlearning against a retrain. Writes JSON, tables and logs to a folder.
#
# Example: bash benchmarks/gpu.sh results-of-gpu
#   GPU_PYTHON=python3   an interpreter with PyTorch, NumPy, pandas, SciPy, pydantic and pytest (xdist, timeout), where
#                        nothing can be installed; else the lock is installed into .venv
#   DATASETS=folder  with cifar10/; else ../shared/datasets, and without it the embedded digits
#   GPU_DEVICE=cpu       the same at small sizes, to see that the script works
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-benchmarks/results/gpu}"
device="${GPU_DEVICE:-cuda}"
python="${GPU_PYTHON:-.venv/bin/python}"
export DATASETS="${DATASETS:-../shared/datasets}"
mkdir -p "$out"
began=$SECONDS
failed=0
step() { # step <seconds> <name> <command …>: the rest runs even if a step fails or takes too long
  local limit=$1 name=$2 result=done
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || { result="exit $?"; failed=1; }
  echo "$((SECONDS - began)) s  $name: $result" | tee -a "$out/steps.txt"
}
: >"$out/steps.txt"
[ -n "${GPU_PYTHON:-}" ] || step 120 install make .venv/.ready
world=digits
[ ! -d "$DATASETS/cifar10" ] || world=cifar
if [ "$device" = cuda ]; then
  size=(--models 64 --stacks 8 --stacks 64 --epochs 1 --model benchmarks.resnet9:build)
  audit=(--epochs 8 --references 16 --block 8)
else
  world=digits
  size=(--models 4 --stacks 4 --epochs 1 --records 128)
  audit=(--epochs 6 --references 6 --block 2)
fi
step 30 device "$python" -c "import torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())"
step 80 tests "$python" -m pytest -q -n0 tests/tasks/training/test_stacked.py \
  tests/tasks/training/test_training_loop.py tests/tasks/training/test_cuda.py
step 110 audit "$python" -m benchmarks.gpu --device "$device" --world "$world" "${audit[@]}" --out "$out"
printf '<!-- side by side -->\n<!-- end of side by side -->\n' >"$out/page.md"
step 140 references "$python" -m benchmarks.side_by_side --device "$device" --world "$world" --rounds 1 \
  "${size[@]}" --out "$out" --page "$out/page.md"
cat "$out/steps.txt"
exit $failed
