#!/usr/bin/env bash
# Fuzzes the parsers of tests/fuzz with libFuzzer, each for some seconds (default: 10), beginning with the corpus in tests/fuzz.
# Without clang++ it says so and does nothing: the tests run over the corpus in any case.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
if ! command -v clang++ >/dev/null; then
  echo "fuzz: clang++ is not installed (Debian: clang): skipped"
  exit 0
fi
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz
for corpus in tests/fuzz/corpus/*; do
  target=fuzz_$(basename "$corpus")
  found=build/fuzz/found/$target
  mkdir -p "$found"
  log=build/fuzz/$target.log
  # What is found goes to the first folder; the corpus is only read. A crash is saved beside the log and ends the script.
  if ! build/fuzz/tests/fuzz/$target -max_total_time=$seconds -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
    -artifact_prefix=build/fuzz/crash-$target- -print_final_stats=1 -print_funcs=0 "$found" "$corpus" >"$log" 2>&1; then
    tail -n 40 "$log"
    exit 1
  fi
  echo "$target: $(grep -oP 'number_of_executed_units: \K.*' "$log") inputs in $seconds s, nothing found"
done
