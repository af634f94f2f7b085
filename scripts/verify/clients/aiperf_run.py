"""aiperf: a short streamed run over chat completions, and over completions."""

import json
import os
import pathlib
import subprocess
import tempfile

from case import KEY, MODEL, URL, NotTried, holds, run, same

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
        done = subprocess.run(
            [os.environ["SERIN_TOOL_BIN"] + "/" + command[0], *command[1:]], capture_output=True, text=True, timeout=300
        )
        found = list(pathlib.Path(folder).rglob("profile_export_aiperf.json"))
        if done.returncode or not found:
            raise RuntimeError((done.stdout + done.stderr)[-550:])
        return json.loads(found[0].read_text())


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
