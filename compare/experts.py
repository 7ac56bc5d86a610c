"""What the peers of models with experts share, written without places: every expert sees every token, times its share."""

import torch.nn.functional as F


def first(taken, places):
    """Which of the tokens that chose an expert it has places for: in the order of positions. `taken` is (batch, seq, experts)."""
    return taken & (taken.cumsum(1) <= places)


def feed_forward(x, gate, up, down):
    return (F.silu(x @ gate) * (x @ up)) @ down


def say(x, shares, w):
    """What the experts say, each times its share (batch, seq, experts) of a token."""
    weights = zip(w["w_gate"], w["w_up"], w["w_down"], strict=True)
    return sum(shares[..., n, None] * feed_forward(x, *expert) for n, expert in enumerate(weights))


def imbalance(taken, p):
    """1 if all experts have one load (Fedus et al., 2021), of each sequence by itself."""
    taken = taken.to(p.dtype)
    return taken.shape[-1] / taken.sum(-1).mean() * (taken.mean(1) * p.mean(1)).sum(-1).mean()
