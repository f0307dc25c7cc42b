#!/usr/bin/env bash
# Checks and measures everything that needs a GPU: tests, a training run against the CPU's, benchmarks, compute-sanitizer.
set -euo pipefail
export LC_ALL=C.UTF-8

usage() {
  cat <<END
usage: tools/gpu_check.sh [--out FOLDER] [--minutes N] [--quick] [--device NAME] [BUILD]

Runs on the GPU: the tests of kernels, engine and tools; a training run whose losses are compared with the CPU's; a
stage's training step for models of four sizes, and what messages beside it cost; bench_kernels; last, part of the kernel
tests under compute-sanitizer (memcheck, racecheck) where that is installed. Ends with a table of what passed. A step
that fails does not keep the next from running; the exit code is 1 then. Needs no network.

  BUILD          a build folder. What runs there is taken as it is, also when another machine built it: no compiler is
                 needed, and what was not built is left out. Default: configures and builds with the preset release or,
                 where that cannot be configured, kernels (tests and benchmarks of the kernels only); without CMake,
                 takes build/release or build/kernels as found
  --out FOLDER   logs, and the benchmarks' JSON (default: gpu_check in the build folder)
  --minutes N    all steps together take no longer (default: 8); what is not done by then is left out, and said to be
  --quick        without compute-sanitizer, and of bench_kernels only what kernels/RESULTS.md has goals for
  --device NAME  default: cuda:0. The tests and bench_kernels use the first GPU. With cpu everything runs on the CPU,
                 with the smallest sizes: a check of this script
END
}

fail_usage() {
  echo "gpu_check: $1" >&2
  usage >&2
  exit 2
}

build=
out=
minutes=8
quick=
device=cuda:0
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --out)
      [ $# -ge 2 ] || fail_usage "--out needs a value"
      out=$(realpath -m "$2")
      shift
      ;;
    --minutes | --device) [ $# -ge 2 ] || fail_usage "$1 needs a value" ;;&
    --minutes) minutes=$2; shift ;;
    --device) device=$2; shift ;;
    --quick) quick=1 ;;
    -*) fail_usage "unknown option '$1'" ;;
    *)
      [ -z "$build" ] || fail_usage "one build folder, not also '$1'"
      build=$(realpath -m "$1")
      ;;
  esac
  shift
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || fail_usage "--minutes: found '$minutes', expected a positive number"
cd "$(dirname "$0")/.."

say() { printf 'gpu_check: %s\n' "$1"; }
give_up() {
  say "$1" >&2
  exit 1
}

# ---------------------------------------------------------------------------------------------------- the GPU

if [ "$device" = cpu ]; then
  say "trying this script: everything runs on the CPU"
elif command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || give_up "no GPU: nvidia-smi finds none"
elif ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
  give_up "no GPU: neither nvidia-smi nor a device /dev/nvidia0 is there"
fi

# ---------------------------------------------------------------------------------------------------- the build

# Whether the program is there and starts on this machine.
starts() { "$@" >/dev/null 2>&1; }
has_tests() { starts "$1/tests/kernels/test_kernels" --gtest_list_tests; }

# The preset kernels has no engine; benchmarks are no target where Google Benchmark is missing.
build_in() {
  local targets=(test_kernels)
  ! cmake --build "$1" --target help | grep -q bench_kernels || targets+=(bench_kernels)
  ! grep -q '^SKIPPIPE_PARTS:.*=all$' "$1/CMakeCache.txt" ||
    targets+=(skippipe test_engine test_engine_distributed test_tools)
  say "building ${targets[*]} in $1"
  cmake --build "$1" --target "${targets[@]}"
}

build_with_preset() {
  local preset
  for preset in release kernels; do
    if cmake --preset "$preset" -DSKIPPIPE_CUDA=ON -DSKIPPIPE_TESTS=ON >"$log" 2>&1; then
      build=$PWD/build/$preset
      build_in "$build" || give_up "the preset $preset cannot be built"
      return
    fi
    say "the preset $preset cannot be configured: $(grep -m 1 -A 2 'CMake Error' "$log" | tr -s '\n ' ' ')"
  done
  return 1
}

take_what_is_built() {
  for build in "$PWD/build/release" "$PWD/build/kernels"; do
    ! has_tests "$build" || return 0
  done
  give_up "nothing can be built here, and neither build/release nor build/kernels has programs that start here"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ -z "$build" ]; then
  { command -v cmake >/dev/null && build_with_preset; } || take_what_is_built
elif ! has_tests "$build"; then
  [ -f "$build/CMakeCache.txt" ] || give_up "$build: neither programs that start here nor a configured build"
  build_in "$build" || give_up "$build: cannot be built"
fi
say "programs of $build"
out=${out:-$build/gpu_check}
mkdir -p "$out"

# ---------------------------------------------------------------------------------------------------- the steps

names=() results=() seconds=()
failed=0
cut=0
end=$((SECONDS + 60 * minutes))

note() {
  names+=("$1") results+=("$2") seconds+=("$3")
}

