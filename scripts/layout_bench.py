#!/usr/bin/env python3
"""Solves the six public layout problems within their limits and writes the table into docs/measured.md.

usage: layout_bench.py [FILES]      FILES: letters, by default GBVKNP
The problems lie in $PARTITA_DATA/iopddl (by default ../shared/data/iopddl); each answer is checked here, from the file alone.
"""
import datetime, gzip, json, os, re, subprocess, sys, tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.environ.get("PARTITA_DATA", os.path.join(ROOT, "..", "shared", "data"))
SOLVER = os.path.join(ROOT, "target", "release", "partita")
# limit in seconds, bar, best published, recorded lower bound: google/iopddl and the published results beside it
PROBLEMS = {
    "G": (5, 217_039, 217_039, 216_931),
    "B": (5, 532_843, 532_843, 532_843),
    "V": (60, 1_617_084, 1_617_084, 1_617_084),
    "K": (180, 2_284_707_975, 2_264_928_825, 2_065_623_588),
    "N": (180, 207_083_321_769, 201_609_091_500, 172_940_125_421),
    "P": (240, 662_197_407_330, 651_833_115_436, 616_246_285_726),
}
MOMENTS = (1, 10, 60)
BEGIN, END = "<!-- layout_bench begins -->", "<!-- layout_bench ends -->"


def check(path, answer):
    """The cost of an answer, with an error if it is not allowed."""
    with gzip.open(path, "rt") as file:
        problem = json.load(file)["problem"]
    nodes, edges, choice = problem["nodes"], problem["edges"], answer["choice"]
    total = sum(costs[s] for costs, s in zip(nodes["costs"], choice, strict=True))
    for (u, v), table in zip(edges["nodes"], edges["costs"]):
        total += table[choice[u] * len(nodes["costs"][v]) + choice[v]]
    changes = {}
    for (start, end), usages, s in zip(nodes["intervals"], nodes["usages"], choice):
        changes[start] = changes.get(start, 0) + usages[s]
        changes[end] = changes.get(end, 0) - usages[s]
    used = most = 0
    for time in sorted(changes):
        used += changes[time]
        most = max(most, used)
    assert total == answer["cost"] and most <= problem["usage_limit"], "the answer is not what it says"


def number(text):
    return None if text == "none" else int(text)


def run(letter):
    """One run: the answer, and (cost, bound) as they were at each moment."""
    path = os.path.join(DATA, "iopddl", f"{letter}.json.gz")
    command = [SOLVER, "solve", path, "--time-limit", str(PROBLEMS[letter][0]), "--threads", "2", "--format", "json", "-v"]
    with tempfile.TemporaryFile("w+") as shown:
        answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, stderr=shown, check=True).stdout)
        shown.seek(0)
        lines = re.findall(r"([\d.]+) s  cost (\w+).*?  bound (\w+)", shown.read())
    check(path, answer)
    seen = [(float(seconds), number(cost), number(bound)) for seconds, cost, bound in lines]
    seen.append((answer["seconds"], answer["cost"], answer["lower_bound"]))
    at = lambda moment: next(((c, b) for s, c, b in reversed(seen) if s <= moment), (None, None))
    return answer, [at(moment) for moment in MOMENTS]


def cell(value):
    return "none yet" if value is None else f"{value:,}"


def main():
    rows = [
        "| file | limit | cost | bound | gap | time | bar | best published | recorded bound | " + " | ".join(f"cost, bound at {m} s" for m in MOMENTS) + " |",
        "|" + "---|" * (9 + len(MOMENTS)),
    ]
    for letter in sys.argv[1] if len(sys.argv) > 1 else PROBLEMS:
        limit, bar, published, recorded = PROBLEMS[letter]
        answer, moments = run(letter)
        cost, bound = answer["cost"], answer["lower_bound"]
        met = "met" if cost <= bar and bound >= 0.97 * recorded else "MISSED"
        stop = "proven" if answer["stop"] == "optimal" else answer["stop"]
        at = " | ".join("as at the end" if c == cost and b == bound else f"{cell(c)}, {cell(b)}" for c, b in moments)
        rows.append(f"| {letter} | {limit} s | {cost:,} | {bound:,} | {answer['gap']:.2%} | {answer['seconds']:.2f} s, {stop} "
                    f"| {bar:,}, {met} | {published:,} | {recorded:,} | {at} |")
        print(rows[-1], flush=True)
    if len(sys.argv) > 1:
        return
    path = os.path.join(ROOT, "docs", "measured.md")
    with open(path) as file:
        text = file.read()
    table = "\n".join([BEGIN, f"{datetime.date.today()}, {os.cpu_count()} cores, single runs:", "", *rows, END])
    with open(path, "w") as file:
        file.write(re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: table, text, flags=re.S))


main()
