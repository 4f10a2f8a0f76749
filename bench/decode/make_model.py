"""An 18 M Llama with random weights, for the benchmark: the work of decoding does not depend on what the weights say.

    VENV/bin/python bench/decode/make_model.py FOLDER TOKENIZER

TOKENIZER is a folder whose tokenizer has at most 49,152 tokens (SmolLM2's has as many); its files are copied. Made with
the versions of requirements.txt; the same weights each time.
"""

import pathlib
import shutil
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

folder, tokenizer = map(pathlib.Path, sys.argv[1:])
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=49152, hidden_size=256, intermediate_size=768, num_hidden_layers=7, num_attention_heads=8,
    num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    pad_token_id=2))
model.save_pretrained(folder, safe_serialization=True)
for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]:
    if (tokenizer / name).exists():
        shutil.copy(tokenizer / name, folder / name)
print(f"{folder}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
