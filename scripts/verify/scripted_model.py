"""Writes a model folder that replies with given texts: tools, reasoning and JSON can be tested without a real model.

    python3 scripts/verify/scripted_model.py FOLDER

The last token of a prompt decides the reply. Its attention and its feed-forward part add nothing, each token of a reply
has a dimension of its own, and the output matrix leads from it to the next. The chat template ends each prompt with the
token of the reply that fits the conversation: a call if tools are offered, an answer after a tool's result, and
otherwise what a word in the conversation asks for. It is a Llama model like others; nothing in serin knows of it.
"""

import array
import json
import pathlib
import re
import struct
import sys

HELLO = "Hello there, my friend. How are you today?"
ANSWER = "It is sunny in Paris, and the temperature is 21 degrees."
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TWO_CALLS = CALL + '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
OBJECT = '```json\n{"name": "Ada", "age": 36}\n```'
PLAIN_OBJECT = '{"name": "Bob", "age": 41}'
THOUGHT, AFTER = "The sum needs care.", "The sum is 109."
THINK = f"<think>\n{THOUGHT}\n</think>\n\n{AFTER}"
LINES = "first line\nsecond line\nthird line END of it"
UNICODE = "Grüße 世界 🦜 done"
LONG = " ".join(f"word{n}" for n in range(400))

# A conversation with the word `say-NAME`, or `json`, gets that reply; `long` repeats for ever.
REPLIES = {
    "hello": HELLO,
    "answer": ANSWER,
    "call": CALL,
    "twice": TWO_CALLS,
    "json": OBJECT,
    "object": PLAIN_OBJECT,
    "think": THINK,
    "lines": LINES,
    "unicode": UNICODE,
    "long": LONG,
}
ASKED = {"json": "json", **{f"say-{name}": name for name in ("twice", "long", "object", "think", "lines", "unicode")}}

CHOICE = """{%- set ns = namespace(say='hello', words='') -%}
{%- for m in messages -%}{%- if m.content -%}{%- set ns.words = ns.words ~ ' ' ~ m.content -%}{%- endif -%}
{{- '<|im_start|>' + m.role + '\\n' + (m.content or '') -}}
{%- if m.tool_calls -%}{%- for c in m.tool_calls -%}
{{- '<tool_call>' + (c.function | tojson) + '</tool_call>' -}}{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\\n' -}}{%- endfor -%}
{%- set last = messages[-1] if messages else none -%}
{%- if tools -%}{{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' -}}
{%- set ns.say = 'call' -%}{%- endif -%}
ASKED
{%- if last and last.role == 'tool' -%}{%- set ns.say = 'answer' -%}{%- endif -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- if ns.say == 'think' -%}{%- set ns.say = 'hello' -%}{%- endif -%}{%- endif -%}
{{- '<|say:' + ns.say + '|>' -}}{%- endif -%}"""


def template():
    """The chat template, which chooses the reply."""
    rows = "".join(
        f"{{%- if '{word}' in ns.words -%}}{{%- set ns.say = '{name}' -%}}{{%- endif -%}}\n"
        for word, name in ASKED.items()
    )
    return CHOICE.replace("ASKED\n", rows)


def byte_letters():
    """The letter that stands for each byte in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def pieces(text, taken):
    """A text in pieces of about a word that no other reply has; a piece is one token."""
    cut, held = [], ""
    for word in re.findall(r"\s?\S+|\s", text):
        held += word
        if held not in taken and len(held) > 1:
            cut.append(held)
            taken.add(held)
            held = ""
    if held:
        cut[-1] += held
        taken.add(cut[-1])
    return cut


def chains():
    """For each reply its tokens' texts."""
    taken = set()
    return {name: pieces(text, taken) for name, text in REPLIES.items()}


def vocabulary():
    """Ids of all tokens: specials, bytes, starts of replies, and the pieces of each reply."""
    letters, specials = byte_letters(), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    ids = {text: number for number, text in enumerate(specials)}
    for letter in letters.values():
        ids[letter] = len(ids)
    starts = {name: ids.setdefault(f"<|say:{name}|>", len(ids)) for name in REPLIES}
    replies = {}
    for name, texts in chains().items():
        words = ["".join(letters[byte] for byte in text.encode()) for text in texts]
        replies[name] = [ids.setdefault(word, len(ids)) for word in words]
    return ids, specials, starts, replies


