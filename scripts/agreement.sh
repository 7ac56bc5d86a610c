#!/usr/bin/env bash
# Every plan trains as one rank does: 20 steps of gpt, llama (with and without adapters) and t5 under many plans, with dropout, losses beside those of a
# single rank. Exits with 1 if a loss differs by more than 1e-4, relative, or a run does not repeat to the byte.
# Takes a quarter of an hour on 2 cores. Usage: scripts/agreement.sh [optimizers | precision], STEPS=20 by default; a word runs that part
# only. Run by `make agreement`.
set -euo pipefail
cd "$(dirname "$0")/.."

partita=${CARGO_TARGET_DIR:-target}/release/partita
steps=${STEPS:-20}
work=target/agreement
rm -rf "$work"
mkdir -p "$work"
sizes=(--set layers=4 --set hidden=256 --set ffn=1024 --set vocab=8192 --set seq=256 --set batch=8 --set precision=f32 --set dropout=0.1)
extra=()
failed=0

# train MODEL PINS LOG [option]...: on as many ranks as the degrees multiply to
train() {
    local model=$1 pins=$2 log=$3 ranks=1 heads pin
    shift 3
    for pin in ${pins//,/ }; do
        case $pin in dp=* | tp=* | cp=* | pp=*) ranks=$((ranks * ${pin#*=})) ;; esac
    done
    printf 'name = "agreement"\n[device]\nkind = "cpu-core"\ncores = %s\n[[level]]\nname = "threads"\ncount = %s\n' \
        "$(nproc)" "$ranks" >"$work/cluster.toml"
    heads=(--set heads=4)
    [ "$model" = llama ] && heads=(--set heads=8 --set kv_heads=2)
    "$partita" compile "models/$model.partita" --cluster "$work/cluster.toml" "${sizes[@]}" "${heads[@]}" "${extra[@]}" --pin "$pins" \
        -o "$work/plan" -q
    "$partita" run "$work/plan" --steps "$steps" --seed 1 --log "$log" -q "$@"
}

# losses LOG: one a line
losses() {
    grep -o '"loss":[^,}]*' "$1" | cut -d: -f2
}

# compare MODEL PINS: the largest relative difference to one rank
compare() {
    local worst
    train "$1" "$2" "$work/run.jsonl"
    worst=$(paste <(losses "$work/$1.jsonl") <(losses "$work/run.jsonl") | awk -v steps="$steps" '
        { d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > worst) worst = d; n++ }
        END { if (n != steps) print "missing"; else printf "%.1e", worst }')
    local verdict=ok
    awk -v worst="$worst" 'BEGIN { exit !(worst == "missing" || worst + 0 > 1e-4) }' && verdict=WRONG && failed=1
    printf '%-6s %-44s %8s  %s\n' "$1" "$2" "$worst" "$verdict"
}

# each PINS...: with every ZeRO stage and recompute setting that means something there
each() {
    local pins zero recompute
    for pins in "$@"; do
        for zero in 0 1 3; do
            case $pins in *dp=* | *cp=*) ;; *) [ $zero = 0 ] || continue ;; esac
            for recompute in none full; do
                compare gpt "$pins,zero=$zero,recompute=$recompute"
            done
        done
    done
}

# repeats PINS: twice the same run
repeats() {
    local n
    for n in 1 2; do
        train gpt "$1" "$work/repeat-$n.jsonl" --save "$work/repeat-$n.safetensors"
    done
    if cmp -s <(losses "$work/repeat-1.jsonl") <(losses "$work/repeat-2.jsonl") &&
        cmp -s "$work/repeat-1.safetensors" "$work/repeat-2.safetensors"; then
        printf '%-6s %-44s twice the same losses and saved bytes\n' gpt "$1"
    else
        printf '%-6s %-44s two runs DIFFER\n' gpt "$1"
        failed=1
    fi
}

# optimizers RATE WORD...: small models, under the plans that split what norms are taken of
optimizers() {
    local rate=$1 word pins
    shift
    for word in "$@"; do
        extra=(--set "optimizer=$word" --set "lr=$rate" --set hidden=128 --set ffn=512 --set vocab=1024 --set seq=64)
        echo "with $word:"
        train gpt dp=1 "$work/gpt.jsonl"
        for pins in tp=2 tp=4 dp=2,zero=1 dp=2,zero=3 dp=2,tp=2,zero=1 dp=4,zero=3 pp=2,mbs=2 pp=2,dp=2,zero=1,mbs=2; do
            compare gpt "$pins"
        done
    done
    extra=()
}

# beside A B: the largest relative difference of two logs' losses
beside() {
    paste <(losses "$1") <(losses "$2") | awk -v steps="$steps" '
        { d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > worst) worst = d; n++ }
        END { if (n != steps) print "missing"; else printf "%.1e", worst }'
}

