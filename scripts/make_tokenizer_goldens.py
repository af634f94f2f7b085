"""Writes tests/fixtures/gguf/{bpe,spm}.gguf, vocabularies without weights, and tokenizer_goldens.json: the ids
that llama.cpp and transformers give for the same vocabularies.

    pip install llama-cpp-python transformers sentencepiece gguf
    python scripts/make_tokenizer_goldens.py
"""

import io
import json
import pathlib
import tempfile
import unicodedata

import gguf
import llama_cpp
import sentencepiece
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "fixtures" / "gguf"
NORMAL, UNKNOWN, CONTROL, USER, BYTE = (gguf.TokenType[n] for n in ("NORMAL", "UNKNOWN", "CONTROL", "USER_DEFINED", "BYTE"))
SPECIAL = {"<|begin_of_text|>": CONTROL, "<|endoftext|>": CONTROL, "<|im_start|>": CONTROL, "<|im_end|>": CONTROL,
           "<tool_call>": USER}

WORDS = ["Hello", "hello world", "The quick brown fox", "naïve café", "Straße Größe ÄÖÜ", "Привет, мир", "Ελληνικά",
         "こんにちは世界", "你好，世界", "안녕하세요 세계", "مرحبا بالعالم", "שלום", "สวัสดีชาวโลก", "नमस्ते दुनिया", "Việt Nam",
         "👍", "👩‍👩‍👧‍👦 family", "🇩🇪🇯🇵", "🏳️‍🌈", "e\u0301 combining", "\u212b angstrom", "ﬁ ligature", "x² + y³ = z½",
         "I'm you're he's we'll they'd I've don't", "I'M YOU'RE HE'S WE'LL", "don’t", "camelCaseWord", "snake_case_word",
         "HTTPServerError", "SCREAMING", "iPhone", "McDonald", "日本語とEnglishの混在", "ABC日本", "über", "ÜBER", "ǅ title case",
         "0", "12", "123", "1234", "12345", "1234567890", "3.14159", "1,000,000", "٣٤٥", "Ⅷ", "①②", "2024-01-31", "a1b2c3",
         "!", "...", "?!?!", "a,b;c:d", "(x)", "[y]{z}", "<b>bold</b>", "\"quoted\"", "'single'", "`code`", "a/b/c", "//", "/\n",
         "C:\\path\\file", "user@example.org", "https://example.org/a?b=c&d=%20", "#hash $5 %6 ^7 &8 *9", "~|`", "+=-_", "€£¥", "→←",
         "def f(x):\n    return x + 1\n", "for (int i = 0; i < 10; ++i) {\n\t\tsum += i;\n}", "{\"key\": [1, 2.5, null, true]}",
         "SELECT * FROM t WHERE a = 'b';", "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "a<|im_end|>b", "<tool_call>{}",
         " <|im_start|> ", "<|im_start|><|im_end|>", "<|im_", "<tool_call> <tool_call>", "<s>", "</s>", "<unk>", "<0x0A>", "▁", "a▁b",
         "\u00a0nbsp\u00a0", "zero\u200bwidth", "\ufeffbom", "\u3000ideographic\u3000", "tab\tin", "\t\ttabs", "\x00nul", "\x07bell\x1b[0m",
         "\u2028line", "\u0085nel", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "=" * 40, "-" * 17, "a" * 130, "word " * 30, "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𐍈𐌰", "\U0001F9D1\u200d\U0001F680"]
SPACES = ["", " ", "  ", "   ", "    ", "\n", "\n\n", "\n\n\n", " \n", "\n ", " \n ", "\r\n", "\r", "\t", "\t ", " \t\n ", "     \n\n   "]


def texts():
    found = list(WORDS) + list(SPACES)
    found += [f" {w}" for w in WORDS] + [f"{w} " for w in WORDS[::2]] + [f"  {w}\n" for w in WORDS[1::2]]
    found += [f"a{s}b" for s in SPACES] + [f"{s}end" for s in SPACES] + [f"7{s}8" for s in SPACES[:9]] + [f"x{s}" for s in SPACES]
    found += [f"{a}{b}" for a, b in zip(WORDS, WORDS[7:] + WORDS[:7])]
    return list(dict.fromkeys(found))


def corpus():
    files = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "src" / "rollout").glob("*.rs"))]
    return [f.read_text() for f in files] + WORDS * 3


