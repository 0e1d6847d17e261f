"""Real engines behind the server: the tokens of a mix are those that each request gets alone."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import CPUS, service_for, serving
from tests.serving.talk import stream
from tests.test_engines import spec_for

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("engine", "dtype", "options"),
    [
        ("torch", "float32", {}),
        ("torch", "bfloat16", {}),
        ("onnxruntime", "float32", {}),
    ],
)
def test_a_request_gets_the_tokens_it_gets_alone_whatever_shares_its_steps(
    qwen3: Path, engine: str, dtype: str, options: dict[str, Any]
) -> None:
    """Random arrivals, lengths from one token to several chunks, more requests than slots."""
    numbers = random.Random(5)
    prompts = [
        [numbers.randrange(4096) for _ in range(numbers.choice((1, 5, 16, 17, 70, 150)))]
        for _ in range(16)
    ]
    outputs = [numbers.randrange(1, 40) for _ in prompts]
    waits = [numbers.expovariate(40) for _ in prompts]
    service = service_for(qwen3, slots=4, context=256, chunk=16)
    service.spec = spec_for(qwen3, engine, dtype, options, CPUS[:1])
    with serving(service) as running:

        def one(index: int) -> list[int]:
            body = {
                "prompt": prompts[index],
                "max_tokens": outputs[index],
                "ignore_eos": True,
                "return_token_ids": True,
            }
            events = stream(running.url, "/v1/completions", body)
            return [token for event in events for token in event["choices"][0]["token_ids"]]

        alone = [one(index) for index in range(len(prompts))]
        with ThreadPoolExecutor(len(prompts)) as pool:
            together = []
            for index, wait in enumerate(waits):
                time.sleep(wait)
                together.append(pool.submit(one, index))
        assert [future.result() for future in together] == alone
    assert [len(tokens) for tokens in alone] == outputs
