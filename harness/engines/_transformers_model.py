"""The model behind the transformers engine. Loaded in the child only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from harness.engines._openmp import read_openmp
from harness.model.for_transformers import folder_for_transformers
from harness.records.run import RuntimeThreads

if TYPE_CHECKING:
    from harness.engines import EngineSpec, Logits, Tokens


class TransformersEngine:
    """The engine protocol over `model(...)`, which returns the last position's logits only."""

    def __init__(self, spec: EngineSpec) -> None:
        torch.set_num_threads(len(spec.cpus))
        torch.set_num_interop_threads(1)
        self.options = spec.options
        with folder_for_transformers(Path(spec.checkpoint)) as folder:
            self.model: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=getattr(torch, spec.dtype),
                attn_implementation=spec.options["attention"],
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
            )
        self.model.train(mode=False)
        self.cache: Any = None
        self.context = self.held = 0
        self.last = torch.empty(0)

    def allocate(self, batch: int, context: int) -> None:
        self.context, self.cache = context, None

    def _empty(self) -> Any:
        """A cache for new sequences; a static one keeps its memory."""
        if self.options["cache"] == "dynamic":
            return DynamicCache(config=self.model.config)
        if self.cache is not None:
            self.cache.reset()
            return self.cache
        return StaticCache(config=self.model.config, max_cache_len=self.context)

    @torch.inference_mode()
    def _step(self, tokens: Tokens, *, anew: bool = False) -> Tokens:
        if anew:
            self.cache, self.held = self._empty(), 0
        out = self.model(
            input_ids=torch.from_numpy(np.ascontiguousarray(tokens)),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            cache_position=torch.arange(self.held, self.held + tokens.shape[1]),
        )
        self.last = out.logits[:, -1]
        picked: Tokens = self.last.argmax(dim=-1).numpy()
        self.held += tokens.shape[1]
        return picked

    def prefill(self, tokens: Tokens) -> Tokens:
        return self._step(tokens, anew=True)

    def decode(self, tokens: Tokens) -> Tokens:
        return self._step(tokens[:, None])

    def logits(self) -> Logits:
        return np.asarray(self.last.float().numpy())

    def facts(self) -> dict[str, Any]:
        return {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "attention": self.model.config._attn_implementation,
            "kv_cache": self.options["cache"],
        }

    def runtime(self) -> RuntimeThreads:
        seen = RuntimeThreads(
            runtime="torch",
            compute=torch.get_num_threads(),
            interop=torch.get_num_interop_threads(),
        )
        read_openmp(seen)
        return seen
