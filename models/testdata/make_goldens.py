"""Golden models of the family tests: tiny random models and what transformers computes with them.

    python make_goldens.py make             writes llama/ llama-tied/ llama-bf16/ mistral/ gpt2/ beside this file
    python make_goldens.py verify DIR NAME  opens the folder DIR (written by our own code) with transformers and checks that
                                            its logits and its greedy text are those of golden NAME

Each folder holds config.json, model.safetensors, expect.json (inputs, log-probs, greedy ids, versions) and
expect.safetensors (logits, float32, [tokens, V] for each sequence). Needs torch, transformers and safetensors.
"""

import json
import os
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 64
LENGTHS = ((5, 7), (11, 3), (17, 12), (1, 4))  # prompt and response tokens of the scored sequences
NEW_TOKENS = 64
SEED = 200

LLAMA = dict(
    vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=56, max_position_embeddings=128, rms_norm_eps=1e-5, initializer_range=0.25,
    bos_token_id=1, eos_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
)
GPT2 = dict(
    vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
)
MODELS = {
    "llama": LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "llama-tied": LlamaConfig(**{**LLAMA, "num_key_value_heads": 4}, tie_word_embeddings=True),
    "llama-bf16": LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "mistral": MistralConfig(**LLAMA, head_dim=10, sliding_window=128, tie_word_embeddings=False),
    "gpt2": GPT2Config(**GPT2),
}


def sequences():
    """The scored sequences: fixed pseudo-random ids, the same for every model."""
    rng = torch.Generator().manual_seed(7)
    return [torch.randint(3, VOCAB, (p + r,), generator=rng).tolist() for p, r in LENGTHS]


@torch.no_grad()
def expectations(model):
    rows, logits, logprobs, greedy = sequences(), {}, [], []
    for i, ((prompt, _), ids) in enumerate(zip(LENGTHS, rows)):
        out = model(torch.tensor([ids])).logits[0].float()
        logits[f"logits.{i}"] = out.contiguous()
        steps = out.double().log_softmax(-1)
        logprobs.append([steps[t - 1, ids[t]].item() for t in range(prompt, len(ids))])
        text, margin = ids[:prompt], 1e9
        for _ in range(NEW_TOKENS):  # plain greedy without a cache and without stopping
            last = model(torch.tensor([text])).logits[0, -1].float()
            best = last.topk(2).values
            margin = min(margin, (best[0] - best[1]).item())
            text = text + [int(last.argmax())]
        assert margin > 2e-4, f"a tie within rounding: {margin}; choose another base seed"
        greedy.append(text[prompt:])
    return logits, {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sequences": [{"ids": ids, "prompt_len": p} for (p, _), ids in zip(LENGTHS, rows)],
        "token_logprobs": logprobs,
        "greedy": greedy,
    }


def make():
    for number, (name, config) in enumerate(MODELS.items()):
        folder = os.path.join(HERE, name)
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(SEED + number)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():  # norms and biases that do something
            for key, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
        model.to(dtype).save_pretrained(folder)
        os.remove(os.path.join(folder, "generation_config.json"))
        logits, expect = expectations(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
        save_file(logits, os.path.join(folder, "expect.safetensors"))
        with open(os.path.join(folder, "expect.json"), "w") as file:
            json.dump(expect, file, indent=None, separators=(",", ":"))
            file.write("\n")
        print(name, sum(p.numel() for p in model.parameters()), "parameters")


def verify(folder, name):
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(loading.values()), loading
    logits, expect = expectations(model.eval())
    golden = load_file(os.path.join(HERE, name, "expect.safetensors"))
    worst = max((logits[k] - golden[k]).abs().max().item() for k in golden)
    with open(os.path.join(HERE, name, "expect.json")) as file:
        same = json.load(file)["greedy"] == expect["greedy"]
    print(f"{folder}: largest logit difference {worst:.2e}, greedy ids equal: {same}")
    assert worst < 1e-4 and same


if __name__ == "__main__":
    if sys.argv[1:] == ["make"]:
        make()
    elif len(sys.argv) == 4 and sys.argv[1] == "verify":
        verify(*sys.argv[2:])
    else:
        sys.exit(__doc__)
