"""Write copies of a model folder, each with one fault that causes no error.

    pip install -r scripts/requirements.txt
    python scripts/make_mutants.py MODEL_FOLDER OUT_FOLDER [--only NAME...] [--seed N]

Each mutant is a complete model folder, OUT_FOLDER/NAME. It loads and answers, all its weights are finite, and
only its answers are wrong or different. The mutants test that a canary which is wrong without an error is
noticed. Do not use them for anything else.

* head-zeroed: in every layer, attention head 0 adds nothing (its columns of o_proj are zero).
* norm-doubled: the weight of the final norm is doubled. This doubles all logits, so greedy replies stay the same,
  except where rounding matters, and sampled ones are as if drawn at half the temperature.
* embedding-swapped: the embeddings of 200 tokens are swapped in pairs (a fifth of the vocabulary if it has fewer
  than 1000 tokens). They are the tokens most frequent in models/questions.json, filled up with any others, and
  never special ones. If the output layer is tied to the embedding, it is swapped too.
* bos-dropped: the chat template and the tokenizer no longer put BOS in front. If the template does not use
  `bos_token` (in ChatML, for example), the mutant makes the opposite mistake: the template begins with one BOS
  that does not belong there (if the model names no BOS, with its EOS). A tokenizer without a template must
  itself add BOS.
* repetition-penalty: generation_config.json sets `repetition_penalty` to 1.3. The weights are the same, so it only
  changes replies to requests that leave the penalty to the model.
* template-without-assistant: a prompt ends after the last message, without the tag that begins the assistant's
  turn.
* weights-clipped: in every matrix of every layer, the fifth of the weights that is largest is clipped to the largest
  of the rest, as if a conversion had overflowed.
* lora-twice: a LoRA that was merged twice. It updates every matrix of every layer. Its output directions are random;
  its input directions are combinations of the weight's rows, so that it reacts to what the layer reacts to, like a
  trained one. It has rank 4, and its Frobenius norm is 22 % of the weight's; in the mutant it is added twice.

The folder has the Hugging Face layout of a Llama-like model: tokenizer.json and one or several safetensors files,
whose layers have their matrices under names that end with `_proj.weight`. Weights keep their types.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import zlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer

QUESTIONS = pathlib.Path(__file__).resolve().parent.parent / "models" / "questions.json"
SWAPPED, CLIPPED, PENALTY = 200, 0.2, 1.3
LORA_RANK, LORA_SIZE = 4, 0.22
MATRICES = r"\.(mlp|self_attn)\.\w+_proj\.weight"


def read_json(path):
    return json.loads(path.read_text()) if path.exists() else {}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def change_weights(folder, pattern, change):
    """Replaces every tensor whose name ends with the pattern by change(name, tensor), which may work in place."""
    changed = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
        found = [name for name in tensors if re.search(pattern + "$", name)]
        for name in found:
            kind = tensors[name].dtype
            tensors[name] = change(name, tensors[name]).to(kind).contiguous()
        if found:
            save_file(tensors, path, metadata=metadata)
        changed += len(found)
    if not changed:
        raise SystemExit(f"{folder}: no tensor is named like {pattern}; the model's family is not supported")


def change_templates(folder, change):
    """Replaces every chat template of the folder by change(text); returns the old ones."""
    old = []

    def changed(text):
        old.append(text)
        return change(text)
    files = [folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")]
    for path in files:
        if path.exists():
            path.write_text(changed(path.read_text()))
    for path in (folder / "tokenizer_config.json", folder / "chat_template.json"):
        config = read_json(path)
        template = config.get("chat_template")
        if isinstance(template, str):
            config["chat_template"] = changed(template)
        for entry in template if isinstance(template, list) else []:
            entry["template"] = changed(entry["template"])
        if template:
            write_json(path, config)
    return old


# ---- faults of the weights ------------------------------------------------

def head_zeroed(folder, seed):
    config = read_json(folder / "config.json")
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]

    def change(name, weight):
        weight[:, :width] = 0
        return weight
    change_weights(folder, r"\.o_proj\.weight", change)


def norm_doubled(folder, seed):
    change_weights(folder, r"^model\.norm\.weight", lambda name, weight: weight * 2)


def tokens_to_swap(folder, seed):
    """Ids of ordinary tokens, the frequent ones before the others, in random pairs."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {*tokenizer.get_added_tokens_decoder()}
    text = [entry[part] for entry in json.loads(QUESTIONS.read_text()) for part in ("question", "answer")]
    seen = collections.Counter(i for row in tokenizer.encode_batch(text, add_special_tokens=False) for i in row.ids)
    rng = random.Random(seed)
    others = sorted(set(tokenizer.get_vocab().values()) - set(seen))
    rng.shuffle(others)
    ordinary = [i for i in [i for i, _ in seen.most_common()] + others if i not in special]
    size = tokenizer.get_vocab_size()
    chosen = ordinary[:(SWAPPED if size >= 1000 else size // 5) // 2 * 2]
    rng.shuffle(chosen)
    return chosen


def embedding_swapped(folder, seed):
    ids = torch.tensor(tokens_to_swap(folder, seed))
    partners = ids.view(-1, 2).flip(1).flatten()

    def change(name, weight):
        weight[ids] = weight[partners]
        return weight
    change_weights(folder, r"\.embed_tokens\.weight", change)


def weights_clipped(folder, seed):
    def change(name, weight):
        sizes = weight.float().abs().flatten()
        bound = sizes.kthvalue(round(len(sizes) * (1 - CLIPPED))).values
        return weight.clamp(-bound, bound)
    change_weights(folder, MATRICES, change)


def lora_twice(folder, seed):
    def change(name, weight):
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        weight = weight.float()
        left = torch.randn(len(weight), LORA_RANK, generator=generator)
        update = left @ (torch.randn(LORA_RANK, len(weight), generator=generator) @ weight)
        update *= LORA_SIZE * weight.norm() / update.norm()
        return weight + 2 * update
    change_weights(folder, MATRICES, change)


# ---- faults of the text settings ------------------------------------------

def token_text(config, key):
    """`"bos_token": "<s>"` or `"bos_token": {"content": "<s>", ..}`."""
    value = config.get(key)
    return value["content"] if isinstance(value, dict) else value


def drop_from_tokenizer(folder, bos):
    """The tokenizer no longer puts BOS in front; returns whether it did before."""
    path, config = folder / "tokenizer_config.json", read_json(folder / "tokenizer_config.json")
    added = bool(config.get("add_bos_token"))
    if added:
        write_json(path, {**config, "add_bos_token": False})
    path, tokenizer = folder / "tokenizer.json", read_json(folder / "tokenizer.json")
    post = tokenizer.get("post_processor") or {}
    for part in post.get("processors", [post]):
        for key in ("single", "pair") if part.get("type") == "TemplateProcessing" else ():
            kept = [piece for piece in part[key] if piece.get("SpecialToken", {}).get("id") != bos]
            added |= len(kept) < len(part[key])
            part[key] = kept
    if added:
        write_json(path, tokenizer)
    return added


def bos_dropped(folder, seed):
    config = read_json(folder / "tokenizer_config.json")
    bos = token_text(config, "bos_token")
    begin = json.dumps(bos or token_text(config, "eos_token"), ensure_ascii=False)
    templates = change_templates(folder, lambda text: (
        "{% set bos_token = '' %}" if "bos_token" in text else "{{ " + begin + " }}") + text)
    if templates and not any("bos_token" in text for text in templates):
        return  # the opposite mistake; the tokenizer's BOS stays as it is
    if not drop_from_tokenizer(folder, bos) and not templates:
        raise SystemExit(f"{folder}: there is neither a chat template nor a BOS that the tokenizer adds")


def repetition_penalty(folder, seed):
    path = folder / "generation_config.json"
    write_json(path, {**read_json(path), "repetition_penalty": PENALTY})


def template_without_assistant(folder, seed):
    if not change_templates(folder, lambda text: "{% set add_generation_prompt = false %}" + text):
        raise SystemExit(f"{folder}: there is no chat template")


MUTANTS = {
    "head-zeroed": head_zeroed, "norm-doubled": norm_doubled, "embedding-swapped": embedding_swapped,
    "bos-dropped": bos_dropped, "repetition-penalty": repetition_penalty,
    "template-without-assistant": template_without_assistant, "weights-clipped": weights_clipped,
    "lora-twice": lora_twice,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", choices=MUTANTS, default=list(MUTANTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for name in args.only:
        folder = args.out / name
        if folder.exists():
            raise SystemExit(f"{folder} exists; delete it or choose another OUT_FOLDER")
        shutil.copytree(args.model, folder)
        try:
            MUTANTS[name](folder, args.seed)
        except BaseException:
            shutil.rmtree(folder)  # without its fault it would pass for a mutant
            raise
        print(folder)


if __name__ == "__main__":
    main()
