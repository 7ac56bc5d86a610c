"""models/deepseek.partita (DeepSeek-AI, 2024)."""

import re

import torch
import torch.nn.functional as F

import experts
from torch_peer import layers, linear, part, rotary

LATENTS = {"q_latent": 16, "kv_latent": 12, "nope": 8, "rope": 4, "value": 8}
FEED_FORWARD = {"ffn": 16, "dense_ffn": 64, "experts": 8, "groups": 4, "limit": 2, "chosen": 2, "shared": 1, "scale": 2.5}
SIZES = {"layers": 2, "dense_layers": 1, "hidden": 32, "heads": 4, "vocab": 64, "seq": 32} | LATENTS | FEED_FORWARD
RUN = {"batch": 8, "lr": 1e-2, "balance": 1e-4, "bias_rate": 1e-2, "mtp": 0.3}
CASES = {
    "deepseek": SIZES | RUN | {"capacity": 4},
    "deepseek with drops": SIZES | RUN | {"capacity": 1.0, "balance": 1e-2},
}
STATES = ("moe.bias",)
LARGER = {"moe.router": 50}


def norm(x, gain):
    return F.rms_norm(x, gain.shape, gain, 1e-6)


def attend(w, x):
    batch, seq, _ = x.shape
    count = w["wo"].shape[0]
    heads = lambda x: x.view(batch, seq, count, -1).transpose(1, 2)
    y = norm(x, w["gain"])
    c = norm(linear(y, w["q_down"]), w["q_gain"])
    q = torch.cat([heads(linear(c, w["q_plain"])), rotary(heads(linear(c, w["q_turned"])))], -1)
    c = norm(linear(y, w["kv_down"]), w["kv_gain"])
    # one turned key for all heads
    turned = rotary(linear(y, w["k_turned"])[:, None]).expand(-1, count, -1, -1)
    k = torch.cat([heads(linear(c, w["k_plain"])), turned], -1)
    a = F.scaled_dot_product_attention(q, k, heads(linear(c, w["v_up"])), is_causal=True)
    return x + linear(a.transpose(1, 2).reshape(batch, seq, -1), w["wo"].flatten(0, 1))


def dense(w, x):
    return x + experts.feed_forward(norm(x, w["gain"]), w["w_gate"], w["w_up"], w["w_down"])


@torch.no_grad()
def choose(scores, sizes):
    """The largest scores within the groups whose two best experts have the largest sums."""
    by_group = scores.unflatten(-1, (sizes["groups"], -1))
    groups = by_group.topk(2).values.sum(-1).topk(sizes["limit"]).indices
    closed = torch.ones(by_group.shape[:-1], dtype=torch.bool).scatter(-1, groups, False)
    best = by_group.masked_fill(closed[..., None], -torch.inf).flatten(-2).topk(sizes["chosen"]).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)


def moe(w, x, sizes):
    """The layer's sum, and the balance of its router, whose bias goes on by a step."""
    y = norm(x, w["gain"])
    p = (y @ w["router"]).sigmoid()
    taken = choose(p + w["bias"], sizes)
    with torch.no_grad():
        load = taken.sum((0, 1)).float()
        w["bias"] += sizes["bias_rate"] * (load.mean() - load).sign()
    gates = sizes["scale"] * (p * taken) / (p * taken).sum(-1, keepdim=True)
    places = int(sizes["capacity"] * sizes["seq"] * sizes["chosen"] / sizes["experts"])
    said = experts.say(y, gates * experts.first(taken, places), w)
    shared = experts.feed_forward(y, w["s_gate"], w["s_up"], w["s_down"])
    return x + said + shared, experts.imbalance(taken, p / p.sum(-1, keepdim=True))


def layer(w, x, sizes):
    return moe(part(w, "moe."), attend(part(w, "attend."), x), sizes)


def losses(p, tokens, targets, sizes):
    # names that a block has more than once have numbers behind them
    p = {re.sub(r"_\d+$", "", name): value for name, value in p.items()}
    x = F.embedding(tokens, p["embedding"])
    for w in layers(p, "dense_layer"):
        x = dense(part(w, "dense."), attend(part(w, "attend."), x))
    balance = 0
    for w in layers(p):
        x, uneven = layer(w, x, sizes)
        balance = balance + uneven
    loss = F.cross_entropy((norm(x, p["last_gain"]) @ p["head"]).flatten(0, 1), targets.flatten())

    # the module that predicts a token further; its last position has no target
    next = norm(F.embedding(targets, p["embedding"]), p["next_gain"])
    y = torch.cat([norm(x, p["x_gain"]), next], -1) @ p["join"]
    y, uneven = layer(part(p, "layer_2."), y, sizes)
    logits = (norm(y, p["further_gain"]) @ p["head"])[:, :-1]
    further = F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())
    terms = {"loss": loss, "balance": balance + uneven, "further": further}
    return terms, {"loss": 1, "balance": sizes["balance"], "further": sizes["mtp"]}
