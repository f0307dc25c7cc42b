#!/usr/bin/env bash
# Checks and measures the CUDA kernels on a machine with a GPU: their tests, compute-sanitizer, the benchmarks.
set -euo pipefail
export LC_ALL=C.UTF-8

usage() {
  cat <<END
usage: tools/gpu_check.sh [--out FOLDER] [BUILD]

Runs the kernel tests on the GPU, then a part of them under compute-sanitizer (memcheck, racecheck) where that is
installed, then bench_kernels, and ends with a table of what passed. A step that fails does not keep the next from
running; the exit code is 1 then.

  BUILD         a build folder. What runs there is taken as it is, also when another machine built it: no compiler is
                needed. Default: configures and builds with the preset release or, where that cannot be configured,
                kernels; without CMake, takes build/release or build/kernels as found
  --out FOLDER  logs, and bench_kernels.json (default: gpu_check in the build folder)
END
}

fail_usage() {
  echo "gpu_check: $1" >&2
  usage >&2
  exit 2
}

build=
out=
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --out)
      [ $# -ge 2 ] || fail_usage "--out needs a value"
      out=$(realpath -m "$2")
      shift
      ;;
    -*) fail_usage "unknown option '$1'" ;;
    *)
      [ -z "$build" ] || fail_usage "one build folder, not also '$1'"
      build=$(realpath -m "$1")
      ;;
  esac
  shift
done
cd "$(dirname "$0")/.."

say() { printf 'gpu_check: %s\n' "$1"; }
give_up() {
  say "$1" >&2
  exit 1
}

# ---------------------------------------------------------------------------------------------------- the GPU

if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || give_up "no GPU: nvidia-smi finds none"
elif ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
  give_up "no GPU: neither nvidia-smi nor a device /dev/nvidia0 is there"
fi

# ---------------------------------------------------------------------------------------------------- the build

# Whether the program is there and starts on this machine.
starts() { "$@" >/dev/null 2>&1; }
has_tests() { starts "$1/tests/kernels/test_kernels" --gtest_list_tests; }
has_benchmarks() { starts "$1/tools/bench_kernels" --help; }

# The benchmarks are no target where Google Benchmark is missing.
build_in() {
  local targets=(test_kernels)
  ! cmake --build "$1" --target help | grep -q bench_kernels || targets+=(bench_kernels)
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

note() {
  names+=("$1") results+=("$2") seconds+=("$3")
}

# step NAME SECONDS COMMAND...: runs the command for at most so many seconds, shows what it prints, and keeps it in OUT/NAME.log.
step() {
  local name=$1 limit=$2 begin=$SECONDS code=0 result
  shift 2
  say "$name: $*"
  timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" || code=$?
  case $code in
    0) result=passed ;;
    124) result="FAILED: not done after $limit s" ;;
    *) result="FAILED: exit code $code" ;;
  esac
  [ "$code" = 0 ] || failed=1
  note "$name" "$result" $((SECONDS - begin))
}

export SKP_REQUIRE_CUDA=1
tests=$build/tests/kernels/test_kernels
# Cases are named after their backend, tests of the backend itself after the library. The cpu and simt cases need no GPU.
step tests 900 "$tests" --gtest_brief=1 --gtest_filter='*cuda*:*Cuda*:*cudnn*:*Cudnn*'

sanitizer=$(command -v compute-sanitizer || compgen -G '/usr/local/cuda*/bin/compute-sanitizer' | tail -n 1 || true)
sanitize() {
  local tool=$1 filter=$2
  if [ -z "$sanitizer" ]; then
    note "$tool" "left out: compute-sanitizer is not installed" 0
    return
  fi
  # Our code checks every call itself; libraries make calls that fail, as a way to ask.
  step "$tool" 900 "$sanitizer" --tool "$tool" --report-api-errors no --error-exitcode 99 "$tests" --gtest_brief=1 \
    --gtest_filter="$filter"
}
[ -z "$sanitizer" ] || say "memcheck leaves out MatmulTest (a library's kernels) and PoisonTest (the others' again); racecheck runs what shares memory between threads"
sanitize memcheck '*cuda*-*MatmulTest*:*PoisonTest*'
sanitize racecheck '*AttentionTest*cuda*:*AttentionCachedTest*cuda*:*LmHeadTest*cuda*:*RmsnormTest*cuda*:*EmbeddingTest*cuda*:*SquaredNorm*cuda*'

if has_benchmarks "$build"; then
  step bench_kernels 3600 "$build/tools/bench_kernels" --backend=cuda --benchmark_out="$out/bench_kernels.json"
else
  note bench_kernels "left out: not built (needs Google Benchmark)" 0
fi

# ---------------------------------------------------------------------------------------------------- the table

printf '\n%-14s %-44s %8s\n' step result seconds
for i in "${!names[@]}"; do printf '%-14s %-44s %8d\n' "${names[i]}" "${results[i]}" "${seconds[i]}"; done
say "logs and bench_kernels.json are in $out"
exit "$failed"
