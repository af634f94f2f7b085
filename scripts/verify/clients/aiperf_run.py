"""aiperf: a short streamed run over chat completions, and over completions."""

import os
import pathlib
import tempfile

from case import KEY, MODEL, URL, cancelled, holds, report_of, run, run_tool, same

COUNT = 30


def profile(*more, count=COUNT, output=8):
    model = pathlib.Path(os.environ["SERIN_MODEL_FOLDER"])
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "aiperf",
            "profile",
            "--model",
            MODEL,
            "--url",
            URL,
            "--tokenizer",
            str(model),
            "--request-count",
            str(count),
            "--concurrency",
            "3",
            "--synthetic-input-tokens-mean",
            "60",
            "--output-tokens-mean",
            str(output),
            "--artifact-dir",
            folder,
            "--ui",
            "simple",
            *more,
        ]
        command += ["--api-key", KEY] if KEY else []
        run_tool(command)
        return report_of(folder, "**/profile_export_aiperf.json")


def whole(result):
    same(int(result["request_count"]["avg"]), COUNT, "requests")
    holds(not result.get("error_summary"), f"errors: {result.get('error_summary')}")
    return result


def chat():
    whole(profile("--endpoint-type", "chat"))


def stream():
    result = whole(profile("--endpoint-type", "chat", "--streaming"))
    holds(result["time_to_first_token"]["avg"] > 0 and result["inter_token_latency"]["avg"] > 0, "no token times")
    whole(profile("--endpoint-type", "completions", "--streaming"))


def usage():
    result = whole(profile("--endpoint-type", "chat", "--streaming", "--use-server-token-count"))
    holds(result["output_sequence_length"]["avg"] > 0, "no output tokens in the usage")


def cancel():
    """It leaves half of its requests, which have no end token, and the server counts as many."""
    before = cancelled()
    result = profile(
        *("--endpoint-type", "chat", "--streaming", "--extra-inputs", "ignore_eos:true"),
        *("--request-cancellation-rate", "50", "--request-cancellation-delay", "0.1", "--random-seed", "7"),
        count=12,
        output=3500,
    )
    left = sum(e["count"] for e in result["error_summary"] if e["error_details"]["type"] == "RequestCancellationError")
    holds(left > 0, "no request was left")
    same(int(result["request_count"]["avg"]) + left, 12, "requests that ended or were left")
    same(cancelled() - before, left, "cancelled requests of the server")


if __name__ == "__main__":
    run(globals(), "aiperf")