def train_bpe():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(corpus(), trainer)
    model = json.loads(made.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [tuple(m) for m in model["merges"]]


def write(path, model, tokens, types, **more):
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_vocab_size(len(tokens))
    for key, value in {"context_length": 64, "embedding_length": 8, "feed_forward_length": 8, "head_count": 2, "block_count": 1}.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for key, value in more.items():
        getattr(writer, f"add_{key}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def bpe(path, pre, tokens, merges):
    tokens = tokens + list(SPECIAL)
    types = [NORMAL] * (len(tokens) - len(SPECIAL)) + list(SPECIAL.values())
    write(path, "gpt2", tokens, types, tokenizer_pre=pre, token_merges=[f"{a} {b}" for a, b in merges],
          bos_token_id=tokens.index("<|begin_of_text|>"), eos_token_id=tokens.index("<|endoftext|>"), add_bos_token=False)


def train_spm():
    model = io.BytesIO()
    lines = [line for text in corpus() for line in text.splitlines() if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=900, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98, minloglevel=2)
    loaded = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kind = lambda i: (UNKNOWN if loaded.is_unknown(i) else CONTROL if loaded.is_control(i) else BYTE if loaded.is_byte(i) else NORMAL)
    ids = range(loaded.get_piece_size())
    return [loaded.id_to_piece(i) for i in ids], [loaded.get_score(i) for i in ids], [kind(i) for i in ids]


def spm(path, vocabulary, prefix):
    tokens, scores, types = vocabulary
    extra = {"<|im_start|>": CONTROL, "<|im_end|>": CONTROL, "<tool_call>": USER}
    write(path, "llama", tokens + list(extra), types + list(extra.values()), tokenizer_pre="default",
          token_scores=scores + [-1000.0] * len(extra), bos_token_id=1, eos_token_id=2, unk_token_id=0,
          add_bos_token=False, add_eos_token=False, add_space_prefix=prefix)


def by_llama_cpp(path, given):
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(t.encode(), add_bos=False, special=True) for t in given]


def by_transformers(tokenizer, given):
    for token, kind in SPECIAL.items():
        if token in tokenizer.get_vocab():
            tokenizer.add_tokens([transformers.AddedToken(token, normalized=False, special=kind == CONTROL)], special_tokens=kind == CONTROL)
    return [tokenizer(t, add_special_tokens=False)["input_ids"] for t in given]


def main():
    given, cases = texts(), []
    nfc = [unicodedata.normalize("NFC", t) for t in given]
    OUT.mkdir(parents=True, exist_ok=True)
    tokens, merges = train_bpe()
    vocabulary = train_spm()
    bpe(OUT / "bpe.gguf", "llama-bpe", tokens, merges)
    spm(OUT / "spm.gguf", vocabulary, True)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "v.gguf"
        for pre in ("llama-bpe", "qwen2", "gpt-2", "default", "command-r", "tekken", "gpt-4o"):
            bpe(path, pre, tokens, merges)
            # llama.cpp does not normalise; the originals of these do.
            cases.append({"file": "bpe", "pre": pre, "by": "llama.cpp", "nfc": pre in ("qwen2", "command-r"),
                          "ids": by_llama_cpp(path, nfc if pre in ("qwen2", "command-r") else given)})
        for prefix in (True, False):
            spm(path, vocabulary, prefix)
            cases.append({"file": "spm", "prefix": prefix, "by": "llama.cpp", "ids": by_llama_cpp(path, given)})
    vocab = {t: i for i, t in enumerate(tokens + list(SPECIAL))}
    none = {k: None for k in ("unk_token", "bos_token", "eos_token", "pad_token")}
    more = {k: None for k in ("unk_token", "bos_token", "pad_token")} | {"eos_token": "<|endoftext|>"}
    for pre, make in (("qwen2", transformers.Qwen2Tokenizer), ("gpt-2", transformers.GPT2Tokenizer)):
        made = make(vocab=vocab, merges=merges, **more)
        cases.append({"file": "bpe", "pre": pre, "by": "transformers", "ids": by_transformers(made, given)})
    (OUT / "tokenizer_goldens.json").write_text(json.dumps({"texts": given, "cases": cases}, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(len(given), "texts", len(cases), "cases", (OUT / "tokenizer_goldens.json").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
