#!/usr/bin/env python3
"""partita beside PyTorch in every term of the loss, on small models: 20 steps from the same parameters and tokens.

usage: curves.py PARTITA [CASE ..]      (run by `make compare`, in the environment of compare/setup.sh)

Each file of peers/ is a model, written out again from its paper:

    CASES   what to compare it at: name -> settings
    STATES  how the names end of what is in the file of parameters but has no gradient
    LARGER  how the names of routers end -> how many times as large they begin, so that few choices hang on rounding
    losses(parameters, tokens, targets, settings)
            the terms of the loss under their names in partita's log, and the weights of their sum; moves the states on

Exits with 1 if a term differs at a step, relatively, or a gradient of the first step, over the largest gradient, by more
than BARS allows. If f32 does and f64 does not, a router's choice hung on rounding all the same: two scores within some
1e-7, which set the curves apart from that step on.
"""

import importlib
import json
import math
import pathlib
import sys

import torch

from program import SEED, STEPS, TOLERANCE, WORK, compiled, partita_run, worst_difference, write_tokens
from torch_peer import CLIP, Samples, optimizers, read_safetensors

HERE = pathlib.Path(__file__).parent
BARS = {"f32": TOLERANCE, "f64": 1e-10}


def torch_run(peer, settings, weights, tokens):
    """The curve of each term, and the first step's gradients before they are clipped."""
    p = read_safetensors(weights)
    trained = {name: value.requires_grad_() for name, value in p.items() if not name.endswith(peer.STATES)}
    samples = Samples(tokens, settings["seq"], SEED)
    (update,) = optimizers("adamw", trained, settings["lr"])
    curves, gradients = {}, None
    for step in range(STEPS):
        update.zero_grad()
        terms, shares = peer.losses(p, *samples.batch(step, settings["batch"]), settings)
        sum(shares[name] * value for name, value in terms.items()).backward()
        gradients = gradients or {name: value.grad.clone() for name, value in trained.items()}
        torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)
        update.step()
        for name, value in terms.items():
            curves.setdefault(name, []).append(value.item())
    return curves, gradients


def write_safetensors(path, tensors):
    header, end = {}, 0
    for name, value in tensors.items():
        dtype, begin, end = {4: "F32", 8: "F64"}[value.element_size()], end, end + value.nbytes
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    data = b"".join(value.numpy().tobytes() for value in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def partita_curves(peer, directory, weights, tokens, gradients):
    partita_run(directory, tokens, "--steps", 0, "--save", weights)
    drawn = read_safetensors(weights)
    for name in drawn:
        drawn[name] *= math.prod(times for word, times in peer.LARGER.items() if name.endswith(word))
    write_safetensors(weights, drawn)
    steps = partita_run(directory, tokens, "--steps", STEPS, "--init", weights, "--gradients", gradients)
    curves = {name: [step["terms"][name] for step in steps] for name in steps[0].get("terms", {})}
    return {"loss": [step["loss"] for step in steps]} | curves


def gradient_error(ours, theirs):
    largest = max(float(value.abs().max()) for value in theirs.values())
    return max(float((ours[name] - value).abs().max()) for name, value in theirs.items()) / largest


def compared(peer, model, settings):
    """What is compared -> how much it differs, its first and its last value."""
    tokens, weights, gradients = (WORK / name for name in ("small.bin", "small.safetensors", "gradients.safetensors"))
    write_tokens(tokens, STEPS * settings["batch"] * settings["seq"] + 1, settings["vocab"])
    ours = partita_curves(peer, compiled(model, "small", settings), weights, tokens, gradients)
    theirs, expected = torch_run(peer, settings, weights, tokens)
    if ours.keys() != theirs.keys():
        sys.exit(f"compare: {model} has the terms {', '.join(ours)}, its peer {', '.join(theirs)}")
    rows = {name: (worst_difference(curve, theirs[name]), curve[0], curve[-1]) for name, curve in ours.items()}
    return rows | {"gradients": (gradient_error(read_safetensors(gradients), expected), None, None)}


def main():
    asked, failed = sys.argv[2:], False
    peers = {path.stem: importlib.import_module(f"peers.{path.stem}") for path in sorted((HERE / "peers").glob("*.py"))}
    if unknown := set(asked) - {case for peer in peers.values() for case in peer.CASES}:
        sys.exit(f"compare: no case {', '.join(sorted(unknown))}")
    # of tensors this small further threads make nothing faster
    torch.set_num_threads(1)
    bars = " and ".join(f"{bar:g} in {precision}" for precision, bar in BARS.items())
    print(f"{STEPS} steps from the same parameters, each term of the loss, and the first step's gradients; allowed: {bars}")
    print(f"{'model':20} {'term':10} {'precision':9} {'first':>10} {'last':>10} {'error':>10}")
    for model, peer in peers.items():
        for case, settings in peer.CASES.items():
            if asked and case not in asked:
                continue
            for precision, bar in BARS.items():
                for name, (error, *ends) in compared(peer, model, settings | {"precision": precision}).items():
                    failed |= not error <= bar
                    shown = " ".join(" " * 10 if end is None else f"{end:10.6f}" for end in ends)
                    print(f"{case:20} {name:10} {precision:9} {shown} {error:10.1e}", flush=True)
    sys.exit(failed)


main()
