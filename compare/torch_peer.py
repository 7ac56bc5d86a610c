#!/usr/bin/env python3
"""PyTorch training models/gpt.partita, models/llama.partita or models/lstm.partita: the peer that `partita run` is compared with.

The models are written out again here, from their papers, over the parameters of a safetensors file that `partita run
--save` wrote (so that both start from the same numbers) and on the same samples, whose order is drawn as
runtime/src/data.rs documents it. Dropout is 0. Prints one JSON line:

    losses          of each step
    step_seconds    median over the steps but the first
    gradient_error  with --state: largest difference between the clipped gradients of the first step here and those that
                    the first moments of a `partita run --steps 1 --checkpoint` imply, over the largest gradient
"""

import argparse
import json
import math
import mmap
import statistics
import time

import numpy
import torch
import torch.nn.functional as F

BETAS, EPS, DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0


def read_safetensors(path):
    """Name -> tensor: eight bytes of header length, a JSON header, the data."""
    with open(path, "rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(view[:8], "little")
    types = {"F32": numpy.float32, "F64": numpy.float64}
    tensors = {}
    for name, entry in json.loads(view[8:start]).items():
        if name != "__metadata__" and entry["dtype"] in types:
            begin, end = entry["data_offsets"]
            flat = numpy.frombuffer(view[start + begin : start + end], types[entry["dtype"]])
            tensors[name] = torch.from_numpy(flat.reshape(entry["shape"]).copy())
    return tensors


class Samples:
    """The windows of a token file in the order of a run."""

    MASK = (1 << 64) - 1

    def __init__(self, path, seq, seed):
        self.tokens = numpy.fromfile(path, "<u2").astype(numpy.int64)
        self.seq, self.seed = seq, seed
        self.count = (len(self.tokens) - 1) // seq

    def mix(self, x):
        x = (x + 0x9E3779B97F4A7C15) & self.MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & self.MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & self.MASK
        return x ^ (x >> 31)

    def stream(self, seed, step, salt, iteration):
        return self.mix(self.mix(self.mix(self.mix(seed) ^ step) ^ salt) ^ iteration)

    def window(self, sample):
        """Four Feistel rounds over the next power of 4, again while the result is no window."""
        salt = 0xCBF29CE484222325
        for byte in b"data.order":
            salt = ((salt ^ byte) * 0x100000001B3) & self.MASK
        epoch, number = divmod(sample, self.count)
        half = ((self.count - 1).bit_length() + 1) // 2
        mask = (1 << half) - 1
        keys = [self.stream(self.seed, epoch, salt, round) for round in range(4)]
        while True:
            left, right = number >> half, number & mask
            for key in keys:
                left, right = right, left ^ (self.stream(key, right, 0, 0) & mask)
            number = left << half | right
            if number < self.count:
                return number

    def batch(self, step, size):
        starts = [self.window(step * size + n) * self.seq for n in range(size)]
        rows = numpy.stack([self.tokens[start : start + self.seq + 1] for start in starts])
        return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())


def linear(x, weight, bias=None):
    """`weight` is (inputs, outputs ..): the layout of the model files."""
    weight = weight.flatten(1)
    return F.linear(x, weight.t(), None if bias is None else bias.flatten())


def part(p, prefix):
    """The parameters of a block, under their names inside it."""
    return {name.removeprefix(prefix): value for name, value in p.items() if name.startswith(prefix)}


def layers(p, word="layer"):
    """The parameters of each layer, under their names inside it."""
    count = 1 + max(int(name.split(".")[1]) for name in p if name.startswith(word + "."))
    return [part(p, f"{word}.{n}.") for n in range(count)]


def gpt(p, tokens):
    batch, seq = tokens.shape
    hidden, heads, head_dim = p["layer.0.wq"].shape
    x = F.embedding(tokens, p["wte"]) + p["wpe"]
    for w in layers(p):
        y = F.layer_norm(x, (hidden,), w["gain1"], w["bias1"], 1e-5)
        q, k, v = (linear(y, w["w" + n], w["b" + n]).view(batch, seq, heads, head_dim).transpose(1, 2) for n in "qkv")
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, seq, -1)
        x = x + linear(a, w["wo"].flatten(0, 1), w["bo"])
        y = F.layer_norm(x, (hidden,), w["gain2"], w["bias2"], 1e-5)
        x = x + linear(F.gelu(linear(y, w["w_up"], w["b_up"]), approximate="tanh"), w["w_down"], w["b_down"])
    return F.linear(F.layer_norm(x, (hidden,), p["gain"], p["bias"], 1e-5), p["wte"])


