"""A GGUF file in llama.cpp: tokens, log-probabilities, and how much of them is rounding. It knows nothing of serin.

Runs in the environment of scripts/peer_env.py.
"""

import ctypes

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

from make_gguf_oracle import quantise, quiet

CHUNK = 256
llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))


class Peer:
    """A model that llama.cpp runs, one sequence at a time: with a cache in F16, or `exact`, in F32.

    `largest` is the largest logit so far, by size. One thread: several wait for each other in loops, and become ten
    times slower once another program wants a processor.
    """

    def __init__(self, path, exact=False, context=1024, threads=1):
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert self.model, path
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, CHUNK, CHUNK
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = int(Type.F32 if exact else Type.F16)
        # Fused attention would narrow an F32 cache to F16.
        fused, plain = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = plain if exact else fused
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        assert self.context, path
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size, self.largest = llama_cpp.llama_vocab_n_tokens(self.vocab), 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def encode(self, text, special=True):
        raw = text.encode()
        out = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), out, len(out), False, special)
        assert count >= 0, (text, count)
        return list(out[:count])

    def piece(self, token):
        """The bytes of a token, control tokens spelled out."""
        buffer = ctypes.create_string_buffer(512)
        count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, True)
        assert count >= 0, token
        return buffer.raw[:count]

    def template(self):
        return llama_cpp.llama_model_chat_template(self.model, None).decode()

    def end(self):
        return llama_cpp.llama_vocab_eos(self.vocab)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def rows(self, tokens, first):
        """Log-probabilities after each token from the `first` on, in chunks, like llama-perplexity."""
        self.clear()
        for start in range(0, len(tokens), CHUNK):
            part = tokens[start:start + CHUNK]
            wanted = [start + i >= first for i in range(len(part))]
            self._decode(part, start, wanted)
            yield from (self._row(i) for i, want in enumerate(wanted) if want)

    def reply(self, prompt, forced=None, most=None):
        """A reply token by token: greedy up to `most` or the end, or the forced one; tokens, and a row for each."""
        self.clear()
        tokens, rows, feed, at = [], [], list(prompt), 0
        for i in range(len(forced) if forced is not None else most):
            self._decode(feed, at, [False] * (len(feed) - 1) + [True])
            at += len(feed)
            rows.append(self._row(len(feed) - 1))
            tokens.append(forced[i] if forced is not None else int(rows[-1].argmax()))
            if forced is None and tokens[-1] == self.end():
                break
            feed = tokens[-1:]
        return tokens, rows

    def _decode(self, tokens, at, wanted):
        assert len(tokens) <= CHUNK, len(tokens)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, at + i, 1, 0
            batch.logits[i] = wanted[i]
        code = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        assert code == 0, code

    def _row(self, index):
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, index), shape=(self.size,))
        logits = logits.astype(np.float64)
        assert np.isfinite(logits).all()
        self.largest = max(self.largest, float(np.abs(logits).max()))
        top = logits.max()
        return logits - top - np.log(np.exp(logits - top).sum())


def widened(path, folder):
    """The same weights in F32, which leaves llama.cpp nothing to round but its sums."""
    target = folder / "wide.gguf"
    quantise(path, target, "F32", again=True)
    return target
