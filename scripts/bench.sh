#!/usr/bin/env bash
# Step times of one model under several layouts, measured beside predicted, in one table. The layouts take turns, so that a
# slow minute of the machine hits them all; each figure is the median of ROUNDS runs' medians (3 by default), each of a
# run's steps without the first. Usage: scripts/bench.sh [MODEL] (gpt by default), STEPS=8 by default.
set -euo pipefail
cd "$(dirname "$0")/.."

partita=${CARGO_TARGET_DIR:-target}/release/partita
model=${1:-gpt}
steps=${STEPS:-8}
rounds=${ROUNDS:-3}
settings=(--set layers=4 --set hidden=256 --set heads=4 --set ffn=1024 --set vocab=8192 --set seq=256 --set batch=8 --set precision=f32)
mkdir -p target/bench

# median: of numbers, one a line
median() {
    sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# numbers FILE KEY: those under that key, the first line left out
numbers() {
    tail -n +2 "$1" | grep -o "\"$2\":[^,}]*" | cut -d: -f2
}

layouts=()
while read -r cluster threads pins; do
    out=target/bench/$model-$cluster-${pins//[=,]/}
    "$partita" compile "models/$model.partita" --cluster "clusters/$cluster.toml" "${settings[@]}" --pin "$pins" -o "$out" >/dev/null
    rm -f "$out".seconds
    layouts+=("$out $threads $cluster $pins")
done <<'LAYOUTS'
local-1 2 dp=1
local-2 1 dp=2
local-2 1 tp=2
local 1 dp=4
local 1 tp=4
local-8 1 dp=8,zero=1
local-8 1 tp=8
local-8 1 dp=4,tp=2
LAYOUTS

for _ in $(seq "$rounds"); do
    for layout in "${layouts[@]}"; do
        read -r out threads _ <<<"$layout"
        "$partita" run "$out" --steps "$steps" --threads "$threads" --log "$out.jsonl" >/dev/null
        numbers "$out.jsonl" seconds | median >>"$out.seconds"
    done
done

printf '%-28s %10s %10s\n' "$model, $(nproc) cores" 'measured s' 'predict. s'
for layout in "${layouts[@]}"; do
    read -r out _ cluster pins <<<"$layout"
    printf '%-28s %10.4f %10.4f\n' "$cluster $pins" "$(median <"$out.seconds")" "$(numbers "$out.jsonl" predicted_seconds | median)"
done
