#!/usr/bin/env bash
# What plans are expected to take and to fill beside what runs of them do, with a cluster file that `partita profile` writes first.
# Prints a table: model, plan, step predicted, measured (the median of the rounds' medians) and off, what others took, the slowest
# round's median, the fastest step, memory planned, measured and off. Rounds go over all plans in turn.
# Usage: scripts/predict.sh [profile.toml], STEPS=10 and ROUNDS=3 by default. Run by `make predictions`; takes five minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/.."

partita=${CARGO_TARGET_DIR:-target}/release/partita
steps=${STEPS:-10} rounds=${ROUNDS:-3}
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
table=()
for at in "${!plans[@]}"; do table+=("$at|${plans[$at]}"); done
python3 - "$partita" "$work" "$steps" "$rounds" "${table[@]}" <<'PY'
import json, os, resource, statistics, subprocess, sys, time
partita, work, steps, rounds, *table = sys.argv[1:]
tick = os.sysconf("SC_CLK_TCK")

def machine():
    user, nice, system, _, _, irq, soft, steal = (int(word) for word in open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / tick

def own():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

found = {line: [] for line in table}
for _ in range(int(rounds)):
    for line in table:
        at = line.split("|")[0]
        before, mine, started = machine(), own(), time.time()
        out = subprocess.run([partita, "run", f"{work}/{at}", "--steps", steps, "--log", f"{work}/run.jsonl", "--format", "json", "-q"],
                             check=True, stdout=subprocess.PIPE).stdout
        others = (machine() - before - (own() - mine)) / (time.time() - started)
        # the first step meets cold memory
        seconds = [json.loads(step)["seconds"] for step in open(f"{work}/run.jsonl")][1:]
        found[line].append((others, statistics.median(seconds), min(seconds), json.loads(out)))
print(f"{'model':10} {'plan':10} {'predicted':>9} {'measured':>9} {'off':>7} {'others':>7} {'slowest':>9} {'fastest':>9}"
      f" {'planned':>8} {'grown':>8} {'off':>6}")
for line, runs in found.items():
    _, name, _, pins, _ = line.split("|")
    others, measured, _, run = min(runs, key=lambda run: run[0])
    predicted, every, fastest = run["predicted_seconds"], statistics.median(r[1] for r in runs), min(r[2] for r in runs)
    planned, (before, peak) = sum(run["arena_bytes"]) / 2**20, run["anonymous_bytes"]
    grown = (peak - before) / 2**20
    print(f"{name:10} {pins:10} {predicted*1e3:6.1f} ms {measured*1e3:6.1f} ms {100*(predicted/measured-1):+6.1f}% {others:4.2f} c {slowest*1e3:7.1f} ms"
          f" {fastest*1e3:6.1f} ms {planned:4.0f} MiB {grown:4.0f} MiB {100*(planned/grown-1):+5.1f}%")
PY
echo "load before $load, after $(cut -d' ' -f1-3 /proc/loadavg); medians of $((steps - 1)) steps, the median of $rounds rounds; others: cores that other work took meanwhile"
