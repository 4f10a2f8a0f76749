"""trl.json: 20 steps of TRL's DPOTrainer and SFTTrainer on a tiny Llama, and the rates of transformers' schedules.

    python make_trl_goldens.py    writes trl.json beside this file

The model is ../../models/testdata/llama (random weights, 64 tokens), float32, without dropout. Each step takes all
pairs, so no order can differ. The reference is the model as it starts. Stored are, for every step, loss, gradient norm
before clipping, learning rate and what TRL logs of rewards and log-probs, and of the final weights each tensor's sum, norm
and first values.

TRL has no label smoothing for its sigmoid loss. Its loss `aot` is cDPO's formula on sorted margins, and with one pair
in a batch there is nothing to sort: so cDPO is `aot`, one pair at a time, all of them accumulated.

Needs torch, transformers, accelerate, datasets and trl==1.16.0.
"""

import json
import os
import tempfile

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, get_scheduler
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

TRL = "1.16.0"
HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "..", "..", "models", "testdata", "llama")
PAIRS, STEPS = 6, 20
METRICS = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"]


def pairs():
    """Token ids of prompts and of two responses each, of different lengths."""
    rng = torch.Generator().manual_seed(7)
    draw = lambda n: torch.randint(3, 64, (n,), generator=rng).tolist()
    rows = []
    for i in range(PAIRS):
        rows.append(dict(prompt_ids=draw(3 + i % 4), chosen_ids=draw(2 + 3 * i % 11) + [2], rejected_ids=draw(9 - i) + [2]))
    return rows


def texts():
    """The pairs as text, of which DPOTrainer makes these tokens again: token 5 is the word t05."""
    text = lambda ids: "".join(f" t{i:02}" for i in ids)
    return [dict(prompt=text(p["prompt_ids"]), chosen=text(p["chosen_ids"]), rejected=text(p["rejected_ids"])) for p in pairs()]


def tokenizer():
    words = {f"t{i:02}": i for i in range(64)}
    tok = Tokenizer(models.WordLevel(words, unk_token="t00"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="t01", eos_token="t02", pad_token="t00", unk_token="t00")


def exact(cls):
    """A trainer that notes the loss of each step in full."""

    class Exact(cls):
        losses = None

        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = super().training_step(model, inputs, num_items_in_batch)
            self.losses = self.losses or {}
            step = self.state.global_step
            self.losses[step] = self.losses.get(step, 0.0) + loss.double().item()
            return loss

    return Exact


def settings(folder, optim, lr, part):
    return dict(
        output_dir=folder, per_device_train_batch_size=part, gradient_accumulation_steps=PAIRS // part, max_steps=STEPS,
        learning_rate=lr, optim=optim, lr_scheduler_type="linear", warmup_steps=0.1, max_grad_norm=1.0, bf16=False,
        use_cpu=True, gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to=[], seed=1,
        disable_tqdm=True, max_length=128, weight_decay=0.0,
    )


def outcome(t):
    """Figures of every step and of the final weights."""
    steps = []
    logged = [line for line in t.state.log_history if "grad_norm" in line]
    for i, line in enumerate(logged):
        step = dict(loss=t.losses[i], grad_norm=line["grad_norm"], learning_rate=line["learning_rate"])
        step.update({name: line[name] for name in METRICS if name in line})
        steps.append(step)
    assert len(steps) == STEPS, len(steps)
    weights = {}
    for name, p in t.model.named_parameters():
        flat = p.detach().double().flatten()
        weights[name] = dict(sum=flat.sum().item(), norm=flat.norm().item(), first=flat[:8].tolist())
    return dict(steps=steps, weights=weights)


def model():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def dpo(name, loss, smoothing, beta, optim, lr, part=PAIRS):
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(loss_type=[loss], label_smoothing=smoothing, beta=beta, **settings(folder, optim, lr, part))
        t = exact(DPOTrainer)(
            model=model(), ref_model=model(), args=args, train_dataset=Dataset.from_list(texts()), processing_class=tokenizer(),
        )
        for made, meant in zip(t.train_dataset, pairs()):
            assert all(made[key] == ids for key, ids in meant.items()), (made, meant)
        t.train()
        return dict(name=name, label_smoothing=smoothing, beta=beta, optimizer=optim, lr=lr, **outcome(t))


def sft(optim, lr):
    rows = [
        dict(input_ids=p["prompt_ids"] + p["chosen_ids"], completion_mask=[0] * len(p["prompt_ids"]) + [1] * len(p["chosen_ids"]))
        for p in pairs()
    ]
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(completion_only_loss=True, packing=False, **settings(folder, optim, lr, PAIRS // 2))
        t = exact(SFTTrainer)(model=model(), args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer())
        t.train()
        return dict(name="sft", optimizer=optim, lr=lr, **outcome(t))


def schedules():
    """Factors of the peak rate at every step, by get_scheduler."""
    out = []
    for kind in ["linear", "cosine", "constant_with_warmup"]:
        for warmup, steps in [(0, 1), (0, 7), (1, 5), (3, 20), (20, 20)]:
            optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
            schedule = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
            factors = []
            for _ in range(steps):
                factors.append(schedule.get_last_lr()[0])
                optimizer.step()
                schedule.step()
            out.append(dict(schedule=kind.removesuffix("_with_warmup"), warmup=warmup, factors=factors))
    return out


def main():
    assert trl.__version__ == TRL, trl.__version__
    torch.set_num_threads(1)
    runs = []
    for optim, lr in [("adamw_torch", 1e-3), ("rmsprop", 2e-4)]:
        runs += [
            dpo("sigmoid", "sigmoid", 0.0, 0.1, optim, lr),
            dpo("hinge", "hinge", 0.0, 0.05, optim, lr),
            dpo("ipo", "ipo", 0.0, 0.1, optim, lr / 4),  # slower, or its loss falls to where its square root is rounding
            dpo("cdpo", "aot", 0.2, 0.1, optim, lr, part=1),
            dpo("robust", "robust", 0.1, 0.1, optim, lr),
            sft(optim, lr),
        ]
    versions = dict(trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__)
    with open(os.path.join(HERE, "trl.json"), "w") as f:
        lines = lambda rows: "[\n  " + ",\n  ".join(json.dumps(r) for r in rows) + "\n ]"
        parts = dict(versions=json.dumps(versions), pairs=lines(pairs()), runs=lines(runs), schedules=lines(schedules()))
        f.write("{\n " + ",\n ".join(f'"{name}": {text}' for name, text in parts.items()) + "\n}\n")


if __name__ == "__main__":
    main()
