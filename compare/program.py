"""The program that is compared, its runs, and what they read: for the scripts of `make compare`, whose first argument it is."""

import json
import os
import pathlib
import random
import struct
import subprocess
import sys

PARTITA = pathlib.Path(sys.argv[1])
WORK = PARTITA.parents[1] / "compare"
THREADS = len(os.sched_getaffinity(0))
SEED, STEPS = 1, 20
TOLERANCE = 1e-4


def run(*command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"compare: failed: {' '.join(map(str, command))}")
    return done.stdout


def write_tokens(path, count, vocab):
    """Tokens with something to learn: each is one of four successors of the one before, or any."""
    draw = random.Random(SEED)
    token, tokens = 0, []
    for _ in range(count):
        token = (token * 2731 + draw.randrange(4) * 977 + 1) % vocab if draw.random() < 0.9 else draw.randrange(vocab)
        tokens.append(token)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f"<{len(tokens)}H", *tokens))


def compiled(model, name, settings):
    """The directory of a model's plan for one rank."""
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run(PARTITA, "compile", f"models/{model}.partita", "--cluster", "clusters/local-1.toml", *sets, "-o", WORK / name, "--quiet")
    return WORK / name


def partita_run(directory, tokens, *options):
    """The log of a run, one dictionary a step; none if it had no steps."""
    log = WORK / "run.jsonl"
    log.unlink(missing_ok=True)
    run(PARTITA, "run", directory, "--data", tokens, "--seed", SEED, "--threads", THREADS, "--log", log, *options)
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def worst_difference(ours, theirs):
    """The largest relative difference of two curves."""
    return max(abs(here - there) / abs(there) for here, there in zip(ours, theirs, strict=True))
