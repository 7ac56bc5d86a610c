"""models/mixtral.partita (Jiang et al., 2024)."""

import torch
import torch.nn.functional as F

import experts
from torch_peer import layers, linear, part, rotary

SIZES = {"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "experts": 8, "chosen": 2, "vocab": 64, "seq": 32}
RUN = {"batch": 8, "lr": 1e-2, "balance": 0.02}
CASES = {
    "mixtral": SIZES | RUN | {"capacity": 4, "z_loss": 0},
    "mixtral with drops": SIZES | RUN | {"capacity": 1.0, "z_loss": 1e-3},
}
STATES = ()
LARGER = {"moe.router": 10}


def attend(w, x):
    batch, seq, hidden = x.shape
    head_dim = w["wq"].shape[-1]
    y = F.rms_norm(x, (hidden,), w["gain1"], 1e-6)
    q, k, v = (linear(y, w["w" + n]).view(batch, seq, -1, head_dim).transpose(1, 2) for n in "qkv")
    a = F.scaled_dot_product_attention(rotary(q, 1e6), rotary(k, 1e6), v, is_causal=True, enable_gqa=True)
    return x + linear(a.transpose(1, 2).reshape(batch, seq, -1), w["wo"].flatten(0, 2))


def moe(w, x, sizes):
    """What the experts say, and the router's losses."""
    scores = x @ w["router"]
    p = scores.softmax(-1)
    taken = torch.zeros_like(p, dtype=torch.bool).scatter(-1, p.topk(sizes["chosen"]).indices, True)
    gates = (p * taken) / (p * taken).sum(-1, keepdim=True)
    places = int(sizes["capacity"] * sizes["seq"] * sizes["chosen"] / sizes["experts"])
    said = experts.say(x, gates * experts.first(taken, places), w)
    return said, experts.imbalance(taken, p), scores.logsumexp(-1).square().mean()


def losses(p, tokens, targets, sizes):
    hidden = sizes["hidden"]
    x = F.embedding(tokens, p["embedding"])
    balance = router_z = 0
    for w in layers(p):
        x = attend(w, x)
        said, uneven, large = moe(part(w, "moe."), F.rms_norm(x, (hidden,), w["gain2"], 1e-6), sizes)
        x, balance, router_z = x + said, balance + uneven, router_z + large
    logits = F.rms_norm(x, (hidden,), p["gain"], 1e-6) @ p["head"]
    terms = {"loss": F.cross_entropy(logits.flatten(0, 1), targets.flatten()), "balance": balance}
    if sizes["z_loss"] > 0:
        terms["router_z"] = router_z
    return terms, {"loss": 1, "balance": sizes["balance"], "router_z": sizes["z_loss"]}
