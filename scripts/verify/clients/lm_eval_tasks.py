"""lm-eval: a generative task over chat completions, and one of log-likelihoods over completions; own data."""

import json
import os
import pathlib
import tempfile

from case import KEY, MODEL, V1, NotTried, holds, report_of, run, run_tool, said, same

GENERATE = """task: serin_generate
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
output_type: generate_until
test_split: test
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 40, temperature: 0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CHOOSE = """task: serin_choose
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
output_type: multiple_choice
test_split: test
doc_to_text: question
doc_to_choice: ["Hello", "Goodbye"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def evaluate(task, text, kind, route):
    """The results of one task on eight questions; an exception has the end of what lm-eval printed."""
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)
        rows = [json.dumps(dict(question=f"Good morning {n}.", answer=said.HELLO)) for n in range(8)]
        (at / "data.jsonl").write_text("\n".join(rows))
        (at / "task.yaml").write_text(text.replace("DATA", str(at / "data.jsonl")))
        tokenizer = os.environ["SERIN_MODEL_FOLDER"]
        args = (
            f"model={MODEL},base_url={V1}{route},num_concurrent=4,max_retries=1,tokenizer_backend=huggingface,"
            f"tokenizer={tokenizer},tokenized_requests={kind == 'local-completions'}"
        )
        command = [
            "lm_eval",
            "--model",
            kind,
            "--model_args",
            args,
            "--tasks",
            task,
            "--include_path",
            folder,
            "--output_path",
            folder + "/out",
        ] + ["--apply_chat_template"] * ("chat" in kind)
        run_tool(command, OPENAI_API_KEY=KEY or "none", HF_HUB_OFFLINE="1", HF_HOME=folder + "/hf")
        return report_of(folder, "out/**/results*.json")["results"][task]


def chat():
    result = evaluate("serin_generate", GENERATE, "local-chat-completions", "/chat/completions")
    same(result["exact_match,none"], 1.0, "exact matches")


def usage():
    """The log-likelihoods of given answers: `echo` with `logprobs`."""
    result = evaluate("serin_choose", CHOOSE, "local-completions", "/completions")
    holds(0 <= result["acc,none"] <= 1, "no accuracy")


def cancel():
    raise NotTried("it cancels nothing")


def tools():
    raise NotTried("it uses no tools")


if __name__ == "__main__":
    run(globals(), "lm-eval")
