"""A real model in serin and in llama.cpp: the same files, the same texts.

SmolLM2-135M-Instruct from the Python package index, in every kind that the program loads (scripts/real_model makes
them). For each kind: greedy replies to 50 prompts over HTTP, at every position the token that llama.cpp chooses or one
that its own rounding cannot tell from it; and the perplexity of 12,000 tokens. Once: the tokenizer on 10,000 lines
against llama.cpp and Hugging Face's library, the chat template on 30 conversations against Jinja2, and how far two kinds
diverge (`serin compare`, `serin bench`) against llama-perplexity's formulas on llama.cpp's logits.

And a random model with rows of 512 and 1,024 columns, in each type of matrices by itself (`seeded`): the real model's rows
are too short for types in blocks of 256.

A kind that the program refuses is listed with its message; it is a failure only if it is one of `--must`. Needs
llama-cpp-python (scripts/peer_env.py installs it into an environment of its own, or uses the library in
LLAMA_CPP_LIB_PATH), and 4 GB of disk. All kinds take 20 minutes, and the divergence of two 15 more. Exits with 75 if the
package index cannot be reached.

With weights in F16, F32 or BF16, little is rounded, and a wrong detail of the model shows at once. With others, inputs of
matrix products are rounded to 8 bits by both programs; this model's are so uneven that either is some 0.09 nats away
from llama.cpp in F32. There, the most sensitive figure is how much more serin rounds than llama.cpp.
"""

import pathlib
import subprocess
import sys
import tempfile

from common import ROOT, Report, Server, arguments

sys.path.append(str(ROOT / "scripts"))

import peer_env  # noqa: E402

MUST = ("F32,F16,BF16,Q8_0,Q4_0,Q4_1,Q5_0,Q5_1,Q2_K,Q3_K_S,Q3_K_M,Q3_K_L,Q4_K_S,Q4_K_M,Q5_K_S,Q5_K_M,Q6_K,IQ3_S,IQ3_M,"
        "IQ4_NL,IQ4_XS")
TOKENS, PIECE, LINES, REPLY, CLOSE, PERPLEXITY = 12_000, 100, 10_000, 32, 0.05, 0.005
# Conversations for the divergence of two kinds.
READINGS = 400


def files(args):
    """Paths of the kinds asked for, by kind; all that llama.cpp makes if none is named."""
    script = [sys.executable, str(ROOT / "scripts/real_model")]
    run = lambda *more: subprocess.run([*script, *more], stdout=subprocess.PIPE, text=True, check=False)
    kinds = [kind for kind in args.kinds.split(",") if kind] or run("--list").stdout.split()
    done = run(*(word for kind in kinds for word in ("--kind", kind)))
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return dict(zip(kinds, map(pathlib.Path, done.stdout.split())))


