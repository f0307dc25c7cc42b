#!/usr/bin/env bash
# The main job on one machine: text to perplexity, with a full and a partial pipeline over 12 nodes in 5 regions.
set -euo pipefail
export LC_ALL=C.UTF-8

usage() {
  cat <<END
usage: tools/demo.sh [--text FILE] [--iterations N] [--out FOLDER]

Installs what is missing, builds, prepares text, plans, trains a small model with a full and with a partial pipeline
over 12 node processes in 5 emulated regions, evaluates both with stages left out, and prints a table.

  --text FILE      train on this UTF-8 text instead of the King James Bible
  --iterations N   optimizer steps of each of the two runs (default: 150)
  --out FOLDER     where everything goes (default: runs/demo)
END
}

fail_usage() {
  echo "demo: $1" >&2
  usage >&2
  exit 2
}

repository=$(cd "$(dirname "$0")/.." && pwd)
text=
iterations=150
out=$repository/runs/demo
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --text | --iterations | --out) [ $# -ge 2 ] || fail_usage "$1 needs a value" ;;&
    --text) text=$(realpath -m "$2") ;;
    --iterations) iterations=$2 ;;
    --out) out=$(realpath -m "$2") ;;
    *) fail_usage "unknown option '$1'" ;;
  esac
  shift 2
done
[[ $iterations =~ ^[1-9][0-9]*$ ]] || fail_usage "--iterations: found '$iterations', expected a positive number"
if [ -n "$text" ] && [ ! -r "$text" ]; then
  echo "demo: $text: cannot read" >&2
  exit 1
fi

# The job: what both runs share.
samples=4 tokens=128 microbatches=6 data_nodes=2 stages=6

begin=$SECONDS
say() { printf '\n[%d:%02d] %s\n' $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)) "$1"; }

cd "$repository"
tools/setup.sh
begin=$SECONDS
say "Building"
cmake --preset release >/dev/null
cmake --build --preset release --target skippipe
skippipe=$repository/build/release/skippipe

mkdir -p "$out"
cd "$out"

say "Preparing text"
if [ -z "$text" ]; then
  text=text.txt
  bible 'gen1:1-rev22:21' >text.txt
fi
"$skippipe" tokenizer --vocabulary 1000 --out tokenizer.model "$text"
# Some hundred documents, of which one in twenty is for validation.
lines=$(wc -l <"$text")
document_lines=$((lines < 400 ? 1 : lines > 40000 ? 100 : lines / 400))
"$skippipe" tokenize --tokenizer tokenizer.model --out tokens --document-lines $document_lines "$text"
cp "$repository/examples/config.json" config.json
# What is measured of it while training goes on; a short text has less.
held_out=$("$skippipe" inspect tokens/validation.tokens |
  awk -v tokens=$tokens '$1 == "tokens" { samples = int(($2 - 1) / tokens); print samples < 32 ? samples : 32 }')

say "Measuring this machine"
"$skippipe" probe --config config.json --samples $samples --tokens $tokens --layers-per-stage 1 --max-slots 3 \
  --network "$repository/examples/five-regions.json" --out network.json

for method in full joint; do
  say "Planning: $method"
  "$skippipe" plan --network network.json --method $method --nodes-per-stage 2,2,2,2,2,2 --microbatches $microbatches \
    --samples $samples --tokens $tokens --model config.json --out $method.json --timeline $method-timeline.svg
  cat >$method.toml <<END
[run]
iterations = $iterations
output = "$method"

[model]
config = "config.json"

[data]
train = "tokens/train.tokens"
validation = "$([ "$held_out" -eq 0 ] || echo tokens/validation.tokens)"
samples = $samples
tokens = $tokens

[validation]
interval = 50
samples = $((held_out > 0 ? held_out : 1))

[plan]
file = "$method.json"
network = "network.json"

[optimizer]
learning_rate = 3e-3
warmup_iterations = $((iterations / 10))

[network]
emulate_links = true
END
done

for method in full joint; do
  say "Training: $method"
  rm -rf "$method" # of an earlier demo: a run does not begin anew where checkpoints are
  "$skippipe" launch --trace $method.toml
done

for method in full joint; do
  say "Evaluating: $method"
  "$skippipe" eval --model $method --data tokens/validation.tokens --tokens $tokens --samples 64 \
    --skip 0.3333,0.5 --choices 6
done

# The first iteration starts cold and is not counted, unless it is the only one.
measured_s() { jq -s '(if length > 1 then .[1:] else . end) | map(.seconds) | add / length' $1/metrics.jsonl; }
predicted_s() { jq .predicted.steady_iteration_s $1.json; }
perplexity() { jq ".results[$2].perplexity" $1/evaluation.json; }
row() { printf '| %-30s | %8s | %8s |\n' "$@"; }
# row_of LABEL FORMAT FUNCTION [ARGUMENT]: FUNCTION's figure for both methods
row_of() {
  local full joint
  full=$($3 full ${4-})
  joint=$($3 joint ${4-})
  row "$1" "$(printf "$2" "$full")" "$(printf "$2" "$joint")"
}
tokens_per_s() { jq -n "$samples * $tokens * $microbatches * $data_nodes / $(measured_s $1)"; }
difference() { jq -n "100 * ($(measured_s $1) / $(predicted_s $1) - 1)"; }
{
  row "" full joint
  echo "| ------------------------------ | -------: | -------: |"
  row_of "seconds per iteration, measured" %.3f measured_s
  row_of "seconds per iteration, planned" %.3f predicted_s
  row_of "difference" "%+.1f %%" difference
  row_of "tokens per second" %.0f tokens_per_s
  row_of "perplexity, all stages" %.1f perplexity 0
  row_of "perplexity, a third left out" %.1f perplexity 1
  row_of "perplexity, half left out" %.1f perplexity 2
} >summary.md

say "Done: $iterations iterations each, 12 nodes, $stages stages; joint leaves out a third of them on every path"
cat summary.md
echo
"$skippipe" report full joint --out report.html >/dev/null
echo "Open $out/report.html in a browser: curves, timelines, links, memory and settings of both runs."
echo "Open $out/joint/trace.json in https://ui.perfetto.dev to see what every node did."
