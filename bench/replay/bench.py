"""Three replays from `scored`: one after the other, side by side, and their training alone.

    python3 bench/replay/bench.py --ldalign bin/ldalign [--pairs 768]

A run of LD-Align with a Llama of random weights is made once. Its scored pairs are then trained on with three values of β: by
`ldalign replay`, one command after the other, and by `ldalign sweep`, one at a time and all three at a time. Each command starts
from nothing: its seconds have the process, the embedded server, loading and all checkpoints in them. Those of the steps are what
lies between the steps in metrics.jsonl, of which training consists. At the end the messages are counted that a replay has
written to the logs in front of its trainer: none, or the benchmark fails. It fails too where the weights of a replay in a
sweep are not those of the replay by itself, bit by bit. Needs only Python's standard library.
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

BETAS = ("0.05", "0.1", "0.5")
LOGS = ("prompts", "pairs", "encoded", "scored")

SPEC = """run: first
iterations: 1
model:
  from: scratch
  scratch:
    {{family: llama, hidden: {hidden}, layers: {layers}, heads: 4, intermediate: {intermediate}, max_positions: 128,
     tokenizer: "builtin:demo"}}
data: {{train: "builtin:demo/align", limit: {pairs}, max_prompt_tokens: 64, max_response_tokens: 40}}
objective: {{kind: ldalign, beta: 0.2}}
guide: {{encoder: "scratch:1", decoder: "scratch:1", latent_dim: 16, batch: 32}}
generation: {{slots: 32}}
optimizer: {{kind: rmsprop, lr: 1.0e-5}}
training: {{epochs: {epochs}, batch: 16, checkpoint_every: 50}}
compute: {{threads: {threads}}}
"""


def run(command):
    """Standard output, wall and processor seconds and the greatest memory of a process that succeeds."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)}\nfailed:\n{out.read()[-2000:]}{err.read()[-3000:]}")
        return out.read(), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def steps(home, name):
    """Seconds of a run's training: of all its steps, by the rates in metrics.jsonl."""
    seconds, before = 0.0, 0
    with open(f"{home}/runs/{name}/metrics.jsonl") as f:
        for line in f:
            step = json.loads(line)
            if step["phase"] == "policy":
                seconds += (step["num_tokens"] - before) / step["tokens/s"]
                before = step["num_tokens"]
    return seconds


def trained(home, name):
    """sha256 of the last policy's weights."""
    found = []
    for path in glob.glob(f"{home}/runs/{name}/checkpoints/*.json"):
        with open(path) as f:
            manifest = json.load(f)
        if manifest["kind"] == "policy":
            found.append((manifest["iteration"], [f["sha256"] for f in manifest["files"] if f["name"] == "model.safetensors"]))
    return max(found)


def written(home, name):
    """Number of messages that the embedded server's files hold under a run's own subjects, by kind of log."""
    count = dict.fromkeys(LOGS, 0)
    for path in glob.glob(f"{home}/nats/**/*.blk", recursive=True):
        with open(path, "rb") as f:
            data = f.read()
        for kind in LOGS:
            count[kind] += data.count(f"ldalign.{kind}.{name}.".encode())
    return count


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ldalign", default="bin/ldalign")
    p.add_argument("--pairs", type=int, default=768)
    p.add_argument("--epochs", type=int, default=1)
    p.add_argument("--hidden", type=int, default=192)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = f"{folder}/home"
        with open(f"{folder}/first.yaml", "w") as f:
            f.write(SPEC.format(hidden=a.hidden, layers=a.layers, intermediate=3 * a.hidden, pairs=a.pairs, epochs=a.epochs,
                                threads=a.threads))
        ldalign = [a.ldalign, "--dir", home]
        _, wall, cpu, peak = run([*ldalign, "up", f"{folder}/first.yaml"])
        print("| what | s | of these steps | processor s | peak |\n|---|---:|---:|---:|---:|")
        row = lambda what, wall, train, cpu, peak: print(
            f"| {what} | {wall:.2f} | {train:.2f} | {cpu:.2f} | {peak / 1e6:.0f} MB |", flush=True)
        row("the run itself", wall, steps(home, "first"), cpu, peak)
        log = ["--from", "scored"]
        alone = []
        for beta in BETAS:
            name = "alone-" + beta.replace(".", "_")
            said, wall, cpu, peak = run([*ldalign, "replay", "first", *log, "--set", f"objective.beta={beta}", "--as", name])
            alone.append((wall, steps(home, name), cpu, peak))
            row(f"replay, β = {beta}", *alone[-1])
        row("all three", *(sum(x[i] for x in alone) for i in range(3)), max(x[3] for x in alone))
        for parallel in ("1", "3"):
            sweep = ["sweep", "first", *log, "--as", f"p{parallel}", "--set", "objective.beta=" + ",".join(BETAS)]
            said, wall, cpu, peak = run([*ldalign, *sweep, "--parallel", parallel])
            names = [f"p{parallel}-beta-" + beta.replace(".", "_") for beta in BETAS]
            row(f"sweep, {parallel} at a time", wall, sum(steps(home, n) for n in names), cpu, peak)
            for beta, name in zip(BETAS, names):
                if trained(home, name) != trained(home, "alone-" + beta.replace(".", "_")):
                    sys.exit(f"{name} has other weights than the replay by itself")
        counts = {name: written(home, name) for name in ["first", *names]}
        print(f"\nmessages of the run: {counts['first']}; of a replay: {counts[names[0]]}")
        if min(counts["first"].values()) < a.pairs or any(any(counts[name].values()) for name in names):
            sys.exit(f"a stage in front of a trainer has worked, or the messages were not found: {counts}")


if __name__ == "__main__":
    main()
