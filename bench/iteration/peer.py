"""The peer of the iteration benchmark: a plain script of transformers' generate and TRL's DPOTrainer.

    python peer.py FOLDER data.jsonl BATCH MAX_NEW_TOKENS THREADS

One iteration of SPIN: an answer is sampled for every prompt, 32 at a time, and DPO trains the given answers against them
for one epoch. Prints one line of JSON with the seconds of both, without imports and loading.
"""

import json
import sys
import tempfile
import time

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, data, batch, most, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(1)
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
records = [json.loads(line) for line in open(data, encoding="utf-8")]
prompts = [[{"role": "user", "content": r["prompt"]}] for r in records]

start = time.perf_counter()
sampled = []
with torch.inference_mode():
    for i in range(0, len(records), 32):
        inputs = tokenizer.apply_chat_template(prompts[i : i + 32], add_generation_prompt=True, padding=True,
                                               return_tensors="pt", return_dict=True)
        out = model.generate(**inputs, max_new_tokens=int(most), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                             pad_token_id=tokenizer.pad_token_id)
        sampled += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
generated = time.perf_counter()
rows = [{"prompt": p, "chosen": [{"role": "assistant", "content": r["response"]}],
         "rejected": [{"role": "assistant", "content": s}]} for p, r, s in zip(prompts, records, sampled)]
del model
trainer = trl.DPOTrainer(
    model=folder, train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(folder),
    args=trl.DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=int(batch), num_train_epochs=1, optim="rmsprop",
        optim_args="alpha=0.99,eps=1e-8", learning_rate=5e-7, max_grad_norm=1.0, beta=0.1, gradient_checkpointing=False,
        bf16=False, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        model_init_kwargs={"dtype": "float32"}, max_length=1024))
begun = time.perf_counter()
trainer.train()
print(json.dumps({"generate": generated - start, "train": time.perf_counter() - begun,
                  "seconds": generated - start + time.perf_counter() - begun}))
