"""Writes models/tiny-v1 as GGUF files with its tokenizer and chat template: F16, Q8_0, Q6_K and Q4_K_M.

    pip install numpy gguf llama-cpp-python tokenizers
    python scripts/make_tiny_gguf.py FOLDER

The files are FOLDER/tiny-v1-FORM.gguf; llama.cpp's own quantiser makes them from the F16 ones. A K-quant needs rows of
256 values, but the model's have 128. llama.cpp would fall back to Q5_0 and Q8_0, so for Q6_K and Q4_K_M the model
is widened by zeros. This does not change its output (`padded` in make_gguf_oracle.py).

GGUF names the way of splitting text before merging. `smollm` is the nearest to the model's own; it differs only at
several spaces or line breaks in a row. The script checks that it gives the same ids for all of models/questions.json.
"""

import argparse
import collections
import ctypes
import json
import pathlib
import tempfile

import gguf
import llama_cpp
from tokenizers import Tokenizer

from make_gguf_oracle import ROOT, quantise, quiet, tiny_file

SOURCE = ROOT / "models" / "tiny-v1"
# Whether a form needs the wide model.
FORMS = {"F16": False, "Q8_0": False, "Q6_K": True, "Q4_K_M": True}


def read_json(path):
    return json.loads(path.read_text())


def add_text(writer):
    """The tokenizer and the chat template."""
    tokenizer, config = read_json(SOURCE / "tokenizer.json"), read_json(SOURCE / "tokenizer_config.json")
    model, special = tokenizer["model"], {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    assert [model["vocab"][token] for token in tokens] == [*range(len(tokens))] and special.keys() <= {*tokens}
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    writer.add_name(SOURCE.name)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(special[config["bos_token"]])
    writer.add_eos_token_id(special[config["eos_token"]])
    writer.add_pad_token_id(special[config["pad_token"]])
    writer.add_add_bos_token(config["add_bos_token"])
    writer.add_chat_template(config["chat_template"])


def check_text(path):
    """Checks that llama.cpp, which gets the vocabulary from the file, gives the ids of tokenizer.json."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    vocab, room = llama_cpp.llama_model_get_vocab(model), (llama_cpp.llama_token * 512)()
    own = Tokenizer.from_file(str(SOURCE / "tokenizer.json"))
    for entry in read_json(ROOT / "models" / "questions.json"):
        text = (f"<|im_start|>user\n{entry['question']}<|im_end|>\n"
                f"<|im_start|>assistant\n{entry['answer']}<|im_end|>\n")
        data = text.encode()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), room, len(room), False, True)
        assert room[:count] == own.encode(text, add_special_tokens=False).ids, text
    llama_cpp.llama_model_free(model)


def write(folder):
    """Writes the files; their paths by form."""
    paths = {form: folder / f"{SOURCE.name}-{form.lower()}.gguf" for form in FORMS}
    with tempfile.TemporaryDirectory() as work:
        work, bases = pathlib.Path(work), {False: paths["F16"]}
        for wide in sorted({*FORMS.values()}):
            tiny_file(work / "f32.gguf", wide, add_text)
            quantise(work / "f32.gguf", bases.setdefault(wide, work / "wide.gguf"), "F16")
        for form, wide in FORMS.items():
            if form != "F16":
                quantise(bases[wide], paths[form], form)
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    for path in write(args.folder).values():
        check_text(path)
        kinds = collections.Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors)
        print(path, path.stat().st_size, dict(kinds))


if __name__ == "__main__":
    main()
