"""Writes a GGUF file of an 8B model with random weights in the types of Q4_K_M, within seconds.

    pip install numpy gguf
    python scripts/make_random_gguf.py FILE [--tiny]
    python scripts/make_random_gguf.py FILE --kind IQ4_XS    # a quarter of a billion weights, all matrices in one type

For measuring speed only: `scripts/gpu_check run --peer` runs it with llama.cpp and serin on the same GPU. The shape is
that of Llama 3.1 8B, and weight types are mixed as llama.cpp's quantiser does for Q4_K_M. The bytes of blocks are
random with small scales, so that activations stay finite; the model's output means nothing. `make_peer_model.py`
quantises real weights instead, for which an 8B model would need 16 GB and minutes.
"""

import argparse

import gguf
import numpy as np

COMMON = dict(name="8b-random", context=8192, eps=1e-5, theta=500000.0)
FULL = COMMON | dict(hidden=4096, layers=32, heads=32, kv=8, dim=128, width=14336, vocab=128256)
TINY = COMMON | dict(hidden=256, layers=2, heads=4, kv=2, dim=64, width=512, vocab=1024)
SMALL = COMMON | dict(name="quarter-random", hidden=1024, layers=16, heads=16, kv=8, dim=64, width=3072, vocab=32768)
# Where a block has its floats of 16 bits, and how large each is beside the scale of Q4_0.
HALVES = {"Q8_0": {0: 1 / 16}, "Q4_0": {0: 1}, "Q4_1": {0: 1, 2: -7.5}, "Q5_0": {0: 1 / 2}, "Q5_1": {0: 1 / 2, 2: -7.5},
          "Q2_K": {80: 1 / 2, 82: 3 / 4}, "Q3_K": {108: 1 / 8}, "Q4_K": {0: 1 / 32, 2: 7.5 / 32},
          "Q5_K": {0: 1 / 64, 2: 7.5 / 32}, "Q6_K": {208: 1 / 256}, "IQ4_NL": {0: 1 / 16}, "IQ4_XS": {0: 1 / 256},
          "MXFP4": {}, "IQ3_XXS": {0: 1 / 32}, "IQ3_S": {0: 1 / 32}, "IQ2_XXS": {0: 1 / 16}, "IQ2_XS": {0: 1 / 16},
          "IQ2_S": {0: 1 / 16}, "IQ1_S": {0: 1 / 2}}
# For comparing results: two superblocks a row, and four in one matrix.
SEEDED = COMMON | dict(name="seeded", hidden=512, layers=2, heads=8, kv=4, dim=64, width=1024, vocab=1024)
# So that prompts are texts: the messages, one after the other.
PLAIN = "{% for message in messages %}{{ message.content }} {% endfor %}"
MARKERS = ["<|begin_of_text|>", "<|end_of_text|>"]


