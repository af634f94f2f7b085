"""aiperf: a short streamed run over chat completions, and over completions."""

import os
import pathlib
import tempfile

from case import KEY, MODEL, URL, NotTried, holds, report_of, run, run_tool, same

COUNT = 30


def profile(*more):
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
            str(COUNT),
            "--concurrency",
            "3",
            "--synthetic-input-tokens-mean",
            "60",
            "--output-tokens-mean",
            "8",
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
    raise NotTried("it cancels nothing")


if __name__ == "__main__":
    run(globals(), "aiperf")