def loaded(args, paths, report):
    """The kinds that the program loads; the others go into the report with its message."""
    found, must = {}, args.must.split(",")
    for kind, path in paths.items():
        done = subprocess.run([str(args.serin), "check", str(path)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found[kind] = path
            continue
        why = (done.stderr.strip().splitlines() or ["no message"])[-1].replace(str(path), path.name)
        if kind in must:
            report.bar(f"{kind} loads", why, "must", False)
        else:
            report.figure(f"{kind} loads", f"refused: {why}")
    return found


def of_kind(args, report, kind, path):
    """Greedy replies and perplexity of one file."""
    from real import checks, peer, texts
    conversations, most = texts.prompts(), REPLY
    if args.quick:
        conversations, most = conversations[:6], 8
    with peer.Peer(path) as model:
        render, end = checks.renderer(model.template()), model.end()
        prompts = [model.encode(render(messages)) for messages in conversations]
        ids = {model.piece(token): token for token in range(model.size)}
        text = model.encode(texts.long_text())[:TOKENS // (10 if args.quick else 1)]
    with tempfile.TemporaryDirectory() as folder:
        wide = peer.widened(path, pathlib.Path(folder))
        with Server(args.serin, {"model": {"name": "m", "stable": str(path)}}) as server:
            replies = checks.answered(server.addr, conversations, most, ids, end)
            perplexity = checks.perplexity(checks.Client(server.addr), path, wide, text, PIECE)
        found = checks.greedy(path, wide, prompts, replies)
    same = sum(reply["prompt"] == len(prompt) for reply, prompt in zip(replies, prompts))
    report.bar(f"{kind}: prompts of the same length", f"{same} of {len(prompts)}", "all", same == len(prompts))
    report.figure(f"{kind}: replies equal to llama.cpp's", f"{found['equal']} of {found['replies']}")
    report.figure(f"{kind}: tokens that are not llama.cpp's choice", f"{found['others']} of {found['positions']}")
    report.bar(f"{kind}: largest regret of those, nats", found["regret"],
               f"{found['regret_bound']:.4f}, beyond it {found['beyond']}", found["regret"] <= found["regret_bound"])
    for name in ("mean", "p99"):
        bound = float(found[f"{name}_bound"])
        report.bar(f"{kind}: log-probabilities, {name} difference", found[name], f"{bound:.4f}", found[name] <= bound)
    report.figure(f"{kind}: from llama.cpp in F32, mean, serin and llama.cpp",
                  f"{found['own_rounding']:.5f} and {found['its_rounding']:.5f}")
    report.bar(f"{kind}: serin rounds more than llama.cpp, standard errors", found["more_rounding"], "at most 3",
               found["more_rounding"] <= 3)
    report.figure(f"{kind}: replies less / more likely to llama.cpp than its own by 0.05 nats a token",
                  f"{found['less_likely']} / {found['more_likely']}")
    ours, theirs, exact = perplexity
    report.bar(f"{kind}: perplexity ({theirs:.4f} by llama.cpp, {exact:.4f} in F32)", round(ours, 4),
               f"within {PERPLEXITY:.1%}", abs(ours / theirs - 1) <= PERPLEXITY)


def of_seeded(args, report):
    """A random model in each type of matrices."""
    from make_random_gguf import HALVES, PLAIN, SEEDED, write
    with tempfile.TemporaryDirectory() as folder:
        for kind in HALVES:
            path = pathlib.Path(folder) / f"seeded-{kind}.gguf"
            write(path, SEEDED, kind, PLAIN)
            of_kind(args, report, f"seeded {kind}", path)
            path.unlink()
            print(f"seeded {kind}: done", flush=True)


def of_text(args, report, path):
    """Tokenizer and chat template: they are the same in all files."""
    from real import checks, peer, texts
    lines = texts.lines(LINES // (10 if args.quick else 1))
    with Server(args.serin, {"model": {"name": "m", "stable": str(path)}}) as server, peer.Peer(path) as model:
        client = checks.Client(server.addr)
        count, differ = checks.tokenizers(client, model, path, lines)
        for what, found in differ.items():
            if what == "llama.cpp and both":
                report.figure(f"tokenizer: {what} differ, of {count} lines", len(found))
            else:
                report.bar(f"tokenizer: {what} differ, of {count} lines", len(found), "0", not found)
            for line, one, other in found[:5]:
                print(f"tokenizer, {what}: {line!r}: {one} and {other}", flush=True)
        wrong = checks.templates(client, model, path, texts.histories())
        report.bar("chat template: conversations that differ from Jinja2", len(wrong), "0 of 30", not wrong)
        for messages, one, other in wrong[:5]:
            print(f"template: {messages}: {one!r} and {other!r}", flush=True)


def of_pair(args, report, kinds, paths):
    """Divergence of two kinds."""
    from real import checks, texts
    conversations = texts.readings(6 if args.quick else READINGS)
    with tempfile.TemporaryDirectory() as folder:
        found = checks.divergence(args.serin, paths, conversations, pathlib.Path(folder))
    name = " and ".join(kinds)
    report.figure(f"{name}: replies read, tokens", f"{found.pop('readings')}, {found.pop('tokens')}")
    for what, (ours, theirs) in found.items():
        report.bar(f"{name}: {what} ({theirs:.4f} by llama.cpp)", round(ours, 4), f"within {CLOSE:.0%}",
                   abs(ours / theirs - 1) <= CLOSE)


def main():
    args = arguments(
        __doc__, kinds=("", "kinds, comma-separated; all of `scripts/real_model --list` if empty"),
        must=(MUST, "kinds that the program must load"), pair=("Q4_1,Q4_0", "stable's and the canary's kind"),
        parts=("kinds,text,pair,seeded", "what is compared"))
    peer_env.enter()
    report, paths = Report("real_model", args), files(args)
    known = loaded(args, paths, report)
    if not known:
        raise SystemExit("real_model: the program loads none of these kinds; name others with --kinds")
    if "kinds" in args.parts:
        for kind, path in known.items():
            of_kind(args, report, kind, path)
            print(f"{kind}: done", flush=True)
    if "seeded" in args.parts:
        of_seeded(args, report)
    if "text" in args.parts:
        of_text(args, report, next(iter(known.values())))
    if "pair" in args.parts:
        stable, canary = args.pair.split(",")
        # Q8_0 has nearly the weights of the file as published, so it can stand in for that.
        stable = stable if stable in known else "Q8_0"
        if missing := {stable, canary} - known.keys():
            raise SystemExit(f"real_model: --pair needs {', '.join(missing)}: add it to --kinds if it can be loaded")
        of_pair(args, report, (stable, canary), [known[stable], known[canary]])
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
