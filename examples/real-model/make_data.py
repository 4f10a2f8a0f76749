"""Makes train.jsonl and heldout.jsonl from the package chatterbot-corpus (question and answer pairs in English).

usage: pip download --no-deps -d DIR chatterbot-corpus==1.3.3 && pip install pyyaml==6.0.3
       python make_data.py DIR/chatterbot_corpus-1.3.3-py2.py3-none-any.whl OUT_DIR

Nothing of the package is executed, and its data is not committed. Answers under 25 characters are left out: they hold too
little to align on.
"""
import json
import os
import sys
import zipfile

import yaml

wheel, out = sys.argv[1:]
os.makedirs(out, exist_ok=True)
topics = ["ai", "computers", "food", "health", "history", "literature", "money", "movies", "psychology", "science"]
records, seen = [], set()
with zipfile.ZipFile(wheel) as z:
    for topic in topics:
        for pair in yaml.safe_load(z.read(f"chatterbot_corpus/data/english/{topic}.yml"))["conversations"]:
            if len(pair) < 2 or not all(isinstance(text, str) for text in pair[:2]):
                continue
            prompt, response = (" ".join(text.split()) for text in pair[:2])
            if len(response) >= 25 and prompt not in seen:
                seen.add(prompt)
                records.append({"prompt": prompt, "response": response})
held_out = records[::10]
train = [r for i, r in enumerate(records) if i % 10]
for name, part in (("train", train), ("heldout", held_out)):
    with open(os.path.join(out, name + ".jsonl"), "w") as f:
        for r in part:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")
    print(f"{len(part)} records in {name}.jsonl")
