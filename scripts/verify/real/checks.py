"""What serin makes of a real model against what llama.cpp makes of the same file.

Each check returns figures; limits are those of scripts/verify/real_model.py.
"""

import concurrent.futures
import http.client
import json
import random
import re
import subprocess

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from make_kl_oracle import figures, stored

from .peer import Peer

LISTED, KEPT, TOP = 5, 1 << 14, 20
# Two correct programs that sum in another order differ by this share of the largest logit.
SUMS = 1e-5
JSON = {"content-type": "application/json"}


class Client:
    """One connection to a serin."""

    def __init__(self, addr):
        self.connection = http.client.HTTPConnection(addr, timeout=600)

    def post(self, path, **body):
        self.connection.request("POST", path, json.dumps(body), JSON)
        reply = self.connection.getresponse()
        read = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {read[:300].decode(errors='replace')}")
        return json.loads(read)


def renderer(template):
    """The template in Jinja2, set up as transformers does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    compiled = environment.from_string(template)
    return lambda messages: compiled.render(messages=messages, add_generation_prompt=True)


def answered(addr, conversations, most, ids, end):
    """serin's greedy replies: ids of their tokens, and log-probabilities by id where it gives them.

    The first half is asked one by one, the other eight at a time, because they use different kernels.
    """
    def one(messages):
        reply = Client(addr).post("/v1/chat/completions", model="m", messages=messages, temperature=0, max_tokens=most,
                                  logprobs=True, top_logprobs=TOP)
        choice = reply["choices"][0]
        content = choice["logprobs"]["content"]
        tokens = [ids[bytes(token["bytes"])] for token in content]
        top = [{ids[bytes(like["bytes"])]: like["logprob"] for like in token["top_logprobs"]} for token in content]
        if choice["finish_reason"] == "stop":
            tokens, top = tokens + [end], top + [{}]
        return {"tokens": tokens, "top": top, "prompt": reply["usage"]["prompt_tokens"]}

    half = len(conversations) // 2
    found = [one(messages) for messages in conversations[:half]]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return found + list(pool.map(one, conversations[half:]))


def places(path, wide, prompts, replies):
    """Each position of serin's replies as llama.cpp has it: the most likely tokens, their log-probabilities, the same
    with nothing rounded, and the log-probability of the token that serin chose. Then the mean log-probabilities of its own
    replies, of those that are not the same. And the largest logit."""
    found, own = [], []
    with Peer(path) as peer, Peer(wide, exact=True) as exact:
        for number, (prompt, reply) in enumerate(zip(prompts, replies)):
            forced = reply["tokens"]
            _, rows = peer.reply(prompt, forced)
            others = exact.rows(prompt + forced[:-1], len(prompt) - 1)
            for row, other, chosen, top in zip(rows, others, forced, reply["top"]):
                ids = np.argpartition(-row, min(KEPT, len(row) - 1))[:KEPT]
                ids = ids[np.argsort(-row[ids], kind="stable")]
                found.append({"reply": number, "ids": ids, "rounded": row[ids], "exact": other[ids],
                              "chosen": row[chosen], "top": top})
            if all(row.argmax() == token for row, token in zip(rows, forced)):
                own.append(None)  # what llama.cpp would have written as well
                continue
            tokens, rows = peer.reply(prompt, most=len(forced))
            own.append(np.mean([row[token] for row, token in zip(rows, tokens)]))
        return found, own, max(peer.largest, exact.largest)


def rounding(found):
    """llama.cpp's own rounding, as in scripts/make_gguf_oracle.py, and how many tokens of each position are listed."""
    near, margin = -1.0, 0.0
    while 2 * margin + 0.01 > near:
        near = 2 * margin + 0.01
        counts = [max(LISTED, int((place["rounded"] >= place["rounded"][0] - near).sum())) for place in found]
        assert max(counts) < KEPT, f"{max(counts)} tokens are within {near:.3f} of the most likely one: raise KEPT"
        changes = [(place["rounded"] - place["exact"])[:count] for place, count in zip(found, counts)]
        margin = max(float(np.abs(change - change[0]).max()) for change in changes)
    off = np.abs(np.concatenate(changes))
    return counts, {"mean": off.mean(), "p99.5": np.quantile(off, 0.995, method="higher"), "margin": margin}


