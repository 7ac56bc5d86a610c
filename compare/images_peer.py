#!/usr/bin/env python3
"""PyTorch beside models/resnet50.partita and models/vit.partita: 20 steps from the same parameters on the same images.

Usage: images_peer.py PARTITA. The models are written out again here, from their papers; the order of samples is drawn as in
torch_peer.py. The small ResNet is compared in f64: batch norm over few samples multiplies what f32 rounds. Exits with 1 if a loss differs by more than 1e-4, relative.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F

from torch_peer import Samples, layers, linear, read_safetensors

WORK = Path("target/compare")
STEPS, SEED, BATCH, COUNT = 20, 3, 8, 64
TOLERANCE = 1e-4


def write_images(path, size):
    """COUNT images of 10 classes, each brighter in one row."""
    draw = numpy.random.default_rng(1)
    labels = draw.integers(0, 10, COUNT)
    images = draw.integers(0, 160, (COUNT, size, size, 3))
    images[numpy.arange(COUNT), labels] += 95
    data = images.astype(numpy.uint8).tobytes() + labels.astype(numpy.int64).tobytes()
    end = images.size
    header = {
        "images": {"dtype": "U8", "shape": list(images.shape), "data_offsets": [0, end]},
        "labels": {"dtype": "I64", "shape": [COUNT], "data_offsets": [end, end + 8 * COUNT]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return images, labels


def convolve(x, weight, **how):
    """Kernels are (rows, columns, inputs, outputs) in the model files."""
    return F.conv2d(x, weight.permute(3, 2, 0, 1), **how)


def resnet50(p, pixels):
    def normed(x, prefix):
        return F.batch_norm(x, None, None, p[prefix + ".gain"], p[prefix + ".bias"], training=True)

    def block(x, prefix, stride=1):
        y = F.relu(normed(convolve(x, p[prefix + "reduce"][None, None]), prefix + "batch_norm"))
        y = F.relu(normed(convolve(y, p[prefix + "filter"], stride=stride, padding=1), prefix + "batch_norm_2"))
        y = normed(convolve(y, p[prefix + "expand"][None, None]), prefix + "batch_norm_3")
        if prefix + "project" in p:
            x = normed(convolve(x, p[prefix + "project"], stride=stride), prefix + "batch_norm_4")
        return F.relu(x + y)

    # the blocks of later stages have numbers behind their parameters' names
    p = {re.sub(r"(stage.*)_\d+$", r"\1", name): value for name, value in p.items()}
    x = (pixels.permute(0, 3, 1, 2) - 0.45) / 0.225
    x = F.relu(normed(convolve(x, p["filter"], stride=2, padding=3), "batch_norm"))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
        x = block(x, "entry." if stage == 1 else f"entry_{stage}.", 1 if stage == 1 else 2)
        repeated = [name for name in p if name.startswith(f"stage{stage}.") and name.endswith(".reduce")]
        for name in sorted(repeated, key=lambda name: int(name.split(".")[1])):
            x = block(x, name.removesuffix("reduce"))
    return x.mean((2, 3)) @ p["head"] + p["head_bias"]


def vit(p, pixels):
    patch, _, _, hidden = p["embed"].shape
    x = convolve(((pixels - 0.5) / 0.5).permute(0, 3, 1, 2), p["embed"], stride=patch).flatten(2).transpose(1, 2) + p["embed_bias"]
    x = torch.cat([p["token"].expand(len(x), 1, hidden), x], 1) + p["wpe"]
    batch, seq, _ = x.shape
    for w in layers(p):
        heads, head_dim = w["wq"].shape[1:]
        y = F.layer_norm(x, (hidden,), w["gain1"], w["bias1"], 1e-6)
        q, k, v = (linear(y, w["w" + n], w["b" + n]).view(batch, seq, heads, head_dim).transpose(1, 2) for n in "qkv")
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, seq, -1)
        x = x + linear(a, w["wo"].flatten(0, 1), w["bo"])
        y = F.layer_norm(x, (hidden,), w["gain2"], w["bias2"], 1e-6)
        x = x + linear(F.gelu(linear(y, w["w_up"], w["b_up"]), approximate="tanh"), w["w_down"], w["b_down"])
    return F.layer_norm(x, (hidden,), p["gain"], p["bias"], 1e-6)[:, 0] @ p["head"] + p["head_bias"]


def theirs(forward, weights, images, labels, optimizer, clip):
    p = read_safetensors(weights)
    dtype = next(iter(p.values())).dtype
    update = optimizer([value.requires_grad_() for value in p.values()])
    order = Samples.__new__(Samples)
    order.count, order.seed = COUNT, SEED
    losses = []
    for step in range(STEPS):
        picked = [order.window(step * BATCH + n) for n in range(BATCH)]
        pixels = torch.from_numpy(images[picked]).to(dtype) / 255
        update.zero_grad()
        loss = F.cross_entropy(forward(p, pixels), torch.from_numpy(labels[picked]))
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(p.values(), clip)
        update.step()
        losses.append(loss.item())
    return losses


def ours(partita, name, model, data, sets):
    plan, weights, log = WORK / name, WORK / f"{name}.safetensors", WORK / "run.jsonl"

    def run(*command):
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)

    sets = [part for entry in sets for part in ("--set", entry)]
    run(partita, "compile", f"models/{model}.partita", "--cluster", "clusters/local-1.toml", *sets, "-o", plan, "-q")
    run(partita, "run", plan, "--data", data, "--seed", SEED, "--steps", 0, "--save", weights, "-q")
    log.unlink(missing_ok=True)
    run(partita, "run", plan, "--data", data, "--seed", SEED, "--steps", STEPS, "--init", weights, "--log", log, "-q")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return weights, [row["loss"] for row in rows if "loss" in row]


def main():
    partita = sys.argv[1]
    WORK.mkdir(parents=True, exist_ok=True)
    failed = False
    small = ["image=32", "width=8", "blocks1=2", "blocks2=1", "blocks3=2", "blocks4=1", "decay=0", f"batch={BATCH}"]
    sgd = lambda values: torch.optim.SGD(values, lr=0.05, momentum=0.9)
    adamw = lambda values: torch.optim.AdamW(values, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    cases = [
        ("resnet50 in f64", "resnet50", resnet50, [*small, "lr=0.05", "precision=f64"], sgd, None),
        ("vit", "vit", vit, ["image=32", "layers=2", "hidden=64", f"batch={BATCH}"], adamw, 1.0),
    ]
    for title, model, forward, sets, optimizer, clip in cases:
        data = WORK / "images.safetensors"
        images, labels = write_images(data, 32)
        weights, here = ours(partita, title.replace(" ", "-"), model, data, sets)
        there = theirs(forward, weights, images, labels, optimizer, clip)
        worst = max(abs(a - b) / abs(b) for a, b in zip(here, there, strict=True))
        print(f"{title:16} losses {here[0]:.4f} to {here[-1]:.4f}, largest difference {worst:.1e}")
        failed |= worst > TOLERANCE
    sys.exit(failed)


if __name__ == "__main__":
    main()
