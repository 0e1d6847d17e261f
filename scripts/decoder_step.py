"""The process of one side of `false-alarms`: it imports NumPy and nothing of armbench.

    python scripts/decoder_step.py CPU

It reads the seconds to sleep after each step, a line for each trial, and answers with its time.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time

import numpy as np

STEPS = 5  # of one trial
PASSES, LAYERS, WIDTH, BATCH = 4, 12, 512, 32  # of one step
_PR_SET_TIMERSLACK = 29


class Step:
    """One decode step of a chain of layers: products, a rectifier and a norm."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        shape = (LAYERS, WIDTH, WIDTH)
        self.weights = rng.standard_normal(shape, dtype=np.float32) / WIDTH**0.5
        self.state = rng.standard_normal((BATCH, WIDTH), dtype=np.float32)

    def __call__(self) -> None:
        for _ in range(PASSES):
            for weight in self.weights:
                self.state = np.maximum(self.state @ weight, 0.0) + 0.1
            self.state /= np.linalg.norm(self.state, axis=1, keepdims=True)


def trial(step: Step, sleep_s: float) -> dict[str, float]:
    """Seconds of a whole trial, and of its sleep."""
    step()
    slept = 0.0
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
        if sleep_s:
            before = time.perf_counter()
            time.sleep(sleep_s)
            slept += time.perf_counter() - before
    return {"seconds": time.perf_counter() - start, "slept": slept}


def main(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)  # a sleep is else 50 us longer than asked
    step = Step()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(trial(step, float(line))), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
