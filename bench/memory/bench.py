"""Memory of a training process over thousands of steps: is it flat?

    python3 bench/memory/bench.py --ldalign bin/ldalign [--steps 5000] [--only full|lora|guide]

Three trainings of a small Llama from random weights, each a process of its own: DPO on made pairs (`ldalign train`) with all
weights and with an adapter, a state every 50 steps, of which two are kept, and a guide (`ldalign guide train`). The steps are
counted in the run's metrics.jsonl; beside each 20th, resident memory is read from /proc. Printed are its values at every tenth of
the way, the slope by least squares over the samples from the first of these on, and the greatest. Needs only Python's standard
library.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))

sys.path.append(os.path.join(HERE, ".."))
from borrow import borrow  # noqa: E402

WORDS = borrow("decode/bench.py").WORDS
PAIRS, BATCH = 1000, 4

MODEL = """run: {name}
iterations: 1
model:
  from: scratch
  scratch: {{family: llama, hidden: 64, layers: 2, heads: 2, intermediate: 128, max_positions: 192, tokenizer: "builtin:demo"}}
data: {{train: {data}, max_prompt_tokens: 64, max_response_tokens: 64}}
compute: {{threads: {threads}}}
training: {{epochs: {epochs}, batch: 4, checkpoint_every: 50{lora}}}
"""
DPO = """objective: {kind: dpo, beta: 0.1}
optimizer: {kind: adamw, lr: 1.0e-5}
"""
GUIDE = """objective: {{kind: ldalign, beta: 0.1}}
guide: {{encoder: policy, decoder: "scratch:1", latent_dim: 8, epochs: {epochs}, batch: 4}}
generation: {{max_new_tokens: 8}}
"""


def write_pairs(path, low, high):
    """Texts of random words, a function of nothing."""
    rng = random.Random(7)
    text = lambda: " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))
    with open(path, "w") as out:
        for _ in range(PAIRS):
            pair = {"prompt": text(), "chosen": text(), "rejected": text()}
            out.write(json.dumps({**pair, "response": pair["chosen"]}) + "\n")


def resident(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def watch(command, metrics, phase):
    """(step, bytes) beside every 20th step of a phase, of a process that runs to its end."""
    samples, steps, text = [], 0, None
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        rest = ""
        while process.poll() is None:
            time.sleep(0.005)
            if text is None:
                if not os.path.exists(metrics):
                    continue
                text = open(metrics)
            lines = (rest + text.read()).split("\n")
            rest = lines.pop()
            new = steps + sum(json.loads(line)["phase"] == phase for line in lines)
            if new // 20 > steps // 20:
                try:
                    samples.append((new, resident(process.pid)))
                except (ProcessLookupError, IndexError):  # it has ended
                    pass
            steps = new
        if text:
            text.close()
        if process.returncode != 0:
            said.seek(0)
            sys.exit(f"{' '.join(command)}\nfailed:\n{said.read()[-3000:]}")
    return samples, steps


def slope(samples):
    """Least squares, bytes a step."""
    n = len(samples)
    x, y = sum(s for s, _ in samples) / n, sum(b for _, b in samples) / n
    return sum((s - x) * (b - y) for s, b in samples) / sum((s - x) ** 2 for s, _ in samples)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ldalign", default="bin/ldalign")
    p.add_argument("--steps", type=int, default=5000)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--only", choices=["full", "lora", "guide"])
    a = p.parse_args()
    tenths = [a.steps * k // 10 for k in range(1, 11)]
    print("| training | s | " + " | ".join(map(str, tenths)) + " | greatest | bytes a step |")
    print("|---|" + "---:|" * (len(tenths) + 3), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in [a.only] if a.only else ["full", "lora", "guide"]:
            data, spec, home = f"{folder}/pairs.jsonl", f"{folder}/{name}.yaml", f"{folder}/home-{name}"
            write_pairs(data, 4, 12)
            epochs = a.steps * BATCH // PAIRS
            text = MODEL.format(name=name, data=data, threads=a.threads, epochs=1 if name == "guide" else epochs,
                                lora=", lora: {rank: 4, alpha: 8}" if name == "lora" else "")
            with open(spec, "w") as f:
                f.write(text + (GUIDE.format(epochs=epochs) if name == "guide" else DPO))
            verb = ["guide", "train"] if name == "guide" else ["train"]
            begun = time.perf_counter()
            samples, steps = watch([a.ldalign, "--dir", home, *verb, spec], f"{home}/runs/{name}/metrics.jsonl",
                                   "guide" if name == "guide" else "policy")
            took = time.perf_counter() - begun
            if steps < a.steps:
                print(f"<!-- {name}: {steps} steps -->")
            at = [min(samples, key=lambda s: abs(s[0] - t))[1] for t in tenths]
            later = [s for s in samples if s[0] >= tenths[0]]
            print(f"| {name} | {took:.0f} | " + " | ".join(f"{b / 1e6:.1f}" for b in at) +
                  f" | {max(b for _, b in samples) / 1e6:.1f} | {slope(later):.0f} |", flush=True)


if __name__ == "__main__":
    main()
