"""llama.cpp's results for GGUF files: the goldens of tests/gguf_oracle.rs.

    pip install numpy gguf llama-cpp-python tokenizers
    python scripts/make_gguf_oracle.py [FAMILY ...]
    python scripts/make_gguf_oracle.py --check [FAMILY ...]

For every family a small random model is written in F32, quantised by llama.cpp's own quantiser to every
format, and run by llama.cpp: 32 greedy tokens after each prompt (`tests/fixtures/gguf/oracle/FAMILY.json`).
At every position the most likely tokens are listed with their log-probabilities: at least five, and all
within `near` of the most likely one. Prompts are token ids.

llama.cpp itself shows how much of its answer is rounding (`rounding`): the same replies are forced on it with
the same weights widened to F32 and a cache in F32, and the log-probabilities of the listed tokens are
compared. `mean` and `p99.5` are taken over their differences; `margin` is the largest change of the distance
between the most likely and another listed token; `near` is a little more than twice that, the effect of two
roundings. `rounding_i8` is the same with an 8-bit cache, which serin has on GPUs.

The family `kinds` is a llama with matrices in each weight type that no other family's formats have, and one with a
type for each matrix; these files are composed without llama.cpp's quantiser of whole files, which wants to know how
much each column matters for the smallest types, and mixes types by its own rules.

To keep the models small, all matrices are made of the same 384 rows of 256 values, in an order that
depends on the tensor's name; `blocks.bin` holds these rows in every weight type, as quantised by llama.cpp. Of the
types of the family `kinds`, these are the first 192 rows.
The test assembles the files again, and a SHA-256 proves that they are the ones that llama.cpp ran. This script
also checks, tensor by tensor, that they equal the output of llama.cpp's quantiser for the F32 file.

`tiny-v1-*.gguf` are files as llama.cpp wrote them: the trained demo model, quantised. Its rows are 128 wide
where K-quants need 256, so for those the model is widened by zeros (see `padded`).

`--check` writes nothing. It forces the stored replies on this machine's llama.cpp and prints the differences
from the stored goldens. So goldens from one machine can be compared with llama.cpp built for another. The
stored ones were made with AVX-512. Without it (GGML_NATIVE and GGML_AVX512 off), llama.cpp differs from them by
at most half of what the test allows serin: 0.44 of the bound in the mean, 0.50 in the percentile, 0.34 in regret.
"""

import argparse
import ctypes
import hashlib
import json
import os
import pathlib
import tempfile

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "fixtures" / "gguf" / "oracle"
NEW_TOKENS, LISTED = 32, 5
VOCAB, WIDTH, MATRIX_ROWS = 128, 256, 256
HEADS, HEAD_DIM = 4, 64
# In the order of blocks.bin; F32 and F16 have the same values as BF16.
KINDS = [Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_K, Type.Q5_K, Type.Q6_K]
# These follow, with fewer rows.
MORE_KINDS = [Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q2_K, Type.Q3_K, Type.IQ4_NL, Type.IQ4_XS, Type.MXFP4,
              Type.IQ3_XXS, Type.IQ3_S, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.IQ1_S, Type.IQ1_M]
MORE_ROWS = 64
FORMS = {
    "F32": llama_cpp.LLAMA_FTYPE_ALL_F32, "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16, "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M, "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
}

# Formats of the trained model: those for its own rows of 128 values, and those for rows of 256.
TINY = {"Q8_0": False, "Q4_0": False, "Q4_K_M": True, "Q5_K_M": True, "Q6_K": True}

# Of the file with a type for each matrix: by name, of the first layer and of the second. Matrices that share an input
# differ in type, and in what the type wants the input to be.
MIXED = {
    "token_embd": [Type.Q5_0], "output": [Type.IQ3_S], "attn_q": [Type.IQ4_NL, Type.Q4_0],
    "attn_k": [Type.Q3_K, Type.IQ2_S], "attn_v": [Type.BF16, Type.Q5_1], "attn_output": [Type.MXFP4, Type.Q2_K],
    "ffn_gate": [Type.Q4_1, Type.IQ4_XS], "ffn_up": [Type.Q6_K, Type.MXFP4], "ffn_down": [Type.IQ3_XXS, Type.Q8_0],
}

