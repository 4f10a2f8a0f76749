"""Writes sampling.json: what transformers' logits processors leave of rows of logits, as probabilities.

    VENV/bin/python models/tensor/testdata/make_sampling.py

Made with torch 2.15.0 and transformers 5.23.0. The processors stand in the order in which generate() applies them.
"""

import json
import pathlib

import torch
import transformers
from transformers import (LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
                          TopKLogitsWarper, TopPLogitsWarper)

SETTINGS = [
    dict(temperature=0.7), dict(temperature=1.8), dict(top_k=5), dict(top_k=1), dict(top_p=0.9), dict(top_p=0.3),
    dict(min_p=0.05), dict(min_p=0.4), dict(repetition_penalty=1.3), dict(repetition_penalty=0.8),
    dict(temperature=0.6, top_k=20, top_p=0.8), dict(top_k=3, top_p=0.9, min_p=0.1), dict(top_p=0.95, min_p=0.02),
    dict(temperature=1.5, top_k=40, top_p=0.9, min_p=0.1, repetition_penalty=1.2),
    dict(top_k=1000, top_p=0.7, min_p=0.05), dict(temperature=0.9, repetition_penalty=1.7, top_k=2),
]


def processors(s):
    out = []
    if "repetition_penalty" in s:
        out.append(RepetitionPenaltyLogitsProcessor(s["repetition_penalty"]))
    if "temperature" in s:
        out.append(TemperatureLogitsWarper(s["temperature"]))
    if "top_k" in s:
        out.append(TopKLogitsWarper(s["top_k"]))
    if "top_p" in s:
        out.append(TopPLogitsWarper(s["top_p"]))
    if "min_p" in s:
        out.append(MinPLogitsWarper(s["min_p"]))
    return LogitsProcessorList(out)


torch.manual_seed(3)
seen = [0, 4, 4, 59, 17]
cases = []
for setting in SETTINGS:
    for row in range(3):
        logits = torch.randn(1, 60) * (1 + 2 * row)
        if setting == dict(top_k=3, top_p=0.9, min_p=0.1) and row == 0:  # min-p must not change what top-p counts
            logits = torch.tensor([[1.0, 0.11, 0.09] + [1e-6] * 57]).log()
        left = processors(setting)(torch.tensor([seen]), logits.clone()).softmax(-1)
        cases.append({**setting, "logits": [float(f"{x:.9g}") for x in logits[0].tolist()],
                      "p": [float(f"{x:.6g}") for x in left[0].tolist()]})
file = pathlib.Path(__file__).with_name("sampling.json")
file.write_text(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "seen": seen}, indent=1)[:-2]
                + ',\n "cases": [\n' + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]}\n")