def greedy(path, wide, prompts, replies):
    """serin's replies judged by llama.cpp at every position, whatever was chosen before it.

    llama.cpp's rounding is measured; serin's is assumed to be no larger. tests/gguf_support/mod.rs says why the bounds
    then are twice the mean and 99.5th percentile of log-probabilities, and of the largest change of a margin.
    """
    found, own, largest = places(path, wide, prompts, replies)
    counts, known = rounding(found)
    sums = SUMS * largest
    listed = [(place["reply"], place["top"][token], place["rounded"][at], place["exact"][at])
              for place, count in zip(found, counts)
              for at, token in enumerate(place["ids"][:count]) if token in place["top"]]
    by_reply, ours, theirs, exact = np.array(listed).T
    off = np.abs(ours - theirs)
    regrets = [place["rounded"][0] - place["chosen"] for place in found]
    score = iter(found)
    nats = [(np.mean([next(score)["chosen"] for _ in reply["tokens"]]), mean) for reply, mean in zip(replies, own)]
    nats = [both for both in nats if both[1] is not None]
    return {
        "replies": len(replies), "equal": own.count(None),
        "positions": len(found), "others": sum(regret > 0 for regret in regrets),
        "own_rounding": float(np.abs(ours - exact).mean()), "its_rounding": float(np.abs(theirs - exact).mean()),
        "more_rounding": more(by_reply, np.abs(ours - exact), np.abs(theirs - exact)),
        "mean": float(np.mean(off)), "mean_bound": 2 * known["mean"] + sums,
        "p99": float(np.quantile(off, 0.99, method="higher")), "p99_bound": 2 * known["p99.5"] + sums,
        "regret": float(max(regrets)), "regret_bound": 2 * known["margin"] + 2 * sums,
        "beyond": int(sum(regret > 2 * known["margin"] + 2 * sums for regret in regrets)),
        "less_likely": sum(ours < theirs - 0.05 for ours, theirs in nats),
        "more_likely": sum(ours > theirs + 0.05 for ours, theirs in nats),
    }


def more(groups, ours, theirs):
    """By how many standard errors ours are larger than theirs in the mean; figures of one reply are alike, so each reply
    counts once."""
    means = np.array([(ours - theirs)[groups == group].mean() for group in np.unique(groups)])
    return float(means.mean() / (means.std(ddof=1) / len(means) ** 0.5))


def perplexity(client, path, wide, tokens, piece):
    """Of a text in sequences of `piece` tokens: by serin, by llama.cpp, and by llama.cpp with nothing rounded.

    The first token of a sequence has activations so large that rounding them shifts the log-probability of every later
    token alike, by up to 6 % (IQ3_S). So a text in one sequence is one draw, however long it is.
    """
    pieces = [tokens[at:at + piece] for at in range(0, len(tokens), piece)]
    ours = []
    for part in pieces:
        reply = client.post("/v1/completions", model="m", prompt=part, echo=True, logprobs=0, max_tokens=0)
        found = reply["choices"][0]["logprobs"]["token_logprobs"][1:]
        assert len(found) == len(part) - 1, (len(found), len(part))
        ours += found
    all_found = [ours]
    for file, exact in ((path, False), (wide, True)):
        with Peer(file, exact=exact, context=piece + 64) as peer:
            rows = ((peer.rows(part[:-1], 0), part[1:]) for part in pieces)
            all_found.append([row[token] for found, after in rows for row, token in zip(found, after)])
    return [float(np.exp(-np.mean(found))) for found in all_found]


def peer_tokenizer(path):
    """The same vocabulary in Hugging Face's library, with the model's published way of splitting: digits one by one,
    then GPT-2's rule."""
    from gguf import GGUFReader
    reader = GGUFReader(path)
    of = lambda key: reader.fields[f"tokenizer.ggml.{key}"].contents()
    assert (of("model"), of("pre")) == ("gpt2", "smollm"), (of("model"), of("pre"))
    tokens, kinds = of("tokens"), of("token_type")
    merges = [tuple(merge.split(" ", 1)) for merge in of("merges")]
    made = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    digits, level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence([digits, level]), decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds) if kind == 3]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return made, control