# Architecture, layers, heads of keys, untied head, metadata below the architecture's name, rope factors.
FAMILIES = {
    "llama": dict(arch="llama", layers=2, kv=2, head=True, meta={"rope.freq_base": 500.0},
                  factors={"rope_freqs": [1.0 + i / 4 for i in range(HEAD_DIM // 2)]}),
    "qwen2": dict(arch="qwen2", layers=2, kv=2, meta={
        "rope.freq_base": 10000.0, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 32}),
    "qwen3": dict(arch="qwen3", layers=2, kv=2, meta={"rope.freq_base": 5000.0}),
    "gemma2": dict(arch="gemma2", layers=4, kv=2, meta={
        "attention.sliding_window": 12, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 6.0}),
    "gemma3": dict(arch="gemma3", layers=7, kv=1, meta={
        "attention.sliding_window": 10, "rope.freq_base": 100000.0, "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0}),
    "kinds": dict(arch="llama", layers=2, kv=2, head=True, meta={"rope.freq_base": 500.0}),
    "phi3": dict(arch="phi3", layers=2, kv=2, meta={
        "rope.freq_base": 10000.0, "rope.scaling.original_context_length": 256}),
    # llama.cpp uses the long factors if the context may be long, so every prompt here is long.
    "phi3-long": dict(arch="phi3", layers=2, kv=2, head=True, prompts=(35, 45), meta={
        "rope.freq_base": 10000.0, "rope.scaling.original_context_length": 32,
        "rope.scaling.attn_factor": 1.25},
        factors={"rope_factors_long": [1.0 + i / 8 for i in range(HEAD_DIM // 2)],
                 "rope_factors_short": [1.0 + i / 64 for i in range(HEAD_DIM // 2)]}),
    # Ministral 3: queries grow with every 16 positions.
    "mistral3": dict(arch="mistral3", layers=2, kv=2, head=True, meta={
        "rope.freq_base": 10000.0, "rope.scaling.type": "yarn", "rope.scaling.factor": 8.0,
        "rope.scaling.original_context_length": 16, "rope.scaling.yarn_log_multiplier": 1.0,
        "attention.temperature_scale": 0.25}),
    "granite": dict(arch="granite", layers=2, kv=2, head=True, meta={
        "rope.freq_base": 10000.0, "embedding_scale": 3.0, "residual_scale": 0.5, "attention.scale": 0.0625,
        "logit_scale": 2.0}),
    # llama.cpp turns no queries and keys on each fourth layer.
    "smollm3": dict(arch="smollm3", layers=4, kv=2, meta={"rope.freq_base": 5000.0}),
    "glm4": dict(arch="glm4", layers=2, kv=2, head=True, meta={
        "rope.freq_base": 10000.0, "rope.dimension_count": HEAD_DIM // 2}),
    "olmo2": dict(arch="olmo2", layers=2, kv=2, head=True, meta={"rope.freq_base": 5000.0}),
    # OLMo 3 has no name of its own: windows on three of four layers, and YaRN on the fourth.
    "olmo3": dict(arch="olmo2", layers=4, kv=2, head=True, meta={
        "rope.freq_base": 5000.0, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 32, "attention.sliding_window": 12}),
}


def fnv(name):
    """FNV-1a, 32 bits; the test uses the same."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def vector(name, length, base, spread):
    i = np.arange(length, dtype=np.int64)
    return (base + spread * (((fnv(name) + 7919 * i) % 2048 - 1024) / 1024)).astype(np.float32)


def order(name, rows, kind):
    """Which of the library's rows a tensor is made of. The first ones are for embeddings and heads."""
    others = MORE_ROWS if kind in MORE_KINDS else MATRIX_ROWS
    i = np.arange(rows, dtype=np.int64)
    if name in ("token_embd.weight", "output.weight"):
        return (fnv(name) + 37 * i) % VOCAB
    return VOCAB + (fnv(name) + 149 * i + 37 * (i // MATRIX_ROWS)) % others


def library():
    """Rows of every weight type: bytes by type. The values are exact in BF16 and F16."""
    rows = np.random.default_rng(11).normal(0, 0.1, (VOCAB + MATRIX_ROWS, WIDTH)).astype(np.float32)
    bits = (rows.view(np.uint32) + 0x8000) & 0xFFFF0000
    rows = bits.view(np.float32)
    rows[np.abs(rows) < 2.0**-14] = 0
    # Another build of llama.cpp may be named to llama-cpp-python.
    lib = os.environ.get("LLAMA_CPP_LIB_PATH", pathlib.Path(llama_cpp.__file__).parent / "lib")
    ggml = ctypes.CDLL(str(next(pathlib.Path(lib).glob("libggml-base.so*"))))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    alike = np.ones(WIDTH, dtype=np.float32).ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    made = {Type.F32: rows.view(np.uint8), Type.F16: rows.astype(np.float16).view(np.uint8)}
    assert np.array_equal(rows.astype(np.float16).astype(np.float32), rows)
    for kind in KINDS + MORE_KINDS:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        matters = alike if ggml.ggml_quantize_requires_imatrix(ctypes.c_int(kind)) else None
        count = VOCAB + MORE_ROWS if kind in MORE_KINDS else len(rows)
        out = np.zeros((count, WIDTH // block * size), dtype=np.uint8)
        written = ggml.ggml_quantize_chunk(
            ctypes.c_int(kind), rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(0), ctypes.c_int64(count),
            ctypes.c_int64(WIDTH), matters)
        assert written == out.size, (kind, written, out.size)
        made[kind] = out
    return made


def tensors(family):
    """Names, shapes (rows, columns) and, for vectors, base and spread or values."""
    spec = FAMILIES[family]
    arch, kv = spec["arch"], spec["kv"] * HEAD_DIM
    out = [("token_embd.weight", [VOCAB, WIDTH], None)]
    out += [(f"{name}.weight", [HEAD_DIM // 2], values) for name, values in spec.get("factors", {}).items()]
    norm, bias, wild = (1.0, 0.25), (0.0, 0.25), (0.0, 1.0)
    for i in range(spec["layers"]):
        add = lambda name, shape, fill=None: out.append((f"blk.{i}.{name}", shape, fill))
        if arch != "olmo2":
            add("attn_norm.weight", [WIDTH], norm)
        if arch == "phi3":
            add("attn_qkv.weight", [WIDTH + 2 * kv, WIDTH])
        else:
            for name, rows in (("q", WIDTH), ("k", kv), ("v", kv)):
                add(f"attn_{name}.weight", [rows, WIDTH])
                if arch in ("qwen2", "glm4"):
                    add(f"attn_{name}.bias", [rows], bias)
        add("attn_output.weight", [WIDTH, WIDTH])
        if arch in ("qwen3", "gemma3"):
            add("attn_q_norm.weight", [HEAD_DIM], norm)
            add("attn_k_norm.weight", [HEAD_DIM], norm)
        if arch == "olmo2":
            add("attn_q_norm.weight", [WIDTH], norm)
            add("attn_k_norm.weight", [kv], norm)
        if arch.startswith("gemma") or arch in ("glm4", "olmo2"):
            add("post_attention_norm.weight", [WIDTH], norm)
            add("post_ffw_norm.weight", [WIDTH], norm)
        if arch != "olmo2":
            add("ffn_norm.weight", [WIDTH], norm)
        if arch in ("phi3", "glm4"):
            add("ffn_up.weight", [2 * WIDTH, WIDTH])
        else:
            add("ffn_gate.weight", [WIDTH, WIDTH])
            add("ffn_up.weight", [WIDTH, WIDTH])
        add("ffn_down.weight", [WIDTH, WIDTH])
    # With both signs: otherwise a model whose head is its embedding would repeat its last token for ever.
    out.append(("output_norm.weight", [WIDTH], wild))
    if spec.get("head"):
        out.append(("output.weight", [VOCAB, WIDTH], None))
    return out


def metadata(family):
    """Keys, types and values, in the file's order."""
    spec = FAMILIES[family]
    arch = spec["arch"]
    values = {
        "vocab_size": VOCAB, "context_length": 256, "embedding_length": WIDTH,
        "feed_forward_length": WIDTH, "block_count": spec["layers"],
        "attention.head_count": HEADS, "attention.head_count_kv": spec["kv"],
        "attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.dimension_count": HEAD_DIM, **spec["meta"]}
    types = {int: "u32", float: "f32", str: "text"}
    keys = [["general.architecture", "text", arch], ["tokenizer.ggml.model", "text", "none"]]
    return keys + [[f"{arch}.{key}", types[type(value)], value] for key, value in values.items()]


def compose(path, rows, family, kinds):
    """Writes a file whose matrices have these kinds; returns its SHA-256."""
    writer = gguf.GGUFWriter(str(path), FAMILIES[family]["arch"])
    writer.kv_data[0].clear()
    add = {"u32": writer.add_uint32, "f32": writer.add_float32, "text": writer.add_string}
    for key, kind, value in metadata(family):
        add[kind](key, value)
    for name, shape, fill in tensors(family):
        if fill is None:
            data = rows[kinds[name]][order(name, shape[0], kinds[name])]
            writer.add_tensor(name, data, raw_shape=data.shape, raw_dtype=kinds[name])
        else:
            data = vector(name, shape[0], *fill) if isinstance(fill, tuple) else np.array(fill, np.float32)
            writer.add_tensor(name, data)
    finish(writer)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, target, form, again=False):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = FORMS[form], 2, again
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    assert code == 0, (form, code)


@llama_cpp.llama_log_callback
def quiet(level, text, data):
    """Silences llama.cpp, which logs every tensor; its errors are returned as codes."""


class Peer:
    """A model that llama.cpp runs, one sequence at a time."""

    def __init__(self, path, cache=Type.F16):
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, path
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_threads, context.n_threads_batch = 256, 2, 2
        context.type_k = context.type_v = int(cache)
        # Fused attention would narrow an F32 cache to F16, but an 8-bit cache requires it.
        exact, fused = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED, llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        context.flash_attn_type = exact if cache == Type.F32 else fused
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        assert self.context, path
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def close(self):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def step(self, tokens):
        """Log-probabilities after `tokens`."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        code = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(tokens)))
        assert code == 0, code
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        logits = np.ctypeslib.as_array(logits, shape=(self.vocab,)).astype(np.float64)
        assert np.isfinite(logits).all()
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())

    def reply(self, prompt, forced=None, stop=None):
        """Tokens, with the log-probabilities at each: greedy ones up to `stop`, or the `forced` ones."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        tokens, rows, feed = [], [], prompt
        for i in range(len(forced) if forced else NEW_TOKENS):
            rows.append(self.step(feed))
            tokens.append(forced[i] if forced else int(rows[-1].argmax()))
            if tokens[-1] == stop:
                break
            feed = tokens[-1:]
        return tokens, rows


def listed(row, near):
    """Ids of the tokens that are stored for a position, most likely first."""
    count = max(LISTED, int((row >= row.max() - near).sum()))
    return np.argsort(-row, kind="stable")[:count]


def forced(path, prompts, made, cache):
    """Log-probabilities at every position of given replies."""
    peer = Peer(path, cache)
    rows = [row for prompt, (tokens, _) in zip(prompts, made) for row in peer.reply(prompt, tokens)[1]]
    peer.close()
    return rows


def figures(changes, kept):
    """The changes of the listed tokens: mean, 99.5th percentile, and the largest change of a margin."""
    off = np.abs(np.concatenate([change[ids] for change, ids in zip(changes, kept)]))
    margin = max(np.abs(change[ids] - change[ids[0]]).max() for change, ids in zip(changes, kept))
    return {"mean": off.mean(), "p99.5": np.quantile(off, 0.995, method="higher"), "margin": margin}


def form_golden(path, prompts, folder, stop=None):
    """llama.cpp's replies to the prompts, and how much of them is rounding."""
    peer = Peer(path)
    made = [peer.reply(prompt, stop=stop) for prompt in prompts]
    peer.close()
    rows = [row for _, rows in made for row in rows]
    narrow = forced(path, prompts, made, Type.Q8_0)
    wide = folder / "wide.gguf"
    quantise(path, wide, "F32", again=True)
    exact = forced(wide, prompts, made, Type.F32)
    wide.unlink()
    changes = [[row - other for row, other in zip(rounded, exact)] for rounded in (rows, narrow)]
    near, found = -1.0, [{"margin": 0.0}]
    # More rounding puts more tokens near the top, and more of those may show more rounding.
    while 2 * max(one["margin"] for one in found) + 0.01 > near:
        near = 2 * max(one["margin"] for one in found) + 0.01
        kept = [listed(row, near) for row in rows]
        found = [figures(change, kept) for change in changes]
    found = [{name: round(float(value), 6) for name, value in one.items()} for one in found]
    gaps = np.array([row[ids[0]] - row[ids[1]] for row, ids in zip(rows, kept)])
    beyond = (gaps > 2 * found[0]["margin"]).mean()
    print(path.stem, *found, f"{beyond:.0%} of {len(gaps)} margins beyond twice that", flush=True)
    kept = iter(kept)
    top = lambda row: [[int(i), round(float(row[i]), 5)] for i in next(kept)]
    return {"near": round(float(near), 5), "rounding": found[0], "rounding_i8": found[1],
            "replies": [{"prompt": list(prompt), "tokens": tokens, "top": [top(row) for row in rows]}
                        for prompt, (tokens, rows) in zip(prompts, made)]}


def check(path, form):
    """How far this machine's llama.cpp is from the stored goldens of a format."""
    peer, off, regret, others = Peer(path), [], 0.0, 0
    for reply in form["replies"]:
        for row, top in zip(peer.reply(reply["prompt"], forced=reply["tokens"])[1], reply["top"]):
            off += [abs(row[i] - logprob) for i, logprob in top]
            known, choice = dict(map(tuple, top)), int(row.argmax())
            others += choice != top[0][0]
            regret = max(regret, top[0][1] - known.get(choice, -np.inf))
    peer.close()
    rounding = form["rounding"]
    print(f"{path.stem}: mean {np.mean(off):.5f} where {rounding['mean']:.5f} is rounding, p99.5 "
          f"{np.quantile(off, 0.995):.5f} where {rounding['p99.5']:.5f} is, {others} other choices, regret "
          f"{regret:.5f} of {2 * rounding['margin']:.5f}", flush=True)


def check_quantised(path, rows):
    """Checks that the tensors in a file from llama.cpp's quantiser equal those of the library; returns their types."""
    kinds = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) < 2:
            continue
        kinds[tensor.name] = tensor.tensor_type
        expected = rows[tensor.tensor_type][order(tensor.name, int(tensor.shape[1]), tensor.tensor_type)]
        found = np.asarray(tensor.data).view(np.uint8).reshape(expected.shape)
        assert np.array_equal(found, expected), tensor.name
    return kinds


def files(family, rows, folder):
    """A family's file in every format, written and checked: format, path, types by tensor, SHA-256."""
    wide = {name: Type.F32 for name, _, fill in tensors(family) if fill is None}
    if family == "kinds":
        yield from kinds_files(rows, folder, wide)
        return
    base = folder / f"{family}-f32.gguf"
    compose(base, rows, family, wide)
    for form in FORMS:
        quantised, path = folder / f"{family}-quantised.gguf", folder / f"{family}-{form}.gguf"
        quantise(base, quantised, form)
        kinds = check_quantised(quantised, rows)
        quantised.unlink()
        yield form, path, kinds, compose(path, rows, family, kinds)
        path.unlink()


def kinds_files(rows, folder, names):
    """The files of the family `kinds`, as `files` has them."""
    forms = {kind.name: {name: kind for name in names} for kind in MORE_KINDS}
    forms["mixed"] = {name: mixed(name) for name in names}
    for form, kinds in forms.items():
        path = folder / f"kinds-{form}.gguf"
        yield form, path, kinds, compose(path, rows, "kinds", kinds)
        path.unlink()


def mixed(name):
    parts = name.split(".")
    return MIXED[parts[-2]][int(parts[1]) if len(parts) > 2 else 0]


def golden(family, rows, folder):
    rng = np.random.default_rng(fnv(family))
    lengths = FAMILIES[family].get("prompts", (5, 20, 45))
    prompts = [rng.integers(0, VOCAB, n).tolist() for n in lengths]
    forms = {}
    for form, path, kinds, digest in files(family, rows, folder):
        forms[form] = {"kinds": [int(kinds[n]) for n, _, fill in tensors(family) if fill is None],
                       "sha256": digest, **form_golden(path, prompts, folder)}
    return {"llama_cpp_python": llama_cpp.__version__, "metadata": metadata(family),
            "tensors": tensors(family), "forms": forms}


def dump(path, value):
    """JSON with a line per entry of objects, and per element of lists of objects and of tables."""
    def lines(value, key=None):
        table = isinstance(value, list) and (key in ("metadata", "tensors") or isinstance(value[0], dict))
        if isinstance(value, dict):
            parts, ends = [f"{json.dumps(k)}: {lines(v, k)}" for k, v in value.items()], "{}"
        elif table:
            parts, ends = [lines(v) if isinstance(v, dict) else json.dumps(v) for v in value], "[]"
        else:
            return json.dumps(value, separators=(",", ":"))
        return ends[0] + "\n" + ",\n".join(parts) + "\n" + ends[1]
    path.write_text(lines(value) + "\n")


def checkpoint(path):
    """Names and values of a safetensors file in BF16."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", name
            at, end = entry["data_offsets"]
            bits = np.frombuffer(raw[start + at:start + end], np.uint16).astype(np.uint32) << 16
            yield name, bits.view(np.float32).reshape(entry["shape"])


def padded(name, data):
    """A tensor of the trained model for a hidden width, and a width of all heads, of 256 instead of 128.

    The new dimensions and heads are zero. A norm's mean of squares is then halved: its weight times the root
    of a half, and half the epsilon (`tiny_file`), undo that, so that the model's output does not change.
    """
    if data.ndim == 1:
        return np.pad(data * np.float32(0.5**0.5), (0, 128))
    from_heads, to_heads = "o_proj" in name, any(part in name for part in ("q_proj", "k_proj", "v_proj"))
    rows = len(data) if to_heads else 128 if from_heads or "down_proj" in name else 0
    columns = 0 if "down_proj" in name else 128
    return np.pad(data, ((0, rows), (0, columns)))


def without_text(writer):
    writer.add_tokenizer_model("none")


def tiny_file(path, wide, add_text=without_text):
    """The demo model in F32 under llama.cpp's names; `add_text` writes the tokenizer."""
    source, times = ROOT / "models" / "tiny-v1", 2 if wide else 1
    config = json.loads((source / "config.json").read_text())
    heads, kv_heads, dim = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    writer = gguf.GGUFWriter(str(path), "llama")
    add_text(writer)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"] * times)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads * times)
    writer.add_head_count_kv(kv_heads * times)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"] / times)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(dim)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, data in checkpoint(source / "model.safetensors"):
        n = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
        if n:  # llama.cpp's rotary embedding wants pairs where Hugging Face has halves
            data = data.reshape(n, 2, dim // 2, -1).swapaxes(1, 2).reshape(data.shape)
        data = padded(name, data) if wide else data
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(data))
    finish(writer)


def tiny(folder):
    """The trained model in its formats, and llama.cpp's answers to every fiftieth question of its test set."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(ROOT / "models" / "tiny-v1" / "tokenizer.json"))
    questions = json.loads((ROOT / "models" / "questions.json").read_text())[::50]
    chat, end = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", tokenizer.token_to_id("<|im_end|>")
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    prompts = [encode(chat.format(question["question"])) for question in questions]
    forms = {}
    for form, wide in TINY.items():
        target = tiny_path(form)
        tiny_file(folder / "tiny.gguf", wide)
        quantise(folder / "tiny.gguf", target, form)
        forms[form] = form_golden(target, prompts, folder, stop=end)
        print([tokenizer.decode(reply["tokens"]) for reply in forms[form]["replies"]][:3])
    return {"llama_cpp_python": llama_cpp.__version__, "forms": forms}


def tiny_path(form):
    return OUT / f"tiny-v1-{form.lower()}.gguf"


def check_kept(family, rows, folder):
    kept = json.loads((OUT / f"{family}.json").read_text())["forms"]
    if family == "tiny-v1":
        for form in TINY:
            check(tiny_path(form), kept[form])
        return
    for form, path, _, digest in files(family, rows, folder):
        assert digest == kept[form]["sha256"], (family, form)
        check(path, kept[form])


def main():
    parser = argparse.ArgumentParser(description="Writes the goldens of tests/gguf_oracle.rs")
    parser.add_argument("--check", action="store_true", help="compare with what is kept; write nothing")
    parser.add_argument("families", nargs="*", help="these only; all if left out")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    rows = library()
    blocks = b"".join(rows[kind].tobytes() for kind in KINDS + MORE_KINDS)
    if args.check:
        assert (OUT / "blocks.bin").read_bytes() == blocks
    else:
        (OUT / "blocks.bin").write_bytes(blocks)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for family in args.families or [*FAMILIES, "tiny-v1"]:
            if args.check:
                check_kept(family, rows, folder)
            else:
                dump(OUT / f"{family}.json", tiny(folder) if family == "tiny-v1" else golden(family, rows, folder))


if __name__ == "__main__":
    main()
