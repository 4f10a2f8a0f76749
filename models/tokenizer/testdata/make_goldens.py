"""Makes the goldens of package tokenizer: tiny tokenizers, trained here, and what transformers does with them.

usage: python make_goldens.py        writes a folder for each tokenizer and goldens.json beside this script
needs: pip install transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
"""
import datetime, json, os, shutil

os.environ["HF_HUB_OFFLINE"] = "1"
import jinja2, tokenizers, transformers
import transformers.utils.chat_template_utils as chat_template_utils
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from templates import CHATML_SYSTEM, LLAMA3, TEMPLATES, ZEPHYR

here = os.path.dirname(os.path.abspath(__file__))


class Clock(datetime.datetime):
    """The day at which package tokenizer stops the clock of strftime_now."""

    @classmethod
    def now(cls):
        return cls(2024, 7, 26)


chat_template_utils.datetime = Clock

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "What is the first word of the list: apple, pear, plum? The first word is apple.",
    "Write a short polite note to Ann about the meeting on Monday. Dear Ann, the meeting is on Monday. Kind regards.",
    "user assistant system user assistant system user assistant system",
    "1 and 2 are 3; 10 and 20 are 30; 1999 was 2 years before 2001.",
    "It's what they've said, isn't it? We'll see what he'd do.",
    "naïve café über façade — “quoted”… 日本語のテキスト 中文文本 текст 😀 🎉",
    "def f(x):\n    return x + 1\n\n\nprint(f(2))\t# three",
] * 8

TEXTS = [
    "", " ", "Hello, world!", "  two  spaces  ", "The dog's 1999 cats\n\nand 12345 mice.\n", "日本語と中文 text", "😀 family 👨‍👩‍👧 flags 🇩🇪", "é é ﬁ",
    "tab\there\r\nand \u00a0 nbsp", "<s>special</s> in the <|im_end|> text<|eot_id|><|endoftext|>", "\n", "a" * 50, "\u200bzero\ufeffwidth", "ЭТО текст",
    "code: {'a': [1, 2]} # 100%", "\u0001control\u007f", "NUL \u0000 inside",
]

CHATS = [
    [{"role": "user", "content": "  Hi <there>\n\nit's 😀 "}],
    [
        {"role": "system", "content": "Be | kind. "}, {"role": "user", "content": "数える"},
        {"role": "assistant", "content": "\n\nOne,\ntwo\n"}, {"role": "user", "content": "more"},
    ],
    [{"role": "user", "content": "What is the first word?"}, {"role": "assistant", "content": "The first word is apple."}],
]

PAIRS = [
    ("What is the first word of the list: apple, pear?", "The first word is apple."),
    ("数える 😀", "一、二、三\n\nand that is 3."),
    (" leading and trailing ", "plain"),
    ("empty answer", ""),
    ("List:", "- one\n- two\n"),
]


def byte_level(vocab_size, specials, split=None):
    t = Tokenizer(models.BPE())
    if split is None:
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        t.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    ))
    return t


def byte_fallback(vocab_size):
    """As Llama 2 and Mistral have it: a meta symbol for the space, bytes for what the alphabet lacks, a BOS by the post-processor."""
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.train_from_iterator(
        [line.split("naïve")[0] for line in CORPUS],
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)],
            limit_alphabet=60, max_token_length=12, show_progress=False,
        ),
    )
    made = json.loads(t.to_str())
    made["added_tokens"] = [a for a in made["added_tokens"] if not a["content"].startswith("<0x")]
    t = Tokenizer.from_str(json.dumps(made))
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return t


def gemma(vocab_size):
    """As Gemma: as Llama, but no space before the text, split behind the meta symbol's runs, BOS by the post-processor."""
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    t.train_from_iterator(
        [line.split("naïve")[0] for line in CORPUS],
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=specials + [f"<0x{i:02X}>" for i in range(256)],
            limit_alphabet=60, max_token_length=12, show_progress=False,
        ),
    )
    made = json.loads(t.to_str())
    made["added_tokens"] = [a for a in made["added_tokens"] if not a["content"].startswith("<0x")]
    t = Tokenizer.from_str(json.dumps(made))
    t.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)])
    return t


def unigram(vocab_size):
    """As T5 and XLM-R: SentencePiece's Unigram with Metaspace, EOS by the post-processor."""
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False,
    ))
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return t


def word_piece(vocab_size):
    """As BERT: the decoder puts the spaces back and cleans up before punctuation."""
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False,
    ))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return t


def word_ends(vocab_size):
    """As GPT and XLM: BPE with a mark at the end of a word, which the decoder makes a space but for the last."""
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.BPEDecoder(suffix="</w>")
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<eos>"], end_of_word_suffix="</w>", show_progress=False,
    ))
    return t


def kept(name, train, vocab_size):
    """The trainers of these do not repeat themselves: a tokenizer that is there stays."""
    path = os.path.join(here, name, "tokenizer.json")
    return Tokenizer.from_file(path) if os.path.exists(path) else train(vocab_size)


def save(name, t, config, **files):
    folder = os.path.join(here, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    t.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    files["tokenizer_config.json"] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024, **config}
    for file, content in files.items():
        with open(os.path.join(folder, file), "w", encoding="utf-8") as f:
            f.write(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1) + "\n")


LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
end = "<|endoftext|>"
gpt2 = byte_level(400, [end])
# Saved with truncation and padding, which transformers undoes at every call.
gpt2.enable_truncation(4)
gpt2.enable_padding(length=8, pad_id=0, pad_token=end)
save("gpt2", gpt2, {"bos_token": end, "eos_token": end, "unk_token": end}, **{"generation_config.json": {"eos_token_id": 0}})
save("llama", byte_fallback(420), {
    "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True},
    "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None, "chat_template": ZEPHYR,
}, **{"config.json": {"model_type": "llama", "eos_token_id": 2}})
save("chatml", byte_level(380, [end, "<|im_start|>", "<|im_end|>"]), {
    "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": end, "chat_template": "{{ 'not this one' }}",
}, **{"chat_template.jinja": CHATML_SYSTEM})
save("llama3", byte_level(
    380, ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], LLAMA3_SPLIT,
), {
    "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
    "chat_template": [{"name": "tool_use", "template": "{{ 'no' }}"}, {"name": "default", "template": LLAMA3}],
}, **{"generation_config.json": {"eos_token_id": [1, 4]}, "config.json": {"eos_token_id": 3}})
llama3_bos = byte_level(380, ["<|begin_of_text|>", "<|end_of_text|>"], LLAMA3_SPLIT)
llama3_bos.post_processor = processors.Sequence([
    processors.ByteLevel(trim_offsets=True),
    processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[("<|begin_of_text|>", 0)],
    ),
])
# Their own classes' names, as on the Hub; add_bos_token counts for nothing beside a tokenizer.json (transformers 5).
save("llama3-base", llama3_bos, {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "add_bos_token": False})
save("gemma", gemma(420), {
    "tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>",
    "chat_template": TEMPLATES["gemma3"],
}, **{"generation_config.json": {"eos_token_id": [1, 6]}})
qwen = byte_level(380, [end, "<|im_start|>", "<|im_end|>"], LLAMA3_SPLIT.replace("{1,3}", ""))
qwen.normalizer = normalizers.NFC()
qwen.post_processor = processors.ByteLevel(trim_offsets=False)
save("qwen", qwen, {
    "tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": end,
    "unk_token": None, "chat_template": TEMPLATES["qwen25"],
}, **{"generation_config.json": {"eos_token_id": [2, 0]}})
save("unigram", kept("unigram", unigram, 300), {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})
save("wordpiece", kept("wordpiece", word_piece, 300), {"eos_token": "[SEP]", "cls_token": "[CLS]", "unk_token": "[UNK]", "pad_token": "[PAD]"})
save("wordends", kept("wordends", word_ends, 300), {"eos_token": "<eos>", "unk_token": "<unk>"})

out = {
    "versions": {m.__name__: m.__version__ for m in (transformers, tokenizers, jinja2)},
    "templates": TEMPLATES, "chats": CHATS, "renders": [], "tokenizers": {},
}
for name, template in TEMPLATES.items():
    for chat, messages in enumerate(CHATS):
        for generate in (False, True):
            text = chat_template_utils.render_jinja_template(
                [messages], chat_template=template, add_generation_prompt=generate, bos_token="<s>", eos_token="</s>",
            )[0][0]
            out["renders"].append({"template": name, "chat": chat, "generate": generate, "text": text})

CHAT = ("llama", "chatml", "llama3", "gemma", "qwen")
for name in ("gpt2", "llama3-base", "unigram", "wordpiece", "wordends") + CHAT:
    t = AutoTokenizer.from_pretrained(os.path.join(here, name))
    entry = out["tokenizers"][name] = {
        "vocab": max(t.get_vocab().values()) + 1, "bos": t.bos_token_id, "eos": t.eos_token_id, "texts": [], "chats": [], "pairs": [],
    }
    for text in TEXTS:
        for special in (False, True):
            ids = t(text, add_special_tokens=special).input_ids
            entry["texts"].append({
                "text": text, "special": special, "ids": ids,
                "decoded": t.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
                "skipped": t.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            })
    if name not in CHAT:
        continue
    for chat, messages in enumerate(CHATS):
        for generate in (False, True):
            text = t.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
            entry["chats"].append({"chat": chat, "generate": generate, "text": text, "ids": t(text, add_special_tokens=False).input_ids})
    stops = {"llama3": [4, 1], "gemma": [1, 6], "qwen": [2, 0]}.get(name, [t.eos_token_id])
    for prompt, response in PAIRS:
        messages = [{"role": "user", "content": prompt}]
        before = t.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        whole = t.apply_chat_template(messages + [{"role": "assistant", "content": response}], tokenize=False)
        before, whole = (t(text, add_special_tokens=False).input_ids for text in (before, whole))
        assert whole[: len(before)] == before, (name, prompt)
        rest = whole[len(before):]
        ends = [i for i, id in enumerate(rest) if id in stops]
        entry["pairs"].append({"prompt": prompt, "response": response, "prompt_ids": before, "response_ids": rest[: ends[0] + 1]})

with open(os.path.join(here, "goldens.json"), "w", encoding="utf-8") as f:
    json.dump(out, f, ensure_ascii=False, separators=(",", ":"))
    f.write("\n")
