#!/usr/bin/env python3
"""partita beside PyTorch on this machine: losses and first gradients from the same parameters, and step times.

usage: compare.py PARTITA      (the program; run by `make compare`, in the environment of compare/setup.sh)

Losses and gradients: 20 steps of gpt, of llama and of lstm from one file of parameters and one file of tokens. Step times: gpt,
one rank on all cores, in alternating runs so that a slow minute of the machine hits both; medians of the runs' medians.
Exits with 1 if losses or gradients differ by more than 1e-4; times are only shown.
"""

import json
import pathlib
import shutil
import statistics
import sys

from program import SEED, STEPS, THREADS, TOLERANCE, WORK, compiled, partita_run, run, worst_difference, write_tokens

HERE = pathlib.Path(__file__).parent
TOKENS = WORK / "tokens.bin"
BATCH, SEQ, VOCAB, ROUNDS = 8, 256, 8192, 5
SIZES = {"layers": 4, "hidden": 256, "ffn": 1024, "vocab": VOCAB, "seq": SEQ, "batch": BATCH, "precision": "f32", "dropout": 0}
MODELS = {"gpt": SIZES | {"heads": 4}, "llama": SIZES | {"heads": 8, "kv_heads": 2}}
MODELS["lstm"] = {name: value for name, value in SIZES.items() if name != "ffn"} | {"layers": 2, "lr": 3e-4, "width": 0.2}
OPTIMIZERS = {"sgd": 0.05, "adam": 1e-3, "adafactor": 1e-2, "muon": 3e-3}


def torch_run(model, weights, *options):
    shared = ["--data", TOKENS, "--seq", SEQ, "--batch", BATCH, "--seed", SEED, "--threads", THREADS]
    return json.loads(run(sys.executable, HERE / "torch_peer.py", "--model", model, "--weights", weights, *shared, *options))


def main():
    write_tokens(TOKENS, STEPS * BATCH * SEQ + 1, VOCAB)
    failed = False
    print(f"{STEPS} steps from the same parameters, and the first step's gradients; allowed: {TOLERANCE:g}")
    print(f"{'model':8} {'first loss':>12} {'last loss':>12} {'loss error':>12} {'gradient error':>15}")
    for model, settings in MODELS.items():
        directory, weights = compiled(model, model, settings), WORK / f"{model}.safetensors"
        partita_run(directory, TOKENS, "--steps", 0, "--save", weights)
        checkpoints = WORK / f"{model}-checkpoints"
        # a new run refuses a directory that holds checkpoints
        shutil.rmtree(checkpoints, ignore_errors=True)
        partita_run(directory, TOKENS, "--steps", 1, "--init", weights, "--checkpoint", checkpoints)
        ours = [step["loss"] for step in partita_run(directory, TOKENS, "--steps", STEPS, "--init", weights)]
        theirs = torch_run(model, weights, "--steps", STEPS, "--state", checkpoints / "step-00000001" / "state.safetensors")
        loss_error = worst_difference(ours, theirs["losses"])
        gradient_error = theirs["gradient_error"]
        failed |= not (loss_error <= TOLERANCE and gradient_error <= TOLERANCE)
        print(f"{model:8} {ours[0]:12.6f} {ours[-1]:12.6f} {loss_error:12.2e} {gradient_error:15.2e}", flush=True)

    print(f"\n{STEPS} steps of gpt under other optimizers, from the same parameters")
    for word, rate in OPTIMIZERS.items():
        directory = compiled("gpt", f"gpt-{word}", MODELS["gpt"] | {"optimizer": word, "lr": rate})
        weights = WORK / "gpt.safetensors"
        ours = [step["loss"] for step in partita_run(directory, TOKENS, "--steps", STEPS, "--init", weights)]
        theirs = torch_run("gpt", weights, "--steps", STEPS, "--optimizer", word, "--lr", rate)["losses"]
        loss_error = worst_difference(ours, theirs)
        failed |= not loss_error <= TOLERANCE
        print(f"{word:9} {ours[0]:12.6f} {ours[-1]:12.6f} {loss_error:12.2e}", flush=True)

    model, weights, times = "gpt", WORK / "gpt.safetensors", {"partita": [], "PyTorch": []}
    for _ in range(ROUNDS):
        log = partita_run(WORK / model, TOKENS, "--steps", 8, "--init", weights)
        times["partita"].append(statistics.median(step["seconds"] for step in log[1:]))
        peer = torch_run(model, weights, "--steps", 8)
        times["PyTorch"].append(peer["step_seconds"])
    print(f"\nstep of {model}, one rank on {THREADS} threads, {ROUNDS} alternating runs (PyTorch {peer['torch']}, eager)")
    print(f"{'':8} {'median':>10} {'fastest':>10} {'slowest':>10} {'tokens/s':>10}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        shown = " ".join(f"{1e3 * value:7.1f} ms" for value in (median, min(seconds), max(seconds)))
        print(f"{name:8} {shown} {BATCH * SEQ / median:10.0f}")
    ratio = statistics.median(times["partita"]) / statistics.median(times["PyTorch"])
    print(f"partita takes {ratio:.2f} times as long")
    sys.exit(1 if failed else 0)


main()
