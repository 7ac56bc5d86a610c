#!/usr/bin/env bash
# What plans are expected to take and to fill beside what runs of them do, with a cluster file that `partita profile` writes first.
# Prints a table: model, plan, step predicted, measured (the median of all runs) and off, the fastest step, memory planned, measured and off.
# Rounds go over all plans in turn, so that other work on the machine meets all alike; its load stands in the last line.
# Usage: scripts/predict.sh [profile.toml], STEPS=10 and ROUNDS=2 by default. Run by `make predictions`; takes ten minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/.."

partita=${CARGO_TARGET_DIR:-target}/release/partita
steps=${STEPS:-10} rounds=${ROUNDS:-2}
work=target/predict
rm -rf "$work"
mkdir -p "$work"
load=$(cut -d' ' -f1-3 /proc/loadavg)
if [ $# -gt 0 ]; then cp "$1" "$work/profile.toml"; else "$partita" profile -q -o "$work/profile.toml"; fi

small=(--set layers=4 --set hidden=256 --set heads=8 --set seq=256 --set batch=8)
plans=() # name|model|pins|sizes
for model in gpt llama; do
    for pins in dp=1 dp=2 tp=2 pp=2 dp=4 tp=4 pp=4 dp=2,tp=2 dp=2,pp=2; do
        plans+=("$model 256|$model|$pins|small")
    done
    for pins in dp=1 dp=2 tp=2 pp=2 dp=4 tp=4; do
        plans+=("$model|$model|$pins|usual")
    done
done
for at in "${!plans[@]}"; do
    IFS='|' read -r name model pins sizes <<<"${plans[$at]}"
    [[ -z ${ONLY:-} || "$name $pins" =~ $ONLY ]] || { unset "plans[$at]" && continue; }
    ranks=1
    for pin in ${pins//,/ }; do ranks=$((ranks * ${pin#*=})); done
    for degree in dp tp cp pp; do [[ $pins == *$degree=* ]] || pins+=,$degree=1; done
    sed "s/^count = .*/count = $ranks/" "$work/profile.toml" >"$work/cluster.toml"
    set=()
    [ "$sizes" = small ] && set=("${small[@]}")
    "$partita" compile "models/$model.partita" --cluster "$work/cluster.toml" "${set[@]}" --pin "$pins" -o "$work/$at" -q
done
for _ in $(seq "$rounds"); do
    for at in "${!plans[@]}"; do
        "$partita" run "$work/$at" --steps "$steps" --log "$work/run.jsonl" --format json -q >"$work/$at.json"
        # the first step meets cold memory
        grep -o '"seconds":[0-9.e-]*' "$work/run.jsonl" | cut -d: -f2 | tail -n +2 >>"$work/$at.seconds"
    done
done
printf '%-10s %-10s %9s %9s %7s %9s %8s %8s %6s\n' model plan predicted measured off fastest planned grown off
for at in "${!plans[@]}"; do
    IFS='|' read -r name _ pins _ <<<"${plans[$at]}"
    python3 - "$name" "$pins" "$work/$at.json" "$work/$at.seconds" <<'PY'
import json, statistics, sys
name, pins, summary, seconds = sys.argv[1:]
run = json.load(open(summary))
seconds = [float(line) for line in open(seconds)]
predicted, measured = run["predicted_seconds"], statistics.median(seconds)
planned, (before, peak) = sum(run["arena_bytes"]) / 2**20, run["anonymous_bytes"]
grown = (peak - before) / 2**20
print(f"{name:10} {pins:10} {predicted*1e3:6.0f} ms {measured*1e3:6.0f} ms {100*(predicted/measured-1):+6.1f}% {min(seconds)*1e3:6.0f} ms"
      f" {planned:4.0f} MiB {grown:4.0f} MiB {100*(planned/grown-1):+5.1f}%")
PY
done
echo "load before $load, after $(cut -d' ' -f1-3 /proc/loadavg); $((steps - 1)) steps in each of $rounds rounds"
