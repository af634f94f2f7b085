"""guidellm: a short concurrent run over chat completions, and over completions."""

import os
import pathlib
import tempfile

from case import MODEL, URL, holds, report_of, run, run_tool, same, sees_cancel

COUNT = 30


def benchmark(request_format, until=f"kind=max_requests,count={COUNT}", output=8):
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        tokenizer = os.environ["SERIN_MODEL_FOLDER"]
        command = [
            "guidellm",
            "run",
            "--backend",
            f"kind=openai_http,target={URL},model={MODEL},request_format={request_format}",
            "--profile",
            "kind=concurrent,streams=3",
            "--constraint",
            until,
            "--tokenizer",
            f"kind=huggingface_auto,model={tokenizer}",
            "--data",
            f"kind=synthetic_text,prompt_tokens=60,output_tokens={output}",
            "--output",
            f"kind=json,path={report}",
            "--disable-console-interactive",
        ]
        run_tool(command, HF_HUB_OFFLINE="1")
        return report_of(folder, report.name)["benchmarks"][0]


def whole(result):
    totals = result["metrics"]["request_totals"]
    same((totals["successful"], totals["errored"]), (COUNT, 0), "requests that succeeded and failed")
    return result["metrics"]


def stream():
    metrics = whole(benchmark("/v1/chat/completions"))
    holds(metrics["time_to_first_token_ms"]["successful"]["mean"] > 0, "no time to the first token")


def chat():
    whole(benchmark("/v1/completions"))


def usage():
    metrics = whole(benchmark("/v1/chat/completions"))
    holds(metrics["output_token_count"]["successful"]["mean"] > 0, "no output tokens")


def cancel():
    """At the end of its time it leaves the requests that are running: one for each of its streams."""
    sees_cancel(lambda: benchmark("/v1/chat/completions", "kind=max_duration,seconds=2", 3500), count=3)


if __name__ == "__main__":
    run(globals(), "guidellm")
