"""Golden adapters: LoRA adapters made by PEFT on golden models of this folder, and the logits that PEFT computes.

    python make_adapters.py make [NAME…] writes the folders of ADAPTERS, or some of them, to adapters/ beside this file
    python make_adapters.py verify DIR   opens the adapter in DIR with PEFT and the merged model in DIR/merged with
                                         transformers, both written by
                                         go test ./models -run TestAdapterForPEFT -args -keep FOLDER,
                                         and compares their logits with those in expect.safetensors beside them

Each folder holds adapter_config.json, adapter_model.safetensors, expect.json (base model, inputs, versions) and
expect.safetensors (logits, float32, [tokens, V] for each sequence). Needs torch, transformers, peft and safetensors.
"""

import json
import os
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from make_goldens import sequences

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = 300

# name: (base model, configuration)
ADAPTERS = {
    "llama": ("llama", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "self_attn.o_proj"])),
    "llama-patterns": ("llama", dict(
        r=4, lora_alpha=6, use_rslora=True, target_modules=r".*\.(q_proj|k_proj|down_proj)|lm_head",
        rank_pattern={r"layers\.1\.self_attn\.q_proj": 2, "q_proj": 3, "down_proj": 40},
        alpha_pattern={"k_proj": 5, r".*\.1\.mlp\.down_proj": 2.5},
    )),
    "llama-layers": ("llama-tied", dict(
        r=2, lora_alpha=16, target_modules=["gate_proj", "up_proj", "down_proj"], layers_to_transform=[1],
        exclude_modules=["mlp.up_proj"],
    )),
    "gpt2": ("gpt2", dict(r=4, lora_alpha=4, target_modules="all-linear", fan_in_fan_out=True, lora_dropout=0.1)),
    "qwen2": ("qwen2", dict(r=3, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "up_proj", "lm_head"])),
    "gemma3": ("gemma3", dict(r=2, lora_alpha=8, target_modules="all-linear")),
}


def load(base):
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model):
    return {f"logits.{i}": model(torch.tensor([ids])).logits[0].contiguous() for i, ids in enumerate(sequences())}


def make(*names):
    for number, (name, (base, config)) in enumerate(ADAPTERS.items()):
        if names and name not in names:
            continue
        folder = os.path.join(HERE, "adapters", name)
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(SEED + number)
        model = get_peft_model(load(os.path.join(HERE, base)), LoraConfig(task_type="CAUSAL_LM", **config)).eval()
        with torch.no_grad():  # B starts as zeros
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(std=0.2)
        model.peft_config["default"].base_model_name_or_path = base  # not the path on this machine
        model.save_pretrained(folder, save_embedding_layers=False)
        os.remove(os.path.join(folder, "README.md"))
        path = os.path.join(folder, "adapter_config.json")
        with open(path) as file:  # PEFT writes a set, in any order
            written = json.load(file)
        if isinstance(written["target_modules"], list):
            written["target_modules"].sort()
        with open(path, "w") as file:
            json.dump(written, file, indent=2)
        again = PeftModel.from_pretrained(load(os.path.join(HERE, base)), folder).eval()
        expect, plain = logits(again), logits(load(os.path.join(HERE, base)))
        moved = min((expect[k] - plain[k]).abs().max().item() for k in expect)
        assert moved > 0.1, f"{name}: the adapter changes too little: {moved}"
        save_file(expect, os.path.join(folder, "expect.safetensors"))
        with open(os.path.join(folder, "expect.json"), "w") as file:
            versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
            json.dump({"base": base, "versions": versions, "sequences": sequences()}, file, separators=(",", ":"))
            file.write("\n")
        print(name, sum(p.numel() for k, p in model.named_parameters() if "lora_" in k), "parameters")


def compare(what, got, want):
    worst = max((got[k] - want[k]).abs().max().item() for k in want)
    print(f"{what}: largest logit difference {worst:.2e}")
    assert worst < 1e-5, what


def verify(folder):
    with open(os.path.join(folder, "expect.json")) as file:
        base = os.path.join(HERE, json.load(file)["base"])
    want = load_file(os.path.join(folder, "expect.safetensors"))
    compare(folder, logits(PeftModel.from_pretrained(load(base), folder).eval()), want)
    merged = os.path.join(folder, "merged")
    if os.path.isdir(merged):
        model, loading = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32, output_loading_info=True)
        assert not any(loading.values()), loading
        compare(merged, logits(model.eval()), load_file(os.path.join(merged, "expect.safetensors")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(*sys.argv[2:])
    elif len(sys.argv) == 3 and sys.argv[1] == "verify":
        verify(sys.argv[2])
    else:
        sys.exit(__doc__)
