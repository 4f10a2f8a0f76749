"""Golden reward models: tiny random DeBERTa-v2 classifiers, a tokenizer, and what transformers computes with them.

    python make_goldens.py      writes v3/ v2/ c2p/ p2c/ plain/ beside this file

Each folder holds config.json, model.safetensors (c2p: bfloat16 shards) and expect.json: sequences, their segments' lengths,
the logits of each alone and of all as one padded batch, and the versions. v3/ holds a Unigram tokenizer too, with pairs.json:
what it makes of pairs of texts, also truncated. The models come out the same each time; the tokenizer may not, as its
trainer's order of threads shows. Needs torch, transformers and tokenizers.
"""

import json
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2ForSequenceClassification, DebertaV2Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 260
LENGTHS = ((2, 1), (9, 8), (20, 21), (40, 24), (1, 63))  # tokens of the first and the second segment
SEED = 300

BASE = dict(
    vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=64, layer_norm_eps=1e-7, pad_token_id=0, initializer_range=0.3, num_labels=1,
)
MODELS = {
    # as DeBERTa-v3, with few buckets: from distance 4 on they are logarithmic
    "v3": dict(
        relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type="p2c|c2p",
        position_biased_input=False, type_vocab_size=0, max_relative_positions=-1, problem_type="regression",
    ),
    # projections of their own, distances as they are, absolute positions and segments, three labels
    "v2": dict(
        relative_attention=True, position_buckets=-1, norm_rel_ebd="none", share_att_key=False, pos_att_type=["c2p", "p2c"],
        position_biased_input=True, type_vocab_size=2, num_labels=3,
    ),
    # one term; distances beyond 12 share a bucket
    "c2p": dict(
        relative_attention=True, position_buckets=-1, share_att_key=False, pos_att_type=["c2p"], max_relative_positions=12,
        position_biased_input=False, type_vocab_size=0,
    ),
    # the other term; odd number of buckets, whose last ones are beyond max_relative_positions
    "p2c": dict(
        relative_attention=True, position_buckets=7, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type="p2c",
        max_relative_positions=20, position_biased_input=True, type_vocab_size=2,
    ),
    # no relative positions; the terms still count in the scale
    "plain": dict(relative_attention=False, pos_att_type=["p2c", "c2p"], position_biased_input=True, type_vocab_size=0),
}

CORPUS = """
the quick brown fox jumps over the lazy dog and the dog sleeps. What is the capital of France? The capital is Paris.
Explain how a reward model works: it reads a question and an answer, and gives a number. Higher is better, isn't it?
Please write a poem about rain; it should have four lines. Rain falls on the roof, the roof is old, the night is cold.
How many legs has a spider? Eight. Ein Satz mit Umlauten: für größere Bäume. 1, 2, 3, 42 and 1000 numbers.
""".strip()

PAIRS = [
    ("What is the capital of France?", "The capital is Paris."),
    ("how", "it reads a question and an answer, and gives a number. " * 4),
    ("it reads a question and an answer, and gives a number. " * 4, "Eight."),
    ("the rain the rain the rain", "the roof the roof the roof"),
    ("the rain the rain the rain the", "the roof the roof the roof"),
    ("the rain the rain the rain", "the roof the roof the roof the"),
    ("", "The capital is Paris."),
    ("What?", ""),
    ("", ""),
    ("  two  spaces\tand a tab\n\na new line  ", "\n leads and trails \n"),
    ("für größere Bäume", "naïve café — “quotes” … 日本語 😀"),
    ("a [SEP] within", "[CLS] and [MASK] and [PAD] written out"),
    ("combining e\u0301 and \u2581 itself", "x" * 50),
]
MAX_TOKENS = (None, 3, 4, 5, 6, 7, 8, 11, 12, 16, 25, 26, 64)


def versions():
    return {"torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__}


def write(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


@torch.no_grad()
def make_model(name, extra):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    config = DebertaV2Config(**{**BASE, **extra})
    torch.manual_seed(SEED)
    model = DebertaV2ForSequenceClassification(config).eval()
    for key, value in model.named_parameters():  # biases and norms too: none of them must be left out unseen
        if value.dim() == 1:
            value.add_(0.2 * torch.randn_like(value))
        if "rel_embeddings" in key:
            value.copy_(torch.randn_like(value))
    if name == "c2p":
        model = model.to(torch.bfloat16)
        model.save_pretrained(folder, max_shard_size="40KB")
        model = model.float()
    else:
        model.save_pretrained(folder)

    rng = torch.Generator().manual_seed(SEED)
    rows = [torch.randint(4, VOCAB, (a + b,), generator=rng).tolist() for a, b in LENGTHS]
    longest = max(len(r) for r in rows)

    def logits(rows, lengths, width):
        ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
        types = torch.tensor([[0] * a + [1] * b + [0] * (width - a - b) for a, b in lengths])
        return model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits.tolist()

    alone = [logits([r], [n], len(r))[0] for r, n in zip(rows, LENGTHS)]
    batch = logits(rows, LENGTHS, longest)
    # What a wrong build would not notice makes no test: order, position and segments must show in the numbers.
    swapped = [[r[0], r[2], r[1], *r[3:]] for r in rows]
    for a, b in zip(alone, [logits([r], [n], len(r))[0] for r, n in zip(swapped, LENGTHS)]):
        assert max(abs(x - y) for x, y in zip(a, b)) > 1e-3, (name, a, b)
    write(os.path.join(folder, "expect.json"), {
        "versions": versions(), "ids": rows, "first": [a for a, _ in LENGTHS], "alone": alone, "batch": batch,
    })


def make_tokenizer(folder):
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS.splitlines(), trainers.UnigramTrainer(
        vocab_size=VOCAB - 1, special_tokens=specials, unk_token="[UNK]", show_progress=False,
    ))
    state = json.loads(trained.to_str())
    vocab = [(token, score) for token, score in state["model"]["vocab"]]
    tok = DebertaV2Tokenizer(vocab=vocab, unk_id=3, model_max_length=64)
    assert tok.convert_tokens_to_ids(specials) == [0, 1, 2, 3] and len(tok) <= VOCAB, (len(tok), VOCAB)
    tok.save_pretrained(folder)
    again = AutoTokenizer.from_pretrained(folder)
    cases = []
    for first, second in PAIRS:
        # as a batch of one: called with two texts, transformers takes an empty second text for none at all
        whole = tok([first], [second])["input_ids"][0]
        for most in MAX_TOKENS:
            options = dict(truncation="longest_first", max_length=most) if most else {}
            got = {key: value[0] for key, value in tok([first], [second], **options).items()}
            assert again([first], [second], **options)["input_ids"] == [got["input_ids"]]
            types = got["token_type_ids"]
            cases.append({
                "first": first, "second": second, "max_tokens": most or 0, "ids": got["input_ids"],
                "first_tokens": types.count(0), "cut": len(whole) - len(got["input_ids"]),
            })
    # one case a line: small, and a change shows
    with open(os.path.join(folder, "pairs.json"), "w") as f:
        f.write('{"versions": %s,\n"cases": [\n' % json.dumps(versions()))
        f.write(",\n".join(json.dumps(c) for c in cases) + "\n]}\n")


def main():
    for name, extra in MODELS.items():
        make_model(name, extra)
    make_tokenizer(os.path.join(HERE, "v3"))


if __name__ == "__main__":
    main()