# step NAME COMMAND...: runs the command, shows what it prints, and keeps it in OUT/NAME.log.
step() {
  local name=$1 begin=$SECONDS code=0 result left=$((end - SECONDS))
  shift
  if [ $left -le 0 ]; then
    cut=1
    note "$name" "left out: the $minutes minutes are over" 0
    return
  fi
  say "$name: $*"
  timeout "$left" "$@" 2>&1 | tee "$out/$name.log" || code=$?
  case $code in
    0) result=passed ;;
    124) result="NOT DONE: the $minutes minutes are over" cut=1 ;;
    *) result="FAILED: exit code $code" failed=1 ;;
  esac
  note "$name" "$result" $((SECONDS - begin))
}

# tests NAME PROGRAM FILTER: those cases.
tests() {
  local name=$1 program=$build/tests/$2 filter=$3
  if ! starts "$program" --gtest_list_tests; then
    note "$name" "left out: not built" 0
  elif ! "$program" --gtest_list_tests --gtest_filter="$filter" | grep -q '^  '; then
    note "$name" "left out: has no such cases" 0
  else
    step "$name" "$program" --gtest_brief=1 --gtest_filter="$filter"
  fi
}

# Cases are named after their backend, tests of the backend itself after the library.
backend=cuda cases='*cuda*:*Cuda*:*cudnn*:*Cudnn*'
export SKP_REQUIRE_CUDA=1
if [ "$device" = cpu ]; then
  backend=cpu cases='*cpu*'
  unset SKP_REQUIRE_CUDA
fi
tests test_kernels kernels/test_kernels "$cases"
tests test_engine engine/test_engine "$cases"
tests test_engine_distributed engine/test_engine_distributed "$cases"
tests test_tools tools/test_tools "$cases"

skippipe=$build/skippipe
if starts "$skippipe" --version; then
  step training tools/training_check.sh --device "$device" "$skippipe" "$out/training"
  step_sizes=(--shape 125M,500M,1.5B,8B,Qwen2.5-0.5B,Qwen2.5-1.5B --dtype bf16)
  overlap_sizes=(--shape 1.5B --layers 6 --dtype bf16)
  if [ "$device" = cpu ]; then
    step_sizes=(--shape 125M --layers 1 --samples 1 --tokens 16 --steps 1)
    overlap_sizes=("${step_sizes[@]}")
  fi
  step bench "$skippipe" bench --device "$device" "${step_sizes[@]}" --json "$out/bench.json"
  step overlap "$skippipe" bench --overlap --device "$device" "${overlap_sizes[@]}" --json "$out/overlap.json"
else
  note training "left out: skippipe is not built" 0
fi

bench_kernels=$build/tools/bench_kernels
kernel_options=(--backend=$backend --benchmark_out="$out/bench_kernels.json")
if [ "$device" = cpu ]; then
  kernel_options+=(--shape=125M --benchmark_filter=rmsnorm --benchmark_repetitions=2)
elif [ -n "$quick" ]; then
  kernel_options+=(--shape=1.5B,8B,8B-4k --benchmark_repetitions=5)
fi
if starts "$bench_kernels" --help; then
  step bench_kernels "$bench_kernels" "${kernel_options[@]}"
else
  note bench_kernels "left out: not built (needs Google Benchmark)" 0
fi

sanitizer=$(command -v compute-sanitizer || compgen -G '/usr/local/cuda*/bin/compute-sanitizer' | tail -n 1 || true)
sanitize() {
  local tool=$1 filter=$2
  if [ -n "$quick" ] || [ "$device" = cpu ]; then
    note "$tool" "left out: of a GPU, and not with --quick" 0
  elif [ -z "$sanitizer" ]; then
    note "$tool" "left out: compute-sanitizer is not installed" 0
  else
    # Our code checks every call itself; libraries make calls that fail, as a way to ask.
    step "$tool" "$sanitizer" --tool "$tool" --report-api-errors no --error-exitcode 99 \
      "$build/tests/kernels/test_kernels" --gtest_brief=1 --gtest_filter="$filter"
  fi
}
[ -z "$sanitizer" ] || say "memcheck leaves out MatmulTest (a library's kernels) and PoisonTest (the others' again); racecheck runs what shares memory between threads"
sanitize memcheck '*cuda*-*MatmulTest*:*PoisonTest*'
sanitize racecheck '*AttentionTest*cuda*:*AttentionCachedTest*cuda*:*LmHeadTest*cuda*:*RmsnormTest*cuda*:*EmbeddingTest*cuda*:*SquaredNorm*cuda*'

# ---------------------------------------------------------------------------------------------------- the table

printf '\n%-24s %-44s %8s\n' step result seconds
for i in "${!names[@]}"; do printf '%-24s %-44s %8d\n' "${names[i]}" "${results[i]}" "${seconds[i]}"; done
say "logs and JSON are in $out"
[ "$cut" = 0 ] || say "not everything was done; --minutes gives it more time"
exit "$failed"