def byte_tokens():
    """The 256 bytes as GPT-2 spells them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def write_metadata(writer, shape, markers, pre):
    """A model's sizes, and a vocabulary of bytes, one merge, fillers, and `markers` at the end."""
    writer.add_name(shape["name"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["width"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv"])
    writer.add_key_length(shape["dim"])
    writer.add_value_length(shape["dim"])
    writer.add_layer_norm_rms_eps(shape["eps"])
    writer.add_rope_freq_base(shape["theta"])
    pieces = byte_tokens()
    pair = pieces[0] * 2  # a merge must be there, and its token with it
    count = shape["vocab"] - len(pieces) - 1 - len(markers)
    tokens = [*pieces, pair, *(f"filler{i}" for i in range(count)), *markers]
    types = [gguf.TokenType.NORMAL] * (len(tokens) - len(markers)) + [gguf.TokenType.CONTROL] * len(markers)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{pieces[0]} {pieces[0]}"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)


class Blocks:
    """Random blocks, generated once; each tensor uses them from a different offset, and is read in full either way."""

    def __init__(self, rng, columns):
        # Scales such that a product with `columns` weights keeps the activations' size.
        half = np.float16(columns**-0.5 / 256)
        q4 = rng.integers(0, 256, (1 << 19, 144), dtype=np.uint8)  # d, dmin, 12 bytes of scales, 128 of weights
        q4[:, 0:2] = np.frombuffer(half.tobytes(), np.uint8)
        q4[:, 2:4] = np.frombuffer(np.float16(half * 7).tobytes(), np.uint8)
        q6 = rng.integers(0, 256, (1 << 18, 210), dtype=np.uint8)  # 128 low bits, 64 high bits, 16 scales, d
        q6[:, 208:210] = np.frombuffer(np.float16(half / 16).tobytes(), np.uint8)
        self.drawn = {gguf.GGMLQuantizationType.Q4_K: q4, gguf.GGMLQuantizationType.Q6_K: q6}
        self.at = 0

    def take(self, kind, rows, columns):
        drawn, count = self.drawn[kind], rows * columns // gguf.GGML_QUANT_SIZES[kind][0]
        self.at += 7919
        places = (np.arange(-(-count // 4096)) * 4096 + self.at) % (len(drawn) - 4096)
        data = np.concatenate([drawn[at:at + 4096] for at in places])[:count]
        return data.reshape(rows, -1)


class OneKind(Blocks):
    """Random blocks of one type."""

    def __init__(self, rng, columns, kind):
        drawn = rng.integers(0, 256, (1 << 18, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        # As for Q4_0: numbers of about 5 times the scale.
        scale = columns**-0.5 / 5
        for at, factor in HALVES[kind.name].items():
            drawn[:, at:at + 2] = np.frombuffer(np.float16(scale * factor).tobytes(), np.uint8)
        if kind.name == "MXFP4":
            drawn[:, 0] = 128 + round(np.log2(scale))
        self.drawn, self.at = {kind: drawn}, 0


def write_tensors(writer, shape, blocks, q4, q6):
    hidden, q, kv, layers = shape["hidden"], shape["heads"] * shape["dim"], shape["kv"] * shape["dim"], shape["layers"]

    def matrix(name, kind, rows, columns):
        writer.add_tensor(f"{name}.weight", blocks.take(kind, rows, columns), raw_dtype=kind)

    def norm(name):
        writer.add_tensor(f"{name}.weight", np.ones(hidden, np.float32))

    matrix("token_embd", q4, shape["vocab"], hidden)
    for i in range(layers):
        more = i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2
        norm(f"blk.{i}.attn_norm")
        matrix(f"blk.{i}.attn_q", q4, q, hidden)
        matrix(f"blk.{i}.attn_k", q4, kv, hidden)
        matrix(f"blk.{i}.attn_v", q6 if more else q4, kv, hidden)
        matrix(f"blk.{i}.attn_output", q4, hidden, q)
        norm(f"blk.{i}.ffn_norm")
        matrix(f"blk.{i}.ffn_gate", q4, shape["width"], hidden)
        matrix(f"blk.{i}.ffn_up", q4, shape["width"], hidden)
        matrix(f"blk.{i}.ffn_down", q6 if more else q4, hidden, shape["width"])
    norm("output_norm")
    matrix("output", q6, shape["vocab"], hidden)


def write(path, shape, kind=None, template=None):
    """Writes a file with all matrices in one type, or in those of Q4_K_M."""
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, shape, MARKERS, "llama-bpe")
    writer.add_rope_dimension_count(shape["dim"])
    writer.add_vocab_size(shape["vocab"])
    if template:
        writer.add_chat_template(template)
    rng, types = np.random.default_rng(1), gguf.GGMLQuantizationType
    if kind:
        write_tensors(writer, shape, OneKind(rng, shape["hidden"], types[kind]), types[kind], types[kind])
    else:
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
        write_tensors(writer, shape, Blocks(rng, shape["hidden"]), types.Q4_K, types.Q6_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--tiny", action="store_true", help="a small shape, to try it out")
    parser.add_argument("--kind", choices=HALVES, help="all matrices in this type, of a smaller model")
    args = parser.parse_args()
    write(args.file, TINY if args.tiny else SMALL if args.kind else FULL, args.kind)


if __name__ == "__main__":
    main()
