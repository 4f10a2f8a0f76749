"""Golden models of the family tests: tiny random models and what transformers computes with them.

    python make_goldens.py make [NAME…]     writes the folders of MODELS, or some of them, beside this file
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
from transformers import (
    AutoModelForCausalLM, Gemma3Config, Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config,
    SiglipVisionConfig,
)

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
# A sequence of the goldens has up to 81 tokens with its greedy text: all windows are much shorter.
SMALL = dict(
    vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=40, max_position_embeddings=128, initializer_range=0.3, bos_token_id=1, eos_token_id=2,
)
ROPE = {"rope_type": "default", "rope_theta": 500.0}
GEMMA3 = {
    **SMALL, "num_hidden_layers": 3, "head_dim": 10, "query_pre_attn_scalar": 12, "sliding_window": 9, "initializer_range": 0.2,
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    },
}
MODELS = {
    "llama": LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "llama-tied": LlamaConfig(**{**LLAMA, "num_key_value_heads": 4}, tie_word_embeddings=True),
    "llama-bf16": LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "mistral": MistralConfig(**LLAMA, head_dim=10, sliding_window=128, tie_word_embeddings=False),
    "gpt2": GPT2Config(**GPT2),
    # The wavelengths are 6, 30, 140 and 664 positions: one is kept, one is between, two are stretched.
    "llama3-f16": LlamaConfig(**SMALL, head_dim=8, rope_parameters={
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }),
    "llama-linear-bias": LlamaConfig(
        **SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0},
    ),
    "mistral-window": MistralConfig(**SMALL, sliding_window=7, rope_parameters=ROPE),
    "qwen2": Qwen2Config(**SMALL, rope_parameters=ROPE),
    "qwen2-window-bf16": Qwen2Config(
        **SMALL, rope_parameters=ROPE, use_sliding_window=True, sliding_window=10, max_window_layers=1, tie_word_embeddings=True,
    ),
    "qwen3": Qwen3Config(**SMALL, rope_parameters=ROPE, head_dim=10, tie_word_embeddings=True),
    "qwen3-shards": Qwen3Config(
        **SMALL, rope_parameters=ROPE, head_dim=6, attention_bias=True, use_sliding_window=True, sliding_window=12,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "gemma3": Gemma3TextConfig(**GEMMA3, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "gemma3-bf16": Gemma3TextConfig(
        **{**GEMMA3, "num_hidden_layers": 2}, sliding_window_pattern=2, attention_bias=True, tie_word_embeddings=False,
    ),
    "gemma3-images": Gemma3Config(
        text_config=Gemma3TextConfig(**{**GEMMA3, "num_hidden_layers": 2}, sliding_window_pattern=2).to_dict(),
        vision_config=SiglipVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        ).to_dict(),
        image_token_index=VOCAB, mm_tokens_per_image=4,
    ),
}
SHARDED = ("qwen3-shards", "gemma3-images")


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
        if margin < 2e-4:
            return None  # a tie within rounding
        greedy.append(text[prompt:])
    return logits, {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sequences": [{"ids": ids, "prompt_len": p} for (p, _), ids in zip(LENGTHS, rows)],
        "token_logprobs": logprobs,
        "greedy": greedy,
    }


def dtype_of(name):
    return torch.bfloat16 if name.endswith("bf16") else torch.float16 if name.endswith("f16") else torch.float32


def make(*names):
    for number, (name, config) in enumerate(MODELS.items()):
        if names and name not in names:
            continue
        folder = os.path.join(HERE, name)
        made = None
        for seed in range(SEED + number, SEED + number + 5000, 100):  # the first one without ties in the greedy text
            shutil.rmtree(folder, ignore_errors=True)
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():  # norms and biases that do something
                for key, parameter in model.named_parameters():
                    if parameter.ndim == 1:
                        parameter.add_(torch.randn_like(parameter) * 0.2)
                    if name.startswith("gemma3") and "post_" in key and parameter.ndim == 1:
                        parameter.add_(2)  # the layers shall weigh more than the token that is there
            shards = {"max_shard_size": "24KB"} if name in SHARDED else {}
            model.to(dtype_of(name)).save_pretrained(folder, **shards)
            os.remove(os.path.join(folder, "generation_config.json"))
            made = expectations(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
            if made:
                break
        logits, expect = made
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
    if sys.argv[1:2] == ["make"]:
        make(*sys.argv[2:])
    elif len(sys.argv) == 4 and sys.argv[1] == "verify":
        verify(*sys.argv[2:])
    else:
        sys.exit(__doc__)
