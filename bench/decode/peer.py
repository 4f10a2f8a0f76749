"""The peer of the decoding benchmark: transformers' generate, and a plain forward with log_softmax.

    python peer.py generate MODEL prompts.jsonl BATCH TEMPERATURE THREADS
    python peer.py score MODEL pairs.jsonl BATCH 0 THREADS

Prints one line of JSON: the tokens that were asked for, the seconds without loading, and the versions. Rows of a batch
decode until the longest of them is done; what a row has beyond its own max_tokens is not counted.
"""

import json
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

verb, folder, data, batch, temperature, threads = sys.argv[1:]
batch, temperature = int(batch), float(temperature)
torch.set_num_threads(int(threads))
torch.manual_seed(1)
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
records = [json.loads(line) for line in open(data, encoding="utf-8")]


@torch.inference_mode()
def generate(part):
    inputs = tokenizer([r["prompt"] for r in part], return_tensors="pt", padding=True, add_special_tokens=False)
    longest = max(r["max_tokens"] for r in part)
    how = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0) if temperature else dict(do_sample=False)
    out = model.generate(**inputs, max_new_tokens=longest, min_new_tokens=longest, eos_token_id=None,
                         pad_token_id=tokenizer.pad_token_id, **how)
    assert out.shape[1] == inputs.input_ids.shape[1] + longest
    return sum(r["max_tokens"] for r in part)


@torch.inference_mode()
def score(part):
    prompts = [tokenizer(r["prompt"], add_special_tokens=False).input_ids for r in part]
    wholes = [tokenizer(r["prompt"] + r["response"], add_special_tokens=False).input_ids for r in part]
    width = max(map(len, wholes))
    ids = torch.tensor([w + [tokenizer.pad_token_id] * (width - len(w)) for w in wholes])
    mask = torch.tensor([[1] * len(w) + [0] * (width - len(w)) for w in wholes])
    steps = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    picked = steps[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    total = 0
    for row, (p, w) in enumerate(zip(prompts, wholes)):
        part[row]["logprob"] = picked[row, len(p) - 1 : len(w) - 1].sum().item()
        total += len(w)
    return total


work = {"generate": generate, "score": score}[verb]
start = time.perf_counter()
tokens = sum(work(records[i : i + batch]) for i in range(0, len(records), batch))
seconds = time.perf_counter() - start
print(json.dumps({"tokens": tokens, "seconds": seconds, "torch": torch.__version__,
                  "transformers": transformers.__version__,
                  "logprobs": [r.get("logprob") for r in records] if verb == "score" else None}))