# precision: small models in 16 bits, beside f32 (bar 2e-2) and each plan beside one rank (bar 2e-3)
precision() {
    local model word pins wide one verdict
    for model in gpt llama; do
        extra=(--set hidden=128 --set ffn=512 --set vocab=1024 --set seq=64 --set lr=1e-3)
        train "$model" dp=1 "$work/$model-f32.jsonl"
        for word in bf16 fp16; do
            extra+=(--set "precision=$word")
            train "$model" dp=1 "$work/$model.jsonl"
            for pins in dp=1 dp=2 tp=2 dp=2,zero=1 dp=2,zero=3 pp=2,mbs=2 tp=2,dp=2; do
                train "$model" "$pins" "$work/run.jsonl"
                wide=$(beside "$work/$model-f32.jsonl" "$work/run.jsonl")
                one=$(beside "$work/$model.jsonl" "$work/run.jsonl")
                verdict=ok
                awk -v wide="$wide" -v one="$one" 'BEGIN { exit !(wide == "missing" || wide + 0 > 2e-2 || one + 0 > 2e-3) }' &&
                    verdict=WRONG && failed=1
                printf '%-6s %-5s %-20s %8s of f32, %8s of one rank  %s\n' "$model" "$word" "$pins" "$wide" "$one" "$verdict"
            done
        done
    done
    extra=()
}

if [ "${1:-}" = precision ]; then
    precision
    exit $failed
fi
printf '%-6s %-44s %8s\n' model plan "worst of $steps losses"
optimizers 0.003 adam adafactor lamb lion muon
optimizers 1 lars
[ "${1:-}" = optimizers ] && exit $failed
precision
train gpt dp=1 "$work/gpt.jsonl"
compare gpt dp=1,recompute=full
each dp=2 dp=4 tp=4 tp=4,sp=true dp=2,tp=2 cp=2 pp=2,mbs=1 pp=4,mbs=1 pp=2,dp=2,tp=2,mbs=1 dp=3
for pins in tp=3 cp=3 pp=3,mbs=1 dp=8,zero=1 tp=8 dp=4,tp=2 cp=2,tp=2,dp=2 cp=8; do
    compare gpt "$pins"
done
train llama dp=1 "$work/llama.jsonl"
for pins in tp=4 tp=4,sp=true,recompute=full tp=8 dp=2,tp=2,zero=3 cp=2 pp=2,dp=2,tp=2,mbs=1; do
    compare llama "$pins"
done
extra=(--set lora=8)
train llama dp=1 "$work/llama.jsonl"
for pins in tp=2 dp=2,zero=3 pp=2,mbs=2; do
    compare llama "$pins"
done
extra=(--set seq=64)
train t5 dp=1 "$work/t5.jsonl"
for pins in tp=2 dp=2 dp=2,zero=3,recompute=full pp=2,mbs=1 pp=4,mbs=2 pp=2,dp=2,tp=2,mbs=1; do
    compare t5 "$pins"
done
extra=()
repeats dp=2,tp=2,zero=1
repeats pp=2,dp=2,mbs=1
exit $failed
