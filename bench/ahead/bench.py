"""What streams.max_in_flight costs: an iteration that is trained while it arrives, by several bounds.

    python3 bench/ahead/bench.py --ldalign bin/ldalign [--pairs 4000] [--rounds 2]

One process samples, trains by the streaming schedule and commits, with a Llama so small that the transport counts. The bounds
are taken in turn, so that a neighbour's work falls on all of them. Needs only Python's standard library.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time

SPEC = """run: ahead
iterations: 1
model:
  from: scratch
  scratch: {family: llama, hidden: 32, layers: 1, heads: 2, intermediate: 64, max_positions: 128, tokenizer: "builtin:demo"}
data: {train: data.jsonl, max_prompt_tokens: 64, max_response_tokens: 4}
objective: {kind: spin, beta: 0.5}
generation: {slots: 32}
optimizer: {kind: rmsprop, lr: 1.0e-5}
training: {epochs: 1, batch: 32, micro_batch: 32, checkpoint_every: 1000, schedule: streaming}
compute: {threads: 1}
"""


def environment():
    """Ours without settings of ldalign, which would name other servers."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LDALIGN_")}


def most_ahead(ldalign, home):
    """The most prompts that the log held beyond those which the trainer had said to have taken."""
    tail = subprocess.Popen(
        [ldalign, "tail", "ldalign.*.ahead.0", "--dir", home], env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True)
    events, finished = [], False
    for line in tail.stdout:
        message = json.loads(line)
        if message["stream"] == "LDALIGN_PROMPTS":
            events.append((message["time"], 1, 0))
        elif message["stream"] == "LDALIGN_CONTROL" and message["message"].get("kind") == "taken":
            total = int(message["message"]["total"])
            events.append((message["time"], 0, total))
            finished = finished or total == PAIRS
        if finished and sum(one for _, one, _ in events) == PAIRS:
            break
    tail.kill()  # it only reads, and may be held by the pipe
    tail.wait()
    published = taken = most = 0
    for _, one, total in sorted(events):
        published, taken = published + one, max(taken, total)
        most = max(most, published - taken)
    return most


def run(ldalign, bound):
    """Wall and processor seconds, the greatest memory in MB, and how far ahead the prompter was."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile("w+") as err:
        write(home)
        begun = time.perf_counter()
        process = subprocess.Popen(
            [ldalign, "up", f"{home}/ahead.yaml", "--set", f"streams.max_in_flight={bound}", "--dir", f"{home}/data"],
            env=environment(), stdout=subprocess.DEVNULL, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - begun
        if process.returncode != 0:
            err.seek(0)
            sys.exit(f"ldalign up failed:\n{err.read()[-3000:]}")
        ahead = most_ahead(ldalign, f"{home}/data")
        return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, ahead


def write(home):
    """The spec and its prompts."""
    draw = random.Random(1)
    with open(f"{home}/data.jsonl", "w") as f:
        for i in range(PAIRS):
            word = draw.choice(["pear", "apple", "plum", "fig", "kiwi", "lemon"])
            f.write(json.dumps({"prompt": f"Say {word} once, number {i}.", "response": word}) + "\n")
    with open(f"{home}/ahead.yaml", "w") as f:
        f.write(SPEC)


parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--ldalign", default="bin/ldalign")
parser.add_argument("--pairs", type=int, default=4000)
parser.add_argument("--rounds", type=int, default=2)
parser.add_argument("--bounds", type=int, nargs="+", default=[64, 512, 4096, 0])
args = parser.parse_args()
PAIRS = args.pairs

print("| max_in_flight | round | s | processor s | peak MB | most ahead |\n|---:|---:|---:|---:|---:|---:|")
for round_ in range(1, args.rounds + 1):
    for bound in args.bounds:
        wall, cpu, memory, ahead = run(os.path.abspath(args.ldalign), bound)
        print(f"| {bound} | {round_} | {wall:.1f} | {cpu:.1f} | {memory:.0f} | {ahead} |", flush=True)
