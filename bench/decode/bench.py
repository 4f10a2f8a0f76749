"""Decoding and scoring beside transformers, in one run: the same model folder, prompts, token counts and threads.

    python bench/decode/bench.py --ldalign bin/ldalign --peer VENV/bin/python --model FOLDER [--model FOLDER …]

Every setting runs ldalign and the peer in turn, each in a process of its own, as often as --rounds says; reported is the
best of each, useful tokens per second without loading, and the greatest memory that either process had. Response lengths
are mixed, 8 to 128 tokens; end tokens are ignored, so both do the same work. Needs only Python's standard library; the
peer's environment is requirements.txt. `make bench-decode` does all of it.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile

WORDS = ("the of and to in a is that for it as was with be by on not he his but at are this have from or had an they "
         "which one you were all her she there would their we him been has when who will no more if out so up said what "
         "its about than into them can only other time new some could these two may first then do any like my now over "
         "such our man me even most made after also well did many before must years back through much where your way "
         "down should because long each just state those people too mr how little good world make very year still see "
         "own work men day get here old life both between being under three never know same last another while us off "
         "might great go come since against right came take used himself few house use place during high without again "
         "home around small however found part school every").split()


def write_data(folder, count):
    """prompts.jsonl and pairs.jsonl: texts of random words, a function of nothing."""
    rng = random.Random(7)
    text = lambda low, high: " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))
    with open(f"{folder}/prompts.jsonl", "w") as prompts, open(f"{folder}/pairs.jsonl", "w") as pairs:
        for i in range(count):
            prompts.write(json.dumps({"id": i, "prompt": text(16, 64), "max_tokens": rng.randint(8, 128)}) + "\n")
            pairs.write(json.dumps({"id": i, "prompt": text(32, 64), "response": " " + text(16, 128)}) + "\n")


def run(command, threads):
    """Standard output and error of a process, and its greatest resident memory in bytes."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)}\nfailed:\n{err.read()[-3000:]}")
        return out.read(), err.read(), usage.ru_maxrss * 1024


versions = {}  # of the peer, as it tells them


def head(source, target, count):
    with open(source) as lines, open(target, "w") as out:
        out.writelines(line for _, line in zip(range(count), lines))
    return target


def setting(a, model, verb, data, batch, temperature):
    """The best of some rounds of each side (ldalign, the peer, an earlier ldalign): tokens per second, bytes, scores."""
    ours = [verb, "--json", "--raw", "--model", model, "--input", data, "--threads", str(a.threads)]
    if verb == "generate":
        ours += ["--ignore-eos", "--slots", str(batch), "--temperature", str(temperature), "--max-tokens", "128"]
    theirs = [a.peer, os.path.join(os.path.dirname(__file__), "peer.py"), verb, model, data, str(batch), str(temperature),
              str(a.threads)]
    sides = [[a.ldalign, *ours], theirs] + ([[a.before, *ours]] if a.before else [])
    best, memory, extra = [0.0] * len(sides), [0] * len(sides), [None] * len(sides)
    for _ in range(a.rounds):
        for side, command in enumerate(sides):
            out, err, peak = run(command, a.threads)
            if side != 1:
                summary = json.loads([line for line in err.splitlines() if '"verb"' in line][-1])
                extra[side] = [json.loads(line).get("logprob") for line in out.splitlines()]
            else:
                summary = json.loads(out.splitlines()[-1])
                extra[side] = summary["logprobs"]
                versions.update({k: summary[k] for k in ("torch", "transformers")})
            tokens = summary["read_tokens"] if verb == "score" and side != 1 else summary["tokens"]
            best[side] = max(best[side], tokens / summary["seconds"])
            memory[side] = max(memory[side], peak)
    return best, memory, extra


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ldalign", default="bin/ldalign")
    p.add_argument("--peer", required=True, help="python of the peer's environment")
    p.add_argument("--before", help="an earlier ldalign, to compare with in the same run")
    p.add_argument("--model", action="append", required=True)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--batch", type=int, action="append", help="default: 1, 8 and 32")
    p.add_argument("--prompts", type=int, help="records of a setting; default: 6 at batch 1, 24 at 8, 96 at 32 and to score")
    p.add_argument("--only", choices=["greedy", "sampled", "score"], action="append")
    a = p.parse_args()
    only = a.only or ["greedy", "sampled", "score"]
    before = ["before", "ratio", "before's peak"] if a.before else []
    columns = ["model", "work", "batch", "ldalign tok/s", "transformers tok/s", "ratio", "ldalign peak", "transformers peak", *before]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder, 96)
        for model in a.model:
            for work in only:
                for batch in a.batch or [1, 8, 32]:
                    verb = "score" if work == "score" else "generate"
                    if verb == "score" and batch == 1:
                        continue
                    count = {1: 6, 8: 24}.get(batch, 3 * batch) if verb == "generate" else 96
                    count = min(a.prompts or count, 96)
                    source = "pairs.jsonl" if verb == "score" else "prompts.jsonl"
                    data = head(f"{folder}/{source}", f"{folder}/part.jsonl", count)
                    speed, memory, extra = setting(a, model, verb, data, batch, 1 if work == "sampled" else 0)
                    print(f"| {os.path.basename(model.rstrip('/'))} | {work} | {batch} | {speed[0]:.1f} | {speed[1]:.1f} | "
                          f"{speed[0] / speed[1]:.2f} | {memory[0] / 1e9:.2f} GB | {memory[1] / 1e9:.2f} GB |"
                          + (f" {speed[2]:.1f} | {speed[0] / speed[2]:.2f} | {memory[2] / 1e9:.2f} GB |" if a.before else ""), flush=True)
                    if verb == "score":
                        worst = max(abs(x - y) for x, y in zip(*extra[:2]))
                        print(f"<!-- largest difference of a response's log-probability: {worst:.1e} -->", flush=True)
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    print(f"\n{cpu}, {os.cpu_count()} cores, {a.threads} threads, best of {a.rounds} rounds; "
          + ", ".join(f"{name} {version}" for name, version in versions.items()))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
