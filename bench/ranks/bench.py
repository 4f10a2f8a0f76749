"""Training by one process and by two (training.ranks), in one run: the same model folder, pairs and settings.

    python bench/ranks/bench.py --ldalign bin/ldalign --model FOLDER [--pairs 64] [--batch 8]

Each setting is an `ldalign train` with DPO. Reported are the median of its steps' tokens per second without the first, the
greatest memory of one of its processes, and the greatest difference of the trained weights from those of one process with
one thread. Needs only Python's standard library.
"""

import argparse
import array
import json
import os
import statistics
import struct
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

sys.path.append(os.path.join(HERE, ".."))
from borrow import borrow  # noqa: E402

train = borrow("train/bench.py")

SPEC = """run: r{ranks}-t{threads}
iterations: 1
model: {{from: {model}}}
data: {{train: {data}, max_prompt_tokens: 128, max_response_tokens: 256}}
objective: {{kind: dpo, beta: 0.1}}
optimizer: {{kind: rmsprop, lr: 5.0e-7, clip: 1}}
training: {{epochs: 1, batch: {batch}, checkpoint_every: 0, ranks: {ranks}}}
compute: {{threads: {threads}}}
"""


def weights(path):
    """The float32 tensors of a safetensors file by name."""
    with open(path, "rb") as f:
        length, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        data = f.read()
    out = {}
    for name, info in header.items():
        if name != "__metadata__":
            assert info["dtype"] == "F32", f"{name} is {info['dtype']}"
            out[name] = array.array("f", data[slice(*info["data_offsets"])])
    return out


def measure(a, ranks, threads, data, folder):
    name = f"r{ranks}-t{threads}"
    spec, home, out = (f"{folder}/{x}{name}" for x in ("spec-", "home-", "out-"))
    with open(f"{spec}.yaml", "w") as f:
        f.write(SPEC.format(ranks=ranks, threads=threads, model=os.path.abspath(a.model), data=data, batch=a.batch))
    _, _, peak = train.run([a.ldalign, "--dir", home, "train", f"{spec}.yaml", "--out", out], threads)
    with open(f"{home}/runs/{name}/metrics.jsonl") as f:
        steps = [json.loads(line) for line in f]
    rates = [s["tokens/s"] for s in steps if s["phase"] == "policy"][1:]
    return statistics.median(rates), len(rates), peak, weights(f"{out}/model.safetensors")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ldalign", default="bin/ldalign")
    p.add_argument("--model", required=True, help="a chat model's folder, float32")
    p.add_argument("--pairs", type=int, default=64)
    p.add_argument("--batch", type=int, default=8)
    a = p.parse_args()
    print("| processes | threads each | tok/s | ratio | greatest process | weights differ by |")
    print("|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/pairs.jsonl"
        train.write_pairs(data, a.pairs)
        first = None
        for ranks, threads in ((1, 1), (2, 1), (1, 2)):
            rate, steps, peak, trained = measure(a, ranks, threads, data, folder)
            if first is None:
                first = rate, trained
            apart = max(abs(x - y) for name, t in trained.items() for x, y in zip(t, first[1][name], strict=True))
            print(f"| {ranks} | {threads} | {rate:.0f} | {rate / first[0]:.2f} | {peak / 1e9:.2f} GB | {apart:.1e} |", flush=True)
        print(f"\nmedian of {steps} steps of {a.batch} pairs")


if __name__ == "__main__":
    main()
