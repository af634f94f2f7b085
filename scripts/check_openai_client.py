"""Checks a running server with the official OpenAI client and recounts its usage figures.

    pip install openai transformers jinja2
    cargo run --release -- serve
    python scripts/check_openai_client.py

Asks questions from the demo models' domain, streaming and not, as chat and as plain completion, and
recounts prompt and completion tokens with the model folder's tokenizer in Hugging Face's transformers
(the token that ends a reply is not counted). Exits with 1 if an answer is wrong or a count differs.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from openai import OpenAI, BadRequestError, NotFoundError
from transformers import AutoTokenizer

MODELS = Path(__file__).resolve().parent.parent / "models"


class Recount:
    """Token counts by transformers."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def chat(self, messages):
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True)
        return self.text(text, special=False)

    def text(self, text, special=True):
        return len(self.tokenizer(text, add_special_tokens=special)["input_ids"])


def streamed(client, **request):
    """Text and usage of a streamed chat."""
    text, finish, usage, ids = "", None, None, set()
    chunks = client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **request)
    for chunk in chunks:
        ids.add(chunk.id)
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert len(ids) == 1, f"the id changed within a stream: {ids}"
    assert finish in ("stop", "length"), f"the stream ended with {finish}"
    return text, usage


def ask(client, recount, model, item, stream):
    """Asks one question; returns what is wrong with the answer, as a list of texts."""
    messages = [{"role": "user", "content": item["question"]}]
    request = dict(model=model, messages=messages, temperature=0, max_tokens=48)
    if stream:
        text, usage = streamed(client, **request)
    else:
        reply = client.chat.completions.create(**request)
        text, usage = reply.choices[0].message.content, reply.usage
    wrong = []
    expected = recount.chat(messages), recount.text(text, special=False)
    counted = usage.prompt_tokens, usage.completion_tokens
    if counted != expected or usage.total_tokens != sum(expected):
        wrong.append(f"usage {counted}, recounted {expected}: {item['question']}")
    right = text.strip() == item["answer"]
    return right, wrong


def refusals(client, model):
    """Bad requests must raise the client library's own error types."""
    wrong = []
    messages = [{"role": "user", "content": "Hi"}]
    try:
        client.chat.completions.create(model="nobody", messages=messages)
        wrong.append("an unknown model was served")
    except NotFoundError as error:
        if error.code != "model_not_found":
            wrong.append(f"unknown model: code {error.code}")
    try:
        client.chat.completions.create(model=model, messages=messages, temperature=9)
        wrong.append("temperature 9 was served")
    except BadRequestError as error:
        if error.param != "temperature":
            wrong.append(f"temperature 9: param {error.param}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="http://127.0.0.1:8080")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--folder", default=str(MODELS / "tiny-v1"), help="the served model")
    parser.add_argument("--questions", type=int, default=60)
    args = parser.parse_args()
    client = OpenAI(base_url=f"{args.server}/v1", api_key="none")
    recount = Recount(args.folder)
    items = json.loads((MODELS / "questions.json").read_text())
    items = random.Random(1).sample(items, args.questions)
    wrong, right = refusals(client, args.model), 0
    for number, item in enumerate(items):
        good, faults = ask(client, recount, args.model, item, stream=number % 2 == 0)
        right += good
        wrong += faults
    plain = client.completions.create(
        model=args.model, prompt="What is", max_tokens=5, extra_body={"ignore_eos": True})
    if (plain.usage.prompt_tokens, plain.usage.completion_tokens) != (recount.text("What is"), 5):
        wrong.append(f"plain completion: usage {plain.usage}")
    for line in wrong:
        print(line)
    print(f"{right} of {len(items)} answers right, {len(wrong)} faults")
    sys.exit(bool(wrong) or right < 0.85 * len(items))


if __name__ == "__main__":
    main()
