#!/usr/bin/env python3
"""llama.cpp's results for the real model: the golden of tests/real_model.rs.

    scripts/make_real_golden.py            # installs llama-cpp-python by itself, see scripts/peer_env.py

The model is the file that scripts/real_model fetches, byte for byte. tests/fixtures/real-model.json gets

* `said`: greedy replies to thirteen conversations, in the form of scripts/make_gguf_oracle.py;
* `text`: token ids and llama.cpp's perplexity for them;
* `lines`: texts with their ids, where llama.cpp and Hugging Face's tokenizers agree;
* `conversations`: messages with the prompt by Jinja2 and its ids by llama.cpp. Control tokens that messages spell are
  text in them.

scripts/verify/real_model.py compares more texts and every kind of weights, which takes too long for each commit.
"""

import ctypes
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import peer_env

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "fixtures" / "real-model.json"
EVERY, LINES, TOKENS = 4, 600, 768


def known_lines(peer, path):
    """Lines with ids on which both libraries agree."""
    from real import checks, texts
    library, _ = checks.peer_tokenizer(path)
    both = ((line, peer.encode(line), library.encode(line, add_special_tokens=False).ids)
            for line in texts.generated(LINES))
    return [[line, ids] for line, ids, others in both if ids == others]


def known_conversations(peer, path):
    from real import checks, texts
    render, control = checks.renderer(peer.template()), checks.peer_tokenizer(path)[1]
    return [{"messages": messages, "prompt": render(messages),
             "ids": checks.template_ids(peer, render, messages, control)} for messages in texts.histories()]


def known_text(peer):
    """A fixed text of the repository: its words may change later, these ids do not."""
    import numpy as np
    from real import texts
    ids = peer.encode(texts.long_text())[:TOKENS]
    rows = peer.rows(ids[:-1], 0)
    surprise = [row[token] for row, token in zip(rows, ids[1:])]
    return {"ids": ids, "perplexity": round(float(np.exp(-np.mean(surprise))), 4)}


def main():
    peer_env.enter()
    sys.path.append(str(ROOT / "scripts" / "verify"))
    import llama_cpp
    from make_gguf_oracle import form_golden, quiet
    from real import checks, peer, texts
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    done = subprocess.run([ROOT / "scripts/real_model"], stdout=subprocess.PIPE, text=True, check=True)
    path = pathlib.Path(done.stdout.strip())
    with peer.Peer(path) as model:
        render = checks.renderer(model.template())
        prompts = [model.encode(render(messages)) for messages in texts.prompts()[::EVERY]]
        golden = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "text": known_text(model), "lines": known_lines(model, path),
                  "conversations": known_conversations(model, path)}
        end = model.end()
    with tempfile.TemporaryDirectory() as folder:
        golden["said"] = form_golden(path, prompts, pathlib.Path(folder), stop=end)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in golden.items())
    OUT.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
