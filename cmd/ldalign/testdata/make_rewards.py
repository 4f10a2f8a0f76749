"""Writes rewards.json: what transformers' pipeline of tokenizer and model gives for pairs of texts, with the tiny DeBERTa-v3
of models/reward/testdata/v3, at two lengths.

    VENV/bin/python cmd/ldalign/testdata/make_rewards.py

Made with torch 2.15.0 and transformers 5.23.0.
"""

import json
import pathlib

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

here = pathlib.Path(__file__).parent
folder = here.parents[2] / "models/reward/testdata/v3"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
TEXTS = [
    ("What is the capital of France?", "The capital is Paris.", "Eight."),
    ("How many legs has a spider?", "Eight.", "The night is cold. " * 12),
    ("Please write a poem about rain; " * 3, "Rain falls on the roof, the roof is old.", "a number"),
    ("größere Bäume", "naïve café 日本語", "Higher is better, isn't it?"),
]
cases = []
for most in (64, 20):
    for prompt, chosen, rejected in TEXTS:
        values, cut, tokens = [], False, 0
        for text in (chosen, rejected):
            whole = len(tokenizer([prompt], [text])["input_ids"][0])
            inputs = tokenizer([prompt], [text], truncation="longest_first", max_length=most, return_tensors="pt")
            with torch.no_grad():
                values.append(model(**inputs).logits[0, 0].item())
            cut, tokens = cut or whole > most, tokens + inputs["input_ids"].shape[1]
        cases.append({"max_tokens": most, "prompt": prompt, "chosen": chosen, "rejected": rejected,
                      "reward_chosen": values[0], "reward_rejected": values[1], "truncated": cut, "tokens": tokens})
(here / "rewards.json").write_text(json.dumps(
    {"torch": torch.__version__, "transformers": transformers.__version__, "cases": cases}, indent=1, ensure_ascii=False) + "\n")
