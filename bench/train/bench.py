"""Training beside TRL's DPOTrainer, in one run: the same model folder, pairs, order, settings and threads.

    python bench/train/bench.py --ldalign bin/trainer.test --peer VENV/bin/python --tokenizer FOLDER [--model FOLDER:BATCH …]

ours is the trainer's own loop, as the benchmark BenchmarkPairs of trainer/loop runs it. Prompts have 32 to 64 words,
responses 16 to 128. Both train once over the same token ids in the same order: float32, RMSprop, a constant rate, clipping
at 1, no gradient checkpointing. A side's tokens are those of prompt and response of both answers of a pair; its seconds
leave out loading and the first step; its memory is the greatest that its process had. TRL computes the reference's
log-probabilities in every step, ours come with the pairs: what it took to make them is added in the second ratio. The third
is that of the processor time of the training alone, which tells on a busy machine too.
Without --model, an 18 M Llama is made with the tokenizer's vocabulary and trained in batches of 8. Needs only Python's
standard library; the peer's environment is requirements.txt. `make bench-train` does all of it.
"""

import argparse
import json
import os
import random
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, ".."))
from borrow import borrow  # noqa: E402

decode = borrow("decode/bench.py")
WORDS, run = decode.WORDS, decode.run


def write_pairs(path, count):
    """Texts of random words, a function of nothing."""
    rng = random.Random(7)
    text = lambda low, high: " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))
    with open(path, "w") as out:
        for _ in range(count):
            out.write(json.dumps({"prompt": text(32, 64), "chosen": " " + text(16, 128),
                                  "rejected": " " + text(16, 128)}) + "\n")


def ours(a, program, model, ids, batch, folder):
    report = f"{folder}/report.json"
    training = {"Batch": batch, **json.loads(a.training)}
    settings = {"MODEL": os.path.abspath(model), "PAIRS": ids, "TRAINING": json.dumps(training), "THREADS": str(a.threads),
                "REPORT": report}
    os.environ.update({f"LDALIGN_BENCH_{k}": v for k, v in settings.items()},
                      OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="2000")
    command = [os.path.abspath(program), "-test.run", "^$", "-test.bench", "^BenchmarkPairs$", "-test.benchtime", "1x"]
    _, _, peak = run(command, a.threads)
    for key in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        del os.environ[key]
    with open(report) as f:
        return json.load(f), peak


def theirs(a, model, pairs, batch):
    out, _, peak = run([a.peer, a.script, "train", model, pairs, str(batch), str(a.threads)], a.threads)
    return json.loads(out.splitlines()[-1]), peak


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ldalign", default="bin/trainer.test", help="go test -c -o bin/trainer.test ./trainer/loop")
    p.add_argument("--peer", required=True, help="python of the peer's environment")
    p.add_argument("--before", help="an earlier trainer.test, to compare with in the same run")
    p.add_argument("--tokenizer", help="folder whose tokenizer the made model takes")
    p.add_argument("--model", action="append", help="FOLDER:BATCH, a model and its pairs a step")
    p.add_argument("--training", default="{}", help="further fields of the spec's training section, as JSON")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--only", choices=["ldalign", "trl"], help="one side alone")
    a = p.parse_args()
    a.script = f"{HERE}/peer.py"
    print("| model | pairs a step | ldalign tok/s | TRL tok/s | ratio | with reference | by CPU time | ldalign peak | TRL peak | "
          "share | last loss | difference |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        models = a.model or []
        if a.tokenizer:
            run([a.peer, f"{HERE}/../decode/make_model.py", f"{folder}/llama-18m", a.tokenizer], a.threads)
            models.insert(0, f"{folder}/llama-18m:8")
        for item in models:
            model, batch = item.rsplit(":", 1)
            batch, pairs, ids = int(batch), f"{folder}/pairs.jsonl", f"{folder}/ids.jsonl"
            write_pairs(pairs, a.steps * batch)
            run([a.peer, a.script, "pairs", model, pairs, ids], a.threads)
            x, x_peak = ours(a, a.ldalign, model, ids, batch, folder) if a.only != "trl" else (None, 0)
            y, y_peak = theirs(a, model, pairs, batch) if a.only != "ldalign" else (None, 0)
            if not x or not y:
                z, peak = (x, x_peak) if x else (y, y_peak)
                print(f"{model}: {z['tokens'] / z['seconds']:.1f} tok/s, {peak / 1e9:.2f} GB, {z}", flush=True)
                continue
            if x["tokens"] != y["tokens"]:
                sys.exit(f"not the same work: {x['tokens']} and {y['tokens']} tokens")
            fast, slow = x["tokens"] / x["seconds"], y["tokens"] / y["seconds"]
            # the reference was computed for all pairs, the seconds are those of all steps but one
            honest = x["tokens"] / (x["seconds"] + x["reference_seconds"] * (a.steps - 1) / a.steps)
            print(f"| {os.path.basename(model)} | {batch} | {fast:.1f} | {slow:.1f} | {fast / slow:.2f} | "
                  f"{honest / slow:.2f} | {y['cpu'] / x['cpu']:.2f} | {x_peak / 1e9:.2f} GB | {y_peak / 1e9:.2f} GB | {x_peak / y_peak:.2f} | "
                  f"{x['losses'][-1]:.6f} | {abs(x['losses'][-1] - y['losses'][-1]):.1e} |", flush=True)
            if a.before:
                w, peak = ours(a, a.before, model, ids, batch, folder)
                print(f"| before | | {w['tokens'] / w['seconds']:.1f} | | {fast * w['seconds'] / w['tokens']:.2f} of it | | "
                      f"{w['cpu'] / x['cpu']:.2f} | {peak / 1e9:.2f} GB | | | {w['losses'][-1]:.6f} | |", flush=True)
            print(f"<!-- largest difference of a loss {max(abs(u - v) for u, v in zip(x['losses'], y['losses'])):.1e}, of a "
                  f"gradient norm {max(abs(u / v - 1) for u, v in zip(x['norms'], y['norms'])):.1e} relative; torch "
                  f"{y['torch']}, transformers {y['transformers']}, TRL {y['trl']} -->", flush=True)


if __name__ == "__main__":
    main()
