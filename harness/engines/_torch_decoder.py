"""The decoder behind the torch engine: Qwen2, Qwen2.5 and Qwen3 (dense)."""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import safe_open
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from harness.engines._openmp import read_openmp
from harness.engines._slots import none_open
from harness.engines._torch_glue import glue
from harness.engines._torch_kernels import of_head
from harness.engines._torch_quantised import INT8, KERNELS, AnyLinear, chosen, has_kleidiai
from harness.engines._torch_slots import SlotDecoder
from harness.engines._traces import read_mkl, read_onednn
from harness.model.architecture import Dimensions, dimensions
from harness.model.checkpoint import tensor_files
from harness.records.run import KernelPath, KernelSeen, RuntimeThreads, Variant

if TYPE_CHECKING:
    from harness.engines import EngineSpec, Feed, Logits, Tokens


class Linear:
    """`x @ weight.T + bias`, with the weight packed for oneDNN where that is possible."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, packed: bool) -> None:
        self.packed = packed
        self.bias = bias
        # None: the packed form must serve prefill and decode, so no batch size is promised.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, "none", [], ""
            )
            return out
        return F.linear(x, self.weight, self.bias)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`, in one pass where packed."""
        if self.packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x, residual, self.weight, self.bias, "add"
            )
            return out
        return residual + self(x)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch packs linear layers of `dtype` on this CPU, tried on a small one.

    oneDNN takes bfloat16 only where the CPU has AVX-512 or bfloat16 instructions.
    """
    try:
        one = torch.ones(1, 8, dtype=dtype)
        Linear(torch.ones(8, 8, dtype=dtype), None, packed=True).added_to(one, one)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True


class Weights:
    """Tensors of a checkpoint by name, read in one dtype, one at a time."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.files = tensor_files(folder)
        self.folder = folder
        self.dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.folder / self.files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor.to(self.dtype).contiguous()

    def stacked(self, *names: str) -> Tensor:
        return torch.cat([self[name] for name in names])


def linear(weight: Tensor, bias: Tensor | None, kernel: str) -> AnyLinear:
    """A layer on one of `_torch_quantised.KERNELS`, "packed" for oneDNN or "plain"."""
    if kernel in KERNELS:
        return KERNELS[kernel](weight, bias)
    return Linear(weight, bias, packed=kernel == "packed")


