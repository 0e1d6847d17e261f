"""AIPerf and GuideLLM: installed beside each other, driven alike, their reports read.

Each has an environment of its own with the version that is pinned here. Their words differ: what
both call inter-token latency is our TPOT; both count TTFT from the send.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from harness import places
from harness.model import checkpoint, synthetic

VERSIONS = {"aiperf": "0.13.0", "guidellm": "0.8.1"}
NEEDS_TORCH = {"guidellm"}
REPOSITORY = Path(__file__).resolve().parents[2]
_LIMIT_S = 600
# A folder with config and tokenizer is all that they read of a model.
_TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
}


class Asked(msgspec.Struct, kw_only=True, frozen=True):
    """A load on an endpoint, from one CPU: `rate` requests a second, or so many at once."""

    url: str
    model: str
    endpoint: str  # completions or chat
    rate: float | None
    concurrency: int | None
    requests: int
    input_tokens: int
    output_tokens: int
    cpu: int
    tokenizer: str


class Seen(msgspec.Struct, kw_only=True, frozen=True):
    """One request that succeeded, as a client reports it.

    `key` is the X-Request-Id that was sent, or the id of the answer.
    """

    key: str
    ttft_s: float
    tpot_s: float | None
    tokens: int
    input_tokens: int | None = None


class Report(msgspec.Struct, kw_only=True):
    """What one client says of one load. Its duration is from the first send to the last token."""

    seen: list[Seen]
    failed: int
    tok_per_s: float
    seconds: float


def default_folder() -> Path:
    """Where their environments lie unless another folder is named."""
    return places.cache_dir() / "clients"


def install(folder: Path, tool: str) -> Path:
    """The command of `tool` in its own environment under `folder`, installed where it is not.

    Raises CalledProcessError where the package index does not give it.
    """
    home = folder / tool
    command = home / "bin" / tool
    mark = home / f".{tool}-{VERSIONS[tool]}"
    if mark.exists():
        return command
    print(f"installing {tool} {VERSIONS[tool]} into {home}", file=sys.stderr)
    if not (home / "bin" / "python").exists():
        venv.create(home, with_pip=True)
    if tool in NEEDS_TORCH:  # the wheel for CPUs, which set-up knows how to get
        source = f'. "{REPOSITORY}/scripts/setup.sh"; venv="{home}"; install_torch'
        subprocess.run(["bash", "-c", source], check=True, stdout=sys.stderr)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{tool}=={VERSIONS[tool]}"], check=True, stdout=sys.stderr)
    mark.touch()
    return command


def tokenizer(folder: Path) -> Path:
    """A small local checkpoint whose tokenizer both read; made where there is none."""
    home = folder / "tokenizer"
    if not (home / "tokenizer.json").exists():
        synthetic.build(home, checkpoint.builtin_config("qwen2.5-0.5b") | _TINY)
    return home


def _run(words: list[str], folder: Path, cpu: int, variables: dict[str, str]) -> None:
    """Runs to the end on one CPU; RuntimeError with the last lines where it fails."""

    def pin() -> None:
        os.sched_setaffinity(0, {cpu})

    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
        preexec_fn=pin,
    )
    if done.returncode:
        tail = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{Path(words[0]).name} ended with {done.returncode}:\n{tail}")


def aiperf(command: Path, asked: Asked, folder: Path) -> Report:
    """What AIPerf says, from its export of single requests and its summary."""
    load = (
        ["--concurrency", str(asked.concurrency)]
        if asked.rate is None
        else ["--request-rate", str(asked.rate), "--request-rate-mode", "constant"]
    )
    words = [
        *(str(command), "profile", "--model", asked.model, "--url", asked.url, "--streaming"),
        *("--endpoint-type", asked.endpoint, "--tokenizer", asked.tokenizer),
        *(*load, "--request-count", str(asked.requests), "--isl", str(asked.input_tokens)),
        *("--num-dataset-entries", str(asked.requests), "--osl", str(asked.output_tokens)),
        *("--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0"),
        *("--use-server-token-count", "--no-gpu-telemetry", "--no-server-metrics"),
        *("--ui-type", "none", "--output-artifact-dir", str(folder)),
    ]
    _run(words, folder, asked.cpu, {})
    lines = (folder / "profile_export.jsonl").read_text().splitlines()
    seen, failed = [], 0
    for line in map(json.loads, lines):
        metrics = line["metrics"]
        if line.get("error") or "time_to_first_token" not in metrics:
            failed += 1
            continue
        gap = metrics.get("inter_token_latency")
        seen.append(
            Seen(
                key=line["metadata"]["x_request_id"],
                ttft_s=metrics["time_to_first_token"]["value"] / 1e3,
                tpot_s=gap["value"] / 1e3 if gap else None,
                tokens=metrics["output_sequence_length"]["value"],
                input_tokens=metrics.get("usage_prompt_tokens", {}).get("value"),
            )
        )
    summary = json.loads((folder / "profile_export_aiperf.json").read_text())
    return Report(
        seen=seen,
        failed=failed,
        tok_per_s=summary["output_token_throughput"]["avg"],
        seconds=summary["benchmark_duration"]["avg"],
    )


def guidellm(command: Path, asked: Asked, folder: Path) -> Report:
    """What GuideLLM says, from its JSON report."""
    route = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}[asked.endpoint]
    data = f"prompt_tokens={asked.input_tokens},output_tokens={asked.output_tokens}"
    backend = json.dumps(
        {
            "kind": "openai_http",
            "target": asked.url,
            "model": asked.model,
            "request_format": route,
            "extras": {"body": {"temperature": 0}},
        }
    )
    profile = (
        f"kind=concurrent,streams={asked.concurrency}"
        if asked.rate is None
        else f"kind=constant,rate={asked.rate}"
    )
    words = [
        *(str(command), "run", "--backend", backend, "--profile", profile),
        *("--constraint", f"kind=max_requests,count={asked.requests}"),
        *("--tokenizer", f"kind=hf_auto,model={asked.tokenizer}"),
        *("--data", f"kind=synthetic_text,{data}"),
        *("--output", f"kind=json,path={folder / 'report.json'}", "--disable-console"),
    ]
    _run(words, folder, asked.cpu, {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    (run,) = json.loads((folder / "report.json").read_text())["benchmarks"]
    requests = run["requests"]
    return Report(
        seen=[
            Seen(
                key=request["response_id"],
                ttft_s=request["time_to_first_token_ms"] / 1e3,
                tpot_s=_seconds(request["inter_token_latency_ms"]),
                tokens=request["output_tokens"],
                input_tokens=request["prompt_tokens"],
            )
            for request in requests["successful"]
        ],
        failed=len(requests["errored"]) + len(requests["incomplete"]),
        tok_per_s=run["metrics"]["output_tokens_per_second"]["total"]["mean"],
        seconds=run["duration"],
    )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


DRIVE: dict[str, Callable[[Path, Asked, Path], Report]] = {"aiperf": aiperf, "guidellm": guidellm}