def rotary(x, base=10_000.0):
    """Turns each pair (i, i + half) of the last dimension by position * base^(-2i / size); x is (.., seq, size)."""
    seq, size = x.shape[-2:]
    frequency = base ** (torch.arange(size // 2, dtype=torch.float64) * -2 / size)
    angle = torch.arange(seq, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def llama(p, tokens):
    batch, seq = tokens.shape
    hidden, kv_heads, group, head_dim = p["layer.0.wq"].shape
    heads = lambda x: x.view(batch, seq, -1, head_dim).transpose(1, 2)
    x = F.embedding(tokens, p["embedding"])
    for w in layers(p):
        y = F.rms_norm(x, (hidden,), w["gain1"], 1e-6)
        q, k, v = (heads(linear(y, w["w" + n])) for n in "qkv")
        a = F.scaled_dot_product_attention(rotary(q), rotary(k), v, is_causal=True, enable_gqa=True)
        x = x + linear(a.transpose(1, 2).reshape(batch, seq, -1), w["wo"].flatten(0, 2))
        y = F.rms_norm(x, (hidden,), w["gain2"], 1e-6)
        x = x + linear(F.silu(linear(y, w["w_gate"])) * linear(y, w["w_up"]), w["w_down"])
    return linear(F.rms_norm(x, (hidden,), p["gain"], 1e-6), p["head"])


def lstm(p, tokens):
    x = F.embedding(tokens, p["embedding"])
    for w in layers(p):
        hidden, gates, cell = w["w_up"].shape
        # PyTorch has the candidate before the output gate, and two biases
        torchs = lambda weight: weight[..., [0, 1, 3, 2], :].flatten(-2)
        bias = torchs(w["bias"])
        weights = {"weight_ih_l0": torchs(w["w_up"]).t(), "weight_hh_l0": torchs(w["w_on"]).t(), "bias_ih_l0": bias}
        weights["bias_hh_l0"] = torch.zeros_like(bias)
        x, _ = torch.func.functional_call(torch.nn.LSTM(hidden, cell, batch_first=True), weights, (x,))
    return linear(x, p["head"], p["head_bias"])


def matrix(value):
    """A parameter of more than two axes as the matrix whose sides are shortest together, its axes cut in order."""
    if value.dim() <= 2:
        return value
    sides = lambda cut: (math.prod(value.shape[:cut]), math.prod(value.shape[cut:]))
    return value.view(min((sides(cut) for cut in range(1, value.dim())), key=sum))


def optimizers(word, p, lr):
    """What updates the parameters, with the settings that model files have by default."""
    adamw = lambda values: torch.optim.AdamW(values, lr=lr, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True)
    if word == "adamw":
        # the fused update is the fastest that PyTorch has on a CPU
        return [adamw(p.values())]
    if word == "adam":
        return [torch.optim.Adam(p.values(), lr=lr, betas=(0.9, 0.999), eps=1e-8)]
    if word == "sgd":
        return [torch.optim.SGD(p.values(), lr=lr, momentum=0.9)]
    if word == "adafactor":
        return [torch.optim.Adafactor(p.values(), lr=lr)]
    # Muon's own products are in bf16 there; here both are in 32 bits
    torch.bfloat16 = torch.float32
    takes = {name: value.dim() == 2 and name not in ("wte", "embedding", "head") for name, value in p.items()}
    matrices = [value for name, value in p.items() if takes[name]]
    others = [value for name, value in p.items() if not takes[name]]
    return [torch.optim.Muon(matrices, lr=lr, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"), adamw(others)]


def gradient_error(p, state):
    moments = read_safetensors(state)
    pairs = [(value.grad, moments[name + ".m"] / (1 - BETAS[0])) for name, value in p.items()]
    largest = max(float(here.abs().max()) for here, _ in pairs)
    return max(float((here - there).abs().max()) for here, there in pairs) / largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt", "llama", "lstm"], required=True)
    parser.add_argument("--weights", required=True, help="safetensors of `partita run --save`")
    parser.add_argument("--data", required=True, help=".bin file of 16-bit tokens")
    parser.add_argument("--seq", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--optimizer", choices=["adamw", "adam", "sgd", "adafactor", "muon"], default="adamw")
    parser.add_argument("--state", help="state.safetensors of a checkpoint after step 1")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    read = read_safetensors(options.weights)
    # what looks at rows and columns takes every parameter as a matrix
    shape = matrix if options.optimizer in ("adafactor", "muon") else lambda value: value
    flat = {name: shape(value).requires_grad_() for name, value in read.items()}
    forward = {"gpt": gpt, "llama": llama, "lstm": lstm}[options.model]
    samples = Samples(options.data, options.seq, options.seed)
    updates = optimizers(options.optimizer, flat, options.lr)
    losses, seconds, error = [], [], None
    for step in range(options.steps):
        tokens, targets = samples.batch(step, options.batch)
        start = time.perf_counter()
        for update in updates:
            update.zero_grad()
        p = {name: value.view(read[name].shape) for name, value in flat.items()}
        loss = F.cross_entropy(forward(p, tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flat.values(), CLIP)
        if step == 0 and options.state:
            error = gradient_error(flat, options.state)
        for update in updates:
            update.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    result = {"torch": torch.__version__, "losses": losses, "step_seconds": statistics.median(seconds[1:] or seconds), "gradient_error": error}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