class Layer:
    """One decoder layer: query, key and value in one product, gate and up in one."""

    def __init__(self, weights: Weights, index: int, d: Dimensions, kernel: str) -> None:
        at = f"model.layers.{index}."
        attention, mlp = at + "self_attn.", at + "mlp."
        bias = (
            weights.stacked(*(f"{attention}{n}_proj.bias" for n in "qkv")) if d.qkv_bias else None
        )
        self.d = d
        self.norm_in = weights[at + "input_layernorm.weight"]
        self.norm_mid = weights[at + "post_attention_layernorm.weight"]
        self.qkv = linear(
            weights.stacked(*(f"{attention}{n}_proj.weight" for n in "qkv")), bias, kernel
        )
        self.out = linear(weights[attention + "o_proj.weight"], None, kernel)
        self.gate_up = linear(
            weights.stacked(mlp + "gate_proj.weight", mlp + "up_proj.weight"), None, kernel
        )
        self.down = linear(weights[mlp + "down_proj.weight"], None, kernel)
        self.qk_norm: Tensor | None = None
        if d.qk_norm:  # one scale per head: queries', then keys'
            q, k = weights[attention + "q_norm.weight"], weights[attention + "k_norm.weight"]
            self.qk_norm = torch.cat([q.expand(d.heads, -1), k.expand(d.kv_heads, -1)])

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """(queries then keys, values) of `x` (batch, n, hidden) as (batch, n, heads, head)."""
        d = self.d
        batch, n, _ = x.shape
        qkv = self.qkv(glue.norm(x, self.norm_in, d.norm_eps))
        qkv = qkv.view(batch, n, d.heads + 2 * d.kv_heads, d.head)
        qk, v = qkv[:, :, : d.heads + d.kv_heads], qkv[:, :, d.heads + d.kv_heads :]
        if self.qk_norm is not None:
            qk = glue.head_norm(qk, self.qk_norm, d.norm_eps)
        return glue.rotate(qk, cos, sin), v

    def heads(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of `x` (batch, n, hidden) as (batch, heads, n, head)."""
        qk, v = self.project(x, cos, sin)
        qk = qk.transpose(1, 2)
        return qk[:, : self.d.heads], qk[:, self.d.heads :], v.transpose(1, 2)

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of `q` (batch, heads, n, head) over all cached positions; n is 1 or all."""
        d = self.d
        batch, _, n, _ = q.shape
        if n == 1:  # the queries that share a KV head act as its rows: nothing is repeated
            q = q.reshape(batch, d.kv_heads, d.heads // d.kv_heads, d.head)
            out = F.scaled_dot_product_attention(q, keys, values)
            return out.reshape(batch, 1, d.heads * d.head)
        out = F.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).reshape(batch, n, d.heads * d.head)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output from its input and its attention."""
        d = self.d
        x = self.out.added_to(x, attended)
        both = self.gate_up(glue.norm(x, self.norm_mid, d.norm_eps))
        return self.down.added_to(x, glue.gated(both))


class Decoder:
    """The whole model with a static KV cache for sequences of equal length."""

    def __init__(self, folder: Path, dtype: torch.dtype, kernel: str) -> None:
        self.d = d = dimensions(json.loads((folder / "config.json").read_text()))
        weights = Weights(folder, dtype)
        self.dtype = dtype
        rows, columns = "model.embed_tokens.weight", "lm_head.weight"
        self.embed: Callable[[Tensor], Tensor]
        self.head: AnyLinear
        if kernel in KERNELS:
            int8 = INT8[of_head(kernel)]
            table = int8(weights[rows], None)
            self.embed = table.rows
            self.head = table if d.tied else int8(weights[columns], None)
        else:
            embedding = weights[rows]
            self.embed = partial(F.embedding, weight=embedding)
            self.head = linear(embedding if d.tied else weights[columns], None, kernel)
        self.layers = [Layer(weights, i, d, kernel) for i in range(d.layers)]
        self.norm = weights["model.norm.weight"]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.length = 0

    def allocate(self, batch: int, context: int) -> None:
        """A zeroed cache of (batch, KV heads, context, head) for each layer, and the angles."""
        d = self.d
        shape = (batch, d.kv_heads, context, d.head)
        self.keys = [torch.zeros(shape, dtype=self.dtype) for _ in self.layers]
        self.values = [torch.zeros(shape, dtype=self.dtype) for _ in self.layers]
        self.cos, self.sin = self.angles(context)
        self.length = 0

    def angles(self, context: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding, (context, 1, head) each."""
        exponents = torch.arange(0, self.d.head, 2, dtype=torch.float32) / self.d.head
        angles = torch.outer(torch.arange(context).float(), self.d.rope_theta**-exponents)
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def step(self, tokens: Tensor) -> Tensor:
        """Append `tokens` (batch, n) and return the last position's logits (batch, vocabulary)."""
        start, end = self.length, self.length + tokens.shape[1]
        x = self.embed(tokens)
        cos, sin = self.cos[start:end], self.sin[start:end]
        for layer, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            q, k, v = layer.heads(x, cos, sin)
            keys[:, :, start:end] = k
            values[:, :, start:end] = v
            x = layer.finish(x, layer.attend(q, keys[:, :, :end], values[:, :, :end]))
        self.length = end
        return self.head(glue.norm(x[:, -1], self.norm, self.d.norm_eps))


@contextmanager
def _own_output() -> Iterator[list[str]]:
    """What C code in this process prints meanwhile, as lines, in the list once it is over."""
    lines: list[str] = []
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    before = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            yield lines
        finally:
            libc.fflush(None)
            os.dup2(before, 1)
            os.close(before)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


@contextmanager
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


_LINEAR = {
    "packed": "oneDNN packed",
    "plain": "torch.nn.functional.linear",
    "int_mm": "aten::_int_mm",
    "int8pack": "aten::_weight_int8pack_mm",
    "int4pack": "aten::_weight_int4pack_mm_for_cpu",
    "dyn_quant_4bit": "aten::_dyn_quant_matmul_4bit",
}
_QUANTISED = {_LINEAR[kernel] for kernel in KERNELS}


class TorchEngine:
    """The engine protocol over `Decoder`."""

    def __init__(self, spec: EngineSpec) -> None:
        torch.set_num_threads(len(spec.cpus))
        torch.set_num_interop_threads(1)
        self.told: list[str] = []  # in a traced process: what the libraries say of themselves
        with _inference(), _own_output() if spec.trace else nullcontext(self.told) as self.told:
            if spec.dtype in ("int8", "int4"):
                self.kernel = chosen(spec.dtype, spec.options["kernel"])
                dtype = torch.float32
            else:
                dtype = getattr(torch, spec.dtype)
                packed = spec.options["packed"] and can_pack(dtype)
                self.kernel = "packed" if packed else "plain"
            self.decoder = Decoder(Path(spec.checkpoint), dtype, self.kernel)
        self.compile = bool(spec.options["compile"])
        self.last = torch.empty(0)
        self.slots: SlotDecoder | None = None

    def allocate(self, batch: int, context: int) -> None:
        self.slots = None
        glue.use(compiled=self.compile)
        with _inference():
            self.decoder.allocate(batch, context)

    def open_slots(self, slots: int, context: int) -> None:
        glue.use(compiled=False)  # the bits of compiled chains were not held against the mix
        self.decoder.keys, self.decoder.values = [], []
        with _inference():
            self.slots = SlotDecoder(self.decoder, slots, context)

    def step(self, feeds: Sequence[Feed]) -> list[int | None]:
        with _inference():
            self.last = self._open().step(feeds)
            picked = iter(self.last.argmax(dim=-1).tolist())
        return [next(picked) if feed.wanted else None for feed in feeds]

    def release(self, slot: int) -> None:
        self._open().lengths.release(slot)

    def _open(self) -> SlotDecoder:
        if self.slots is None:
            raise none_open()
        return self.slots

    def _step(self, tokens: Tokens) -> Tokens:
        with _inference():
            self.last = self.decoder.step(torch.from_numpy(tokens))
            picked: Tokens = self.last.argmax(dim=-1).numpy()
        return picked

    def prefill(self, tokens: Tokens) -> Tokens:
        self.decoder.length = 0
        return self._step(tokens)

    def decode(self, tokens: Tokens) -> Tokens:
        return self._step(tokens[:, None])

    def logits(self) -> Logits:
        return np.asarray(self.last.float().numpy())

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "torch": torch.__version__,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "linear": _LINEAR[self.kernel],
            "between products": "compiled by inductor" if glue.is_compiled else "eager",
        }
        if self.kernel in KERNELS:
            facts["head"] = _LINEAR[of_head(self.kernel)]
        if self.kernel == "dyn_quant_4bit":
            facts["reference"] = not has_kleidiai()
        if self.slots is not None:  # None: sums depend on the mix in their last bits
            facts["rows_with_bits_of_their_own_from"] = self.slots.fewest
        return facts

    def trace(self, work: Callable[[], None]) -> KernelPath:
        """What oneDNN and MKL print while `work` runs, and the quantised products it calls."""
        with _own_output() as lines, profile(activities=[ProfilerActivity.CPU]) as seen:
            work()
        _, told = read_onednn(self.told)
        kernels, facts = read_onednn(lines)
        slow = set() if has_kleidiai() else {_LINEAR["dyn_quant_4bit"]}
        if not kernels:  # _int_mm hands its product to oneDNN where the CPU has VNNI, else loops
            slow.add(_LINEAR["int_mm"])
        products = [
            KernelSeen(
                name=event.key,
                calls=event.count,
                seconds=event.self_cpu_time_total / 1e6,
                reference=event.key in slow,
            )
            for event in seen.key_averages()
            if event.key in _QUANTISED
        ]
        blas, more = read_mkl(lines)
        more |= told
        facts |= more | {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
        return KernelPath(
            variant=Variant(engine="torch", dtype="", threads=0),
            source="oneDNN verbose, MKL verbose, torch.profiler",
            kernels=kernels + blas + products,
            facts=facts,
            reason=None if kernels or blas or products else "no product printed a call",
        )

    def runtime(self) -> RuntimeThreads:
        seen = RuntimeThreads(
            runtime="torch",
            compute=torch.get_num_threads(),
            interop=torch.get_num_interop_threads(),
        )
        read_openmp(seen)
        return seen
