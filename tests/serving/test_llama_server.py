"""The real llama-server by its recipe, where one is on PATH, on a tiny checkpoint."""

from __future__ import annotations

import http.client
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.load.exposition import delta
from harness.load.managed import Managed
from harness.load.recipes import Settings, in_our_words, read_recipe
from harness.machine.proof import Watch

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("llama-server") is None, reason="no llama-server on PATH"),
]
_gguf = pytest.importorskip("harness.engines._gguf")
PROMPT = [5, 100, 200, 300, 1000, 1500]


@pytest.fixture
def model(qwen2: Path, tmp_path: Path) -> Path:
    _gguf.write_gguf(qwen2, tmp_path / "tiny.gguf", "float32")
    return tmp_path / "tiny.gguf"


def complete(server: Managed, tokens: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of one streamed completion, and its usage."""
    target = server.target()
    body = {
        **json.loads(target.body),
        **target.sampling,
        "model": target.model,
        "prompt": PROMPT,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(body))
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return events, next(e["usage"] for e in events if e.get("usage"))


def test_llama_server_serves_on_its_cpus_and_tells_what_it_did(model: Path) -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0))[:2])
    recipe = read_recipe("llama-server")
    settings = Settings(
        model=str(model), model_name="tiny", cpus=cpus, slots=2, context=128, chunk=64
    )
    with Managed(recipe, settings) as server:
        complete(server, 2)  # the compute threads begin with the first request
        before = server.samples()
        with Watch(server.busiest(), list(cpus), [], interval_s=0.05) as watch:
            events, usage = complete(server, 100)
        after = server.samples()
        facts = server.facts()
    assert before is not None
    assert after is not None
    assert usage["completion_tokens"] == 100
    assert usage["prompt_tokens"] == len(PROMPT)
    assert len(events) > 50, "not streamed"
    told = in_our_words(delta(before, after))
    assert told is not None
    server_name, words = told
    assert server_name == "llama-server"
    assert words["prefill_tokens"] == len(PROMPT)
    assert words["decode_tokens"] == 100
    assert words["cache_tokens_hit"] == 0
    bound = {thread.affinity for thread in watch.proof().threads if thread.cpu_s > 0}
    assert {str(cpu) for cpu in cpus} <= bound
    assert facts["version"]
    assert server.ended is not None
    assert server.ended.killed == []
