"""KL divergences by llama.cpp between tiny-v1 in F16 and its quantised files, on a fixed text.

    pip install numpy gguf llama-cpp-python tokenizers
    python scripts/make_tiny_gguf.py FOLDER
    python scripts/make_kl_oracle.py FOLDER OUT_FILE

The text is every fifteenth question of models/questions.json with its answer, each a sequence of its own. Everything
after the first token of the question is scored, up to the end of the turn: in answers alone the model is so sure that
the divergence is little more than rounding. OUT_FILE is JSON:

* `texts`: token ids, and `scored`, a range [first, end) of positions: the distribution after token i is scored, the
  one for token i + 1.
* `pairs`: by form, the figures for KL(F16 || form) in nats, mean over all scored positions:
  - `mean_kl`, `standard_error`, `same_top`: "Mean KLD" and "Same top p" of `llama-perplexity --kl-divergence`. Like
    there, the base's log-probabilities are stored in 16 bits, and those below -16 are left out.
  - `unrounded`: the same without these 16 bits.
  - `exact`: the same again with all weights widened to F32 and a cache in F32. This leaves out llama.cpp's rounding
    of activations (to 8 bits for quantised weights), so only the rounding of the weights remains.
"""

import argparse
import ctypes
import json
import pathlib
import tempfile

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type
from tokenizers import Tokenizer

from make_gguf_oracle import Peer, quantise, quiet
from make_tiny_gguf import FORMS, ROOT, SOURCE, read_json

EVERY, SMALLEST = 15, -16.0


def read_texts():
    tokenizer = Tokenizer.from_file(str(SOURCE / "tokenizer.json"))
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    texts, first = [], len(encode("<|im_start|>user\n"))
    for entry in read_json(ROOT / "models" / "questions.json")[::EVERY]:
        prompt = encode(f"<|im_start|>user\n{entry['question']}<|im_end|>\n<|im_start|>assistant\n")
        tokens = prompt + encode(entry["answer"] + "<|im_end|>")
        texts.append({"tokens": tokens, "scored": [first, len(tokens) - 1]})
    return texts


def log_softmax(rows):
    rows = rows - rows.max(1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(1, keepdims=True))


def score(path, texts, cache=Type.F16):
    """Log-probabilities at all scored positions; a text is one batch, as in llama-perplexity."""
    peer, rows = Peer(path, cache), []
    for text in texts:
        tokens, (first, end) = text["tokens"], text["scored"]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(peer.context), True)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
            batch.logits[i] = first <= i < end
        assert llama_cpp.llama_decode(peer.context, batch) == 0
        for i in range(first, end):
            logits = llama_cpp.llama_get_logits_ith(peer.context, i)
            rows.append(np.ctypeslib.as_array(logits, shape=(peer.vocab,)).astype(np.float64))
        llama_cpp.llama_batch_free(batch)
    peer.close()
    return log_softmax(np.array(rows))


def stored(base):
    """Log-probabilities after llama-perplexity stored them in 16 bits, for a range of at most 16 nats a row."""
    top = base.max(1, keepdims=True)
    low = np.maximum(base.min(1, keepdims=True), top + SMALLEST)
    step = (top - low) / 65535
    return np.where(base > low, np.rint((base - low) / step), 0) * step + low


def figures(base, other):
    terms = np.where(base > SMALLEST, np.exp(base) * (base - other), 0)
    kl = terms.sum(1)
    same = (base.argmax(1) == other.argmax(1)).mean()
    error = kl.std() / (len(kl) - 1) ** 0.5
    return kl, {"mean_kl": float(kl.mean()), "standard_error": float(error), "same_top": float(same)}


def wide(path, texts, folder):
    """`score` with weights and cache in F32."""
    target = folder / "wide.gguf"
    quantise(path, target, "F32", again=True)
    return score(target, texts, Type.F32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="where make_tiny_gguf.py wrote the files")
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    texts, pairs = read_texts(), {}
    paths = {form: args.folder / f"{SOURCE.name}-{form.lower()}.gguf" for form in FORMS}
    base = score(paths["F16"], texts)
    with tempfile.TemporaryDirectory() as folder:
        exact_base = wide(paths["F16"], texts, pathlib.Path(folder))
        for form in [form for form in FORMS if form != "F16"]:
            other = score(paths[form], texts)
            kl, found = figures(stored(base), other)
            found["unrounded"] = figures(base, other)[1]
            found["exact"] = figures(exact_base, wide(paths[form], texts, pathlib.Path(folder)))[1]
            print(form, len(kl), json.dumps(found))
            pairs[form] = found
    lines = ",\n".join(json.dumps(text, separators=(",", ":")) for text in texts)
    forms = ",\n".join(f"{json.dumps(form)}: {json.dumps(pair)}" for form, pair in pairs.items())
    args.out.write_text(f'{{"llama_cpp_python": "{llama_cpp.__version__}", "base": "F16", '
                        f'"positions": {len(base)},\n"texts": [\n{lines}\n],\n"pairs": {{\n{forms}\n}}}}\n')


if __name__ == "__main__":
    main()