def tokenizer(ids, specials, starts):
    """tokenizer.json: bytes, with the pieces as tokens that no text is split into."""
    added = specials + [f"<|say:{name}|>" for name in starts]
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    model = dict(
        type="BPE",
        dropout=None,
        unk_token=None,
        continuing_subword_prefix=None,
        end_of_word_suffix=None,
        fuse_unk=False,
        byte_fallback=False,
        ignore_merges=False,
        vocab=ids,
        merges=[],
    )
    return dict(
        version="1.0",
        truncation=None,
        padding=None,
        normalizer=None,
        pre_tokenizer=byte_level,
        added_tokens=[dict(id=ids[text], content=text, **flags) for text in added],
        post_processor=None,
        decoder=byte_level,
        model=model,
    )


def weights(count, hidden, starts, replies):
    """Embedding and output matrix. Dimension 0 is that of all tokens outside of replies, which lead to `hello`."""
    strength = 60 / hidden**0.5
    embedding, output = array.array("f", bytes(4 * count * hidden)), array.array("f", bytes(4 * count * hidden))
    used = 1

    def lead(start, path, then):
        nonlocal used
        for token, following in zip([start, *path], [*path, then]):
            dimension = 0
            if token is not None:
                dimension, used = used, used + 1
                embedding[token * hidden + dimension] = 1
            output[following * hidden + dimension] = strength

    for name, path in replies.items():
        lead(starts[name], path, path[0] if name == "long" else 2)
    output[replies["hello"][0] * hidden] = strength
    for token in range(count):
        if not any(embedding[token * hidden : (token + 1) * hidden]):
            embedding[token * hidden] = 1
    return embedding, output


def tensors(count, hidden, width, embedding, output):
    """Every tensor of a Llama model with one layer, by name: shape and values."""

    def none(*shape):
        size = 1
        for part in shape:
            size *= part
        return list(shape), array.array("f", bytes(4 * size))

    ones, layer = ([hidden], array.array("f", [1.0] * hidden)), "model.layers.0."
    found = {
        "model.embed_tokens.weight": ([count, hidden], embedding),
        "lm_head.weight": ([count, hidden], output),
        "model.norm.weight": ones,
        layer + "input_layernorm.weight": ones,
        layer + "post_attention_layernorm.weight": ones,
    }
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        found[f"{layer}self_attn.{name}.weight"] = none(hidden, hidden)
    for name, shape in (("gate_proj", (width, hidden)), ("up_proj", (width, hidden)), ("down_proj", (hidden, width))):
        found[f"{layer}mlp.{name}.weight"] = none(*shape)
    return found


def write_safetensors(path, named):
    head, at, data = {}, 0, []
    for name, (shape, values) in named.items():
        data.append(values.tobytes())
        head[name] = dict(dtype="F32", shape=shape, data_offsets=[at, at + len(data[-1])])
        at += len(data[-1])
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def write(folder, chat_template=None, context=4096, begins=False):
    """Writes the model; returns the folder's name. `begins`: texts begin with a special token."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ids, specials, starts, replies = vocabulary()
    count = -(-len(ids) // 64) * 64
    tokens = 1 + len(starts) + sum(len(path) for path in replies.values())
    hidden, width = -(-tokens // 64) * 64, 64
    write_safetensors(
        folder / "model.safetensors", tensors(count, hidden, width, *weights(count, hidden, starts, replies))
    )
    config = dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        vocab_size=count,
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=1,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        max_position_embeddings=context,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        hidden_act="silu",
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        torch_dtype="float32",
    )
    (folder / "config.json").write_text(json.dumps(config))
    words = tokenizer(ids, specials, starts)
    if begins:
        start, text = {"SpecialToken": {"id": specials[1], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        special = {specials[1]: dict(id=specials[1], ids=[1], tokens=[specials[1]])}
        words["post_processor"] = dict(
            type="TemplateProcessing", single=[start, text], pair=[start, text], special_tokens=special
        )
    (folder / "tokenizer.json").write_text(json.dumps(words))
    text = dict(
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        add_bos_token=begins,
        tokenizer_class="PreTrainedTokenizerFast",
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        chat_template=chat_template or template(),
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(text))
    return str(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    print(write(sys.argv[1]))