def tokenizers(client, peer, path, lines):
    """Lines whose ids are not those of Hugging Face's library, which the model was trained with; those that are not
    llama.cpp's although the two agree; those at which llama.cpp itself is alone; and ids whose text is another one.

    (Text need not come back: this vocabulary lacks some control characters. Hugging Face's library merges what is on
    both sides of such a character, and llama.cpp does not.)
    """
    library, control = peer_tokenizer(path)
    draw = random.Random(5)
    some = draw.sample(lines, len(lines) // 20)
    with_controls = [draw.choice(control).join([line[:9], line[9:18], line[18:]]) for line in some]
    kinds = ("serin and tokenizers", "serin and both", "llama.cpp and both", "texts by serin and tokenizers")
    differ = {kind: [] for kind in kinds}
    for line in lines + with_controls:
        ours = client.post("/tokenize", content=line)["tokens"]
        theirs, reference = peer.encode(line), library.encode(line, add_special_tokens=False).ids
        text = client.post("/detokenize", tokens=ours)["content"] if ours else ""
        expected = library.decode(ours, skip_special_tokens=False)
        found = ((ours != reference, ours, reference), (theirs == reference != ours, ours, theirs),
                 (ours == reference != theirs, theirs, ours), (text != expected, text, expected))
        for what, (wrong, one, other) in zip(kinds, found):
            if wrong:
                differ[what].append((line, one, other))
    return len(lines) + len(with_controls), differ


def template_ids(peer, render, messages, control):
    """Ids of a conversation in which only the template writes control tokens, whatever the messages spell."""
    marks = {chr(0xE000 + at): message["content"] for at, message in enumerate(messages)}
    marked = render([{**message, "content": mark} for message, mark in zip(messages, marks)])
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, control)) + ")", marked):
        is_control = part in control
        for mark, content in marks.items():
            part = part.replace(mark, content)
        ids += peer.encode(part, special=is_control)
    return ids


def templates(client, peer, path, conversations):
    """Conversations that serin renders or encodes otherwise than Jinja2 and llama.cpp."""
    render, differ = renderer(peer.template()), []
    control = peer_tokenizer(path)[1]
    for messages in conversations:
        expected, expected_ids = render(messages), template_ids(peer, render, messages, control)
        found = client.post("/apply-template", messages=messages)["prompt"]
        ids = client.post("/tokenize", messages=messages)["tokens"]
        if found != expected:
            differ.append((messages, found, expected))
        elif ids != expected_ids:
            differ.append((messages, ids, expected_ids))
    return differ


def told(command):
    """The JSON that a command prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} {command[1]}: {done.stderr.strip()[-1000:]}")
    return json.loads(done.stdout)


def divergence(program, pair, conversations, folder, most=16):
    """KL divergence and "same top" of two files by serin, and by llama.cpp on the same tokens; two ways in serin.

    `serin compare` gives a figure for each reply, `serin bench` the means over all tokens of stable's replies. Replies
    are so short that serin reads whole distributions at each token.
    """
    asked = folder / "prompts.jsonl"
    asked.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    count = str(len(conversations))
    common = [str(pair[0]), str(pair[1]), "--prompts", str(asked), "--replies", count, "--temperature", "0", "--json"]
    readings = told([program, "compare", *common, "--max-tokens", str(most)])["readings"]
    bench = told([program, "bench", *common, "--output-tokens", str(most), "--rounds", "1", "--requests", "1"])["replies"]
    with Peer(pair[0]) as base, Peer(pair[1]) as other:
        render, rows = renderer(base.template()), []
        for reading in readings:
            prompt = base.encode(render(conversations[reading["reply"]]))
            reply = base.encode(reading["text"], special=False)
            tokens, first = prompt + reply[:-1], len(prompt) - 1
            both = [np.array(list(peer.rows(tokens, first))) for peer in (base, other)]
            rows.append((reading, reply, figures(stored(both[0]), both[1])[0], both[0].argmax(1) == both[1].argmax(1)))
    return compared(readings, bench["distributions"], rows)


def compared(readings, bench, rows):
    """Both sides' means: over replies, as cross-reading has them; over all tokens of stable's, as bench has them."""
    of_stable = [row for row in rows if row[0]["writer"] == "stable"]
    tokens = lambda at: np.concatenate([row[at] for row in of_stable])
    return {
        "readings": len(readings), "tokens": int(sum(len(row[1]) for row in rows)),
        "kl by reply": (float(np.mean([one["kl"] for one in readings])), float(np.mean([row[2].mean() for row in rows]))),
        "same top by reply": (float(1 - np.mean([one["differing"] for one in readings])),
                              float(np.mean([row[3].mean() for row in rows]))),
        "Mean KLD": (bench["Mean KLD"], float(tokens(2).mean())),
        "Same top p": (bench["Same top p"], float(tokens(3).mean())),
    }
