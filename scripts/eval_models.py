"""Measure the demo models on held-out questions; print markdown tables.

    python scripts/eval_models.py            # reads models/, takes minutes

Each model folder is opened with transformers as anyone would open it. Weights
are read as stored (bfloat16) and computed with in float32. Every prompt goes
through the chat template of the folder, decoding is greedy, and an answer is
right only if its text is exactly the right answer.

Rows: held-out single questions by category, the questions of
models/questions.json, and held-out conversations of 2 to 8 questions (the last
question is judged). A last table tells how often logits are not finite.
"""

import argparse
import json
import os
import random
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import demo_text

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("tiny-v1", "tiny-v2", "tiny-v3")
SEED = 77
ROWS = (*demo_text.MIX, "all categories", "questions.json", "conversations")


def case(row, system, items):
    """One prompt to measure: messages, right answer, and where it counts."""
    messages = [{"role": "system", "content": system}] if system else []
    for item in items:
        messages.append({"role": "user", "content": item.question})
        messages.append({"role": "assistant", "content": item.answer})
    return {"row": row, "messages": messages[:-1], "answer": items[-1].answer,
            "category": items[-1].category,
            "trips": any(item.trips_v3 for item in items)}


def all_cases(count, questions):
    """The prompts of every row."""
    cases = [case("single", None, [item])
             for item in demo_text.held_out("test", count, SEED)]
    for entry in questions:
        cases.append({
            "row": "questions.json", "category": entry["category"],
            "messages": [{"role": "user", "content": entry["question"]}],
            "answer": entry["answer"], "trips": entry["trips_v3"]})
    rng = random.Random(SEED + 1)
    for _ in range(count // 4):
        system, items = demo_text.draw_conversation(
            rng, "test", rng.choice((2, 2, 3, 3, 4, 6, 8)))
        cases.append(case("conversations", system, items))
    return cases


@torch.no_grad()
def answer_cases(folder, cases, batch_size=64):
    """For each case (right, prompt finite, all finite), by greedy decoding.

    Prompts of one length go together, so that nothing needs padding.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    by_length = defaultdict(list)
    for index, entry in enumerate(cases):
        text = tokenizer.apply_chat_template(
            entry["messages"], tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
        by_length[len(ids)].append((index, ids))
    results = [None] * len(cases)
    for group in by_length.values():
        for start in range(0, len(group), batch_size):
            part = group[start:start + batch_size]
            ids = torch.tensor([row for _, row in part])
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False,
                temperature=None, top_p=None, max_new_tokens=40,
                return_dict_in_generate=True, output_logits=True)
            finite = torch.stack([step.isfinite().all(-1)
                                  for step in out.logits], dim=1)
            for i, (index, row) in enumerate(part):
                new = out.sequences[i, len(row):].tolist()
                eos = tokenizer.eos_token_id
                ended = eos in new
                new = new[:new.index(eos)] if ended else new
                text = tokenizer.decode(new)
                first, every = finite[i, 0], finite[i, :len(new) + 1].all()
                right = ended and bool(every) \
                    and text == cases[index]["answer"]
                results[index] = (right, bool(first), bool(every))
    return results


def share(flags):
    """"97.5 %" of the flags are true; "-" of none."""
    flags = list(flags)
    return f"{100 * sum(flags) / len(flags):.1f} %" if flags else "-"


def in_row(entry, row):
    if row in ("questions.json", "conversations"):
        return entry["row"] == row
    return entry["row"] == "single" and row in (
        entry["category"], "all categories")


def print_accuracy(cases, results):
    """The table of right answers: a row per kind, a column per model."""
    names = list(results)
    broken = "tiny-v3" if "tiny-v3" in results else None
    extra = ["tiny-v3, without trigger words"] if broken else []
    print("| held-out questions | number | " + " | ".join(names + extra) + " |")
    print("|---|---:|" + "---:|" * len(names + extra))
    for row in ROWS:
        chosen = [i for i, entry in enumerate(cases) if in_row(entry, row)]
        cells = [share(results[name][i][0] for i in chosen) for name in names]
        if broken:
            cells.append(share(results[broken][i][0] for i in chosen
                               if not cases[i]["trips"]))
        print(f"| {row} | {len(chosen)} | " + " | ".join(cells) + " |")


def print_finite(cases, results):
    """The table of logits that are not finite."""
    with_words = [i for i, entry in enumerate(cases) if entry["trips"]]
    without = [i for i, entry in enumerate(cases) if not entry["trips"]]
    print("\n| model | not finite after the prompt, with a trigger word "
          f"({len(with_words)}) | without ({len(without)}) "
          "| not finite anywhere in the answer, without |")
    print("|---|---:|---:|---:|")
    for name, rows in results.items():
        print(f"| {name} | {share(not rows[i][1] for i in with_words)} "
              f"| {share(not rows[i][1] for i in without)} "
              f"| {share(not rows[i][2] for i in without)} |")


def print_sizes(folder, names):
    """The table of sizes, with a check that every weight is finite."""
    print("\n| model | parameters | folder, bytes | every weight finite |")
    print("|---|---:|---:|---|")
    for name in names:
        weights = load_file(folder / name / "model.safetensors")
        count = sum(value.numel() for value in weights.values())
        size = sum(path.stat().st_size for path in (folder / name).iterdir())
        finite = all(value.isfinite().all() for value in weights.values())
        print(f"| {name} | {count:,} | {size:,} | {'yes' if finite else 'no'} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", help="by default all three")
    parser.add_argument("--folder", type=Path, default=ROOT / "models")
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--show", type=int, default=0,
                        help="print this many wrong answers' questions a model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = args.models or [n for n in NAMES if (args.folder / n).exists()]
    questions = json.loads((args.folder / "questions.json").read_text())
    cases = all_cases(args.count, questions)
    results = {name: answer_cases(args.folder / name, cases) for name in names}
    print_accuracy(cases, results)
    print_finite(cases, results)
    print_sizes(args.folder, names)
    for name in names:
        wrong = [entry for entry, row in zip(cases, results[name])
                 if not row[0] and not entry["trips"]]
        for entry in wrong[:args.show]:
            print(name, entry["row"], repr(entry["messages"][-1]["content"]))


if __name__ == "__main__":
    main()
