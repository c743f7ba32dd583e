"""The real daemon in a temporary home: its settings, dropping a file, asking."""

import json
import time

import tiny

from lorad.config import Settings

SETTINGS = Settings.model_validate(
    {
        "tracks": {"chat": {"task": "chat", "base": "tiny"}},
        "inbox": {"settle_seconds": 0.2},
        "planner": {
            "table": [
                {"rank": 8, "alpha": 16, "epochs": 20, "batch": 2, "accumulation": 4, "max_length": 128}
            ],
            "learning_rates": [{"learning_rate": 0.005}],
            "wordings": 0,  # the tiny tokenizer knows no other words
            "gapped": 0,
            "stopping": {"recall": 1.0, "max_rounds": 120, "patience": 120},
        },
        "rehearsal": {"recalled_share": 1.0, "general_share": 0.0},
        "training": {"threads": 1, "dtype": "float32"},  # the same on machines with bfloat16
        "judge": {"max_perplexity_rise": 100.0, "max_kl": 100.0, "max_degenerate_share": 1.0},
    }
)


def wait_for(condition, seconds=90.0):
    """Wait for something that another process does; a minute and a half is for the slowest machine."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def learn(client, home, name, examples):
    """Drop a file and wait for its job's end; return the job."""
    jobs = len(client.call("GET", "/lorad/jobs")["jobs"])
    hidden = home.inbox / f".{name}.part"
    hidden.write_text(json.dumps(tiny.rows(examples)))
    hidden.rename(home.inbox / name)

    def ended():
        found = client.call("GET", "/lorad/jobs")["jobs"]
        return len(found) > jobs and found[0]["state"] not in {"queued", "training", "judging"} and found[0]

    return wait_for(ended)


def ask(client, example, model="chat"):
    """Return the whole answer and the version that gave it."""
    body = {"model": model, "messages": example.input, "max_tokens": 8}
    answer = client.call("POST", "/v1/chat/completions", body)
    return answer["choices"][0]["message"]["content"], answer["model"]
