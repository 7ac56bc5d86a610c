#!/usr/bin/env bash
# Every plan trains as one rank does: 20 steps of the models of `models/` under many plans, losses beside those of a single rank.
# Exits with 1 if a loss differs by more than 1e-4, relative (16 bits: see `precision`), or a run does not repeat to the byte.
# Takes half an hour on 2 cores. Usage: scripts/agreement.sh [PART ...], STEPS=20 by default; parts: optimizers, precision, dense,
# experts, others. Run by `make agreement`.
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
    case $model in
    gpt | t5) heads=("${sizes[@]}" --set heads=4) ;;
    llama) heads=("${sizes[@]}" --set heads=8 --set kv_heads=2) ;;
    *) heads=() ;;
    esac
    "$partita" compile "models/$model.partita" --cluster "$work/cluster.toml" "${heads[@]}" "${extra[@]}" --pin "$pins" \
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
    printf '%-8s %-42s %8s  %s\n' "$1" "$2" "$worst" "$verdict"
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

# dense: gpt and llama, with dropout
dense() {
    local pins
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
    repeats tp=2,dp=2
}

# under MODEL PINS...: a model beside one rank
under() {
    local model=$1 pins
    shift
    train "$model" dp=1 "$work/$model.jsonl"
    for pins in "$@"; do
        compare "$model" "$pins"
    done
}

# experts: where none is dropped, and where one in six is
experts() {
    local model capacity small=(--set layers=2 --set hidden=64 --set heads=4 --set ffn=64 --set seq=64 --set batch=8 --set lr=3e-3)
    local plans=(dp=2 dp=2,ep=2 dp=4,ep=4 dp=4,ep=2 tp=2,ep=2,etp=1 dp=2,tp=2,ep=2,etp=1 dp=2,tp=2,ep=2,etp=2 dp=2,tp=2,ep=4,etp=1
        pp=2,dp=2,ep=2,mbs=2 dp=2,ep=2,zero=1 dp=2,ep=2,zero=3 dp=4,tp=2,ep=4,etp=2,zero=1 pp=2,dp=4,ep=4,mbs=1)
    for model in mixtral deepseek glam; do
        for capacity in 4.0 1.0; do
            echo "$model with capacity=$capacity:"
            extra=("${small[@]}" --set "capacity=$capacity")
            under "$model" "${plans[@]}"
        done
    done
    extra=()
}

# others: adapters, encoder and decoder, scans, windows. Batch norm of few samples multiplies what f32 rounds: f64.
others() {
    extra=(--set lora=8)
    under llama tp=2 dp=2,zero=3 pp=2,mbs=2
    extra=(--set seq=64)
    under t5 tp=2 dp=2 dp=2,zero=3,recompute=full pp=2,mbs=1 pp=4,mbs=2 pp=2,dp=2,tp=2,mbs=1
    extra=(--set hidden=64 --set seq=32 --set dropout=0.1 --set batch=8)
    under lstm dp=2 tp=2 dp=2,zero=3 pp=2,mbs=2 dp=2,tp=2 dp=4
    extra=(--set image=32 --set width=8 --set batch=8 --set precision=f64)
    under resnet50 dp=2 cp=2 dp=4 dp=2,cp=2
    extra=(--set image=32 --set patch=8 --set layers=2 --set hidden=64 --set heads=4 --set batch=8)
    under vit dp=2 tp=2 cp=2 dp=2,tp=2,zero=1 pp=2,mbs=2
    extra=()
}

parts=("$@")
[ $# = 0 ] && parts=(optimizers precision dense experts others)
printf '%-8s %-42s %8s\n' model plan "worst of $steps losses"
for part in "${parts[@]}"; do
    case $part in
    optimizers)
        optimizers 0.003 adam adafactor lamb lion muon
        optimizers 1 lars
        ;;
    precision | dense | experts | others) "$part" ;;
    *)
        echo "no part is called $part: optimizers, precision, dense, experts, others" >&2
        exit 2
        ;;
    esac
done
exit $failed
