"""Flags of a serving load: keys of harness.load.keys.LoadKeys, for `run` and `load` alike."""

from __future__ import annotations

from harness.errors import ArmbenchError

LOAD_FLAGS: dict[str, str] = {
    "input_tokens": "input tokens per request, comma-separated; a served load also takes "
    "uniform:32-128, normal:64/16, lognormal:64/0.5, trace, prompts:FILE.jsonl",
    "output_tokens": "output tokens per request, likewise",
    "concurrency": "requests at once of a closed loop, comma-separated",
    "rate": "requests per second of an open loop, comma-separated",
    "max_concurrency": "cap on the requests of an open loop that are under way at once",
    "arrivals": "how an open loop's requests arrive: constant, poisson, gamma, ramp, trace",
    "burstiness": "shape of gamma arrivals: 1 is Poisson, below 1 comes in bursts",
    "ramp_to": "requests per second at the end of a ramp",
    "trace": "a trace to replay: Azure LLM inference CSV, Mooncake JSONL, BurstGPT CSV",
    "time_scale": "stretch a trace: 2 plays it at half its speed",
    "requests": "requests of each trial",
    "duration": "how long requests are sent in each trial, such as 60s",
    "prefix_share": "share of the input that requests of a group have in common, such as 0.5",
    "prefix_groups": "number of such groups",
    "turns": "requests of each conversation, one after the other",
    "think": "time between an answer and the next turn, such as 2s",
    "slo": "promise: a profile (server, interactive) or ttft:p99<=2s,tpot:p99<=100ms",
}
_LISTS = ("input_tokens", "output_tokens", "concurrency", "rate")
_WHOLE = ("concurrency", "max_concurrency", "requests", "prefix_groups", "turns")
_NUMBERS = ("rate", "burstiness", "ramp_to", "time_scale", "prefix_share")


def parse(key: str, text: str) -> object:
    """The value of flag `key`. Raises ArmbenchError where `text` is not of its kind."""
    if key in _LISTS:
        return [_one(key, part.strip()) for part in text.split(",") if part.strip()]
    return _one(key, text)


def _one(key: str, text: str) -> object:
    if key in _WHOLE:
        return whole(key, text)
    if key in _NUMBERS:
        try:
            return float(text)
        except ValueError:
            raise ArmbenchError(f"{flag(key)} is {text!r}", hint="give a number") from None
    if key in ("input_tokens", "output_tokens"):
        return int(text) if text.isdecimal() else text
    return text


def flag(key: str) -> str:
    """The flag of a key: `--input-tokens`."""
    return f"--{key.replace('_', '-')}"


def whole(key: str, text: str) -> int:
    """A whole number. Raises ArmbenchError for anything else."""
    try:
        return int(text)
    except ValueError:
        raise ArmbenchError(f"{flag(key)} is {text!r}", hint="give a whole number") from None
