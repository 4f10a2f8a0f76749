"""The peer of the training benchmark: TRL's DPOTrainer.

    python peer.py pairs FOLDER pairs.jsonl ids.jsonl     writes the token ids that TRL trains on
    python peer.py train FOLDER pairs.jsonl BATCH THREADS

`train` goes once over the pairs in their order, one step a batch, and prints one line of JSON: the tokens of prompt and
response on both sides and the seconds, both without the first step, the loss of every step, and the versions. It trains in
float32 with RMSprop, a constant rate of 1e-5, beta 0.1 and clipping at 1, and otherwise with TRL's defaults except for
gradient checkpointing, which is off.
"""

import json
import sys
import tempfile
import time

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback


class Steps(TrainerCallback):
    def __init__(self):
        self.ends, self.used = [], []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())
        self.used.append(time.process_time())


class InOrder(trl.DPOTrainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def make_trainer(folder, data, batch, steps):
    records = [json.loads(line) for line in open(data, encoding="utf-8")]
    dataset = Dataset.from_list([{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in records])
    config = trl.DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, num_train_epochs=1, optim="rmsprop",
        optim_args="alpha=0.99,eps=1e-8", learning_rate=1e-5, lr_scheduler_type="constant", max_grad_norm=1.0, beta=0.1,
        gradient_checkpointing=False, bf16=False, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, model_init_kwargs={"dtype": "float32"}, max_length=1024)
    return InOrder(model=folder, args=config, train_dataset=dataset, processing_class=AutoTokenizer.from_pretrained(folder),
                   callbacks=[steps])


def write_ids(folder, data, target):
    with open(target, "w") as out:
        for row in make_trainer(folder, data, 1, Steps()).train_dataset:
            out.write(json.dumps({k: row[k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")}) + "\n")


def train(folder, data, batch, threads):
    batch = int(batch)
    torch.set_num_threads(int(threads))
    steps = Steps()
    trainer = make_trainer(folder, data, batch, steps)
    rows = trainer.train_dataset
    sizes = [2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows]
    trainer.train()
    log = [h for h in trainer.state.log_history if "loss" in h]
    print(json.dumps({
        "tokens": sum(sizes[batch:]), "seconds": steps.ends[-1] - steps.ends[0],
        "cpu": steps.used[-1] - steps.used[0], "losses": [h["loss"] for h in log],
        "norms": [h["grad_norm"] for h in log], "torch": torch.__version__, "trl": trl.__version__,
        "transformers": transformers.__version__}))


{"pairs": write_ids, "train": train}[sys.argv[1]](*sys.argv[2:])
