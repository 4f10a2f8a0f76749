"""One whole iteration beside a plain script of transformers' generate and TRL's DPOTrainer, in one run.

    python bench/iteration/bench.py --ldalign bin/ldalign --peer VENV/bin/python --tokenizer FOLDER [--model FOLDER]

ours is `ldalign up` with one iteration of SPIN, which generates, scores both answers and trains; of LD-Align, which besides
encodes and measures distances, by a guide that it trains before, once in a run; and of LD-Align with that guide given, as every
later iteration has it. The peer generates and trains, as SPIN does. ours is the wall time
of the whole process, loading, the embedded server and all checkpoints included; the peer's seconds leave out imports and
loading. Both have the same prompts, answers, batch and limit of new tokens. Without --model an 18 M Llama is made with the
tokenizer's vocabulary; its samples are as long as allowed. Needs only Python's standard library; the peer's environment is
that of bench/train. `make bench-iteration` does all of it.
"""

import argparse
import json
import os
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))

sys.path.append(os.path.join(HERE, ".."))
from borrow import borrow  # noqa: E402

decode, train = borrow("decode/bench.py"), borrow("train/bench.py")

# Of each run: what it is called in the table, its objective and its guide.
RUNS = {
    "spin": ("SPIN", "spin", ""),
    "first": ("LD-Align with its guide's training", "ldalign",
              'guide: {{encoder: "scratch:2", decoder: "scratch:1", latent_dim: 32, batch: {batch}}}\n'),
    "later": ("LD-Align with the guide given", "ldalign", "guide: {{from: run:first}}\n"),
}
SPEC = """run: {run}
iterations: 1
model: {{from: {model}}}
data: {{train: {data}, max_prompt_tokens: 128, max_response_tokens: 256}}
objective: {{kind: {kind}, beta: 0.1}}
generation: {{temperature: 1, max_new_tokens: {most}}}
optimizer: {{kind: rmsprop, lr: 5.0e-7, clip: 1}}
training: {{epochs: 1, batch: {batch}, checkpoint_every: 0}}
compute: {{threads: {threads}}}
"""


def ours(a, run, model, data, folder):
    _, kind, guide = RUNS[run]
    with open(f"{folder}/{run}.yaml", "w") as f:
        f.write((SPEC + guide).format(run=run, kind=kind, model=os.path.abspath(model), data=data, batch=a.batch, most=a.tokens,
                                      threads=a.threads))
    start = time.perf_counter()
    _, _, peak = decode.run([a.ldalign, "--dir", f"{folder}/home", "up", f"{folder}/{run}.yaml"], a.threads)
    return time.perf_counter() - start, peak


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ldalign", default="bin/ldalign")
    p.add_argument("--peer", required=True, help="python of the peer's environment")
    p.add_argument("--tokenizer", required=True, help="folder whose tokenizer the made model takes")
    p.add_argument("--model", help="a chat model's folder instead")
    p.add_argument("--prompts", type=int, default=64)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--tokens", type=int, default=64, help="of a sample, at most")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, data = a.model, f"{folder}/data.jsonl"
        if not model:
            model = f"{folder}/llama-18m"
            decode.run([a.peer, os.path.join(HERE, "..", "decode", "make_model.py"), model, a.tokenizer], a.threads)
        train.write_pairs(f"{folder}/pairs.jsonl", a.prompts)
        with open(f"{folder}/pairs.jsonl") as pairs, open(data, "w") as out:
            for line in pairs:
                pair = json.loads(line)
                out.write(json.dumps({"prompt": pair["prompt"], "response": pair["chosen"].strip()}) + "\n")
        out, _, peer_peak = decode.run([a.peer, os.path.join(HERE, "peer.py"), model, data, str(a.batch), str(a.tokens),
                                        str(a.threads)], a.threads)
        peer = json.loads(out.splitlines()[-1])
        print(f"peer: {peer['seconds']:.1f} s (generate {peer['generate']:.1f}, train {peer['train']:.1f}), "
              f"{peer_peak / 1e9:.2f} GB", flush=True)
        print("| ldalign up | seconds | peer's | ratio | peak | peer's |")
        print("|---|---|---|---|---|---|")
        for run in RUNS:
            seconds, peak = ours(a, run, model, data, folder)
            print(f"| {RUNS[run][0]} | {seconds:.1f} | {peer['seconds']:.1f} | {peer['seconds'] / seconds:.2f} | {peak / 1e9:.2f} GB | "
                  f"{peer_peak / 1e9:.2f} GB |", flush=True)


if __name__ == "__main__":
    main()
