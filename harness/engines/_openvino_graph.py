"""The model as an OpenVINO graph, written from the checkpoint's tensors: Qwen2, 2.5, 3 (dense).

No exporter is needed. The KV cache is state of the graph (ReadValue, Concat, Assign around
ScaledDotProductAttention), which the CPU plugin fuses into an attention of its own; the head is
computed for the last position only. Layers follow transformers' modelling code of the three models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset15 as ops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.model.architecture import Dimensions

    Array = NDArray[np.float32]
    Get = Callable[[str], Array]
    Weight = Callable[[Array], Any]  # a constant, decompressed to float32 where it is packed


class Graph:
    """One model of sizes `d`, tensors from `get`, matrices made into nodes by `weight`."""

    def __init__(self, d: Dimensions, get: Get, weight: Weight) -> None:
        self.d, self.get, self.weight = d, get, weight
        self.states: list[Any] = []

    def model(self) -> ov.Model:
        """The graph from `tokens` and `inputs` to `logits`, (batch, 1, vocabulary)."""
        d = self.d
        tokens = _input("tokens", ov.Type.i64, [-1, -1])
        self.rows = _input("rows", ov.Type.i32, [-1])
        self.cosine = _input("cosine", ov.Type.f32, [1, 1, -1, d.head])
        self.sine = _input("sine", ov.Type.f32, [1, 1, -1, d.head])
        table = self.weight(self.get("model.embed_tokens.weight"))
        x = ops.gather(table, tokens, _int(0))
        self.batch = ops.gather(ops.shape_of(tokens), _ints(0), _int(0))
        for layer in range(d.layers):
            x = self._layer(f"model.layers.{layer}.", layer, x)
        last = self._norm("model.norm.weight", ops.gather(x, _ints(-1), _int(1)))
        head = table if d.tied else self.weight(self.get("lm_head.weight"))
        result = ops.result(ops.matmul(last, head, False, True), name="logits")
        result.output(0).get_tensor().set_names({"logits"})
        inputs = [tokens, self.rows, self.cosine, self.sine]
        return ov.Model([result], self.states, inputs, "armbench")

    def _norm(self, name: str, x: Any) -> Any:
        """Root-mean-square norm over the last axis, times the weight `name`."""
        square = ops.reduce_mean(ops.power(x, ops.constant(np.float32(2))), _ints(-1), True)
        root = ops.sqrt(ops.add(square, ops.constant(np.float32(self.d.norm_eps))))
        scaled = ops.multiply(x, ops.divide(ops.constant(np.float32(1)), root))
        return ops.multiply(scaled, ops.constant(self.get(name)))

    def _linear(self, name: str, x: Any) -> Any:
        product = ops.matmul(x, self.weight(self.get(f"{name}.weight")), False, True)
        if self.d.qkv_bias and name.endswith(("q_proj", "k_proj", "v_proj")):
            return ops.add(product, ops.constant(self.get(f"{name}.bias")))
        return product

    def _heads(self, name: str, x: Any, heads: int, norm: str | None) -> Any:
        """(batch, heads, n, head) of one projection, normed and turned where `norm` is given."""
        split = ops.reshape(self._linear(name, x), _ints(0, 0, heads, self.d.head), True)
        if norm and self.d.qk_norm:
            split = self._norm(norm, split)
        across = ops.transpose(split, _ints(0, 2, 1, 3))
        return self._rotated(across) if norm else across

    def _rotated(self, x: Any) -> Any:
        half = self.d.head // 2
        low = ops.slice(x, _ints(0), _ints(half), _ints(1), _ints(3))
        high = ops.slice(x, _ints(half), _ints(2 * half), _ints(1), _ints(3))
        turned = ops.concat([ops.multiply(high, ops.constant(np.float32(-1))), low], -1)
        return ops.add(ops.multiply(x, self.cosine), ops.multiply(turned, self.sine))

    def _state(self, name: str, new: Any) -> Any:
        """`new` behind what the state `name` holds, and the state set to both."""
        d = self.d
        shape = ops.concat([self.batch, _ints(d.kv_heads, 0, d.head)], 0)
        empty = ops.broadcast(ops.constant(np.float32(0)), shape)
        held = ops.read_value(
            empty, name, ov.Type.f32, ov.PartialShape([-1, d.kv_heads, -1, d.head])
        )
        both = ops.concat([ops.gather(held, self.rows, _int(0)), new], 2)
        self.states.append(ops.assign(both, name))
        return both

    def _shared(self, x: Any) -> Any:
        """(batch, KV heads, n, head) with each head repeated for the queries that share it."""
        d = self.d
        if d.heads == d.kv_heads:
            return x
        wide = ops.unsqueeze(x, _ints(2))
        shape = _ints(1, 1, d.heads // d.kv_heads, 1, 1)
        wide = ops.broadcast(wide, shape, broadcast_spec="BIDIRECTIONAL")
        return ops.reshape(wide, _ints(0, d.heads, -1, d.head), True)

    def _attention(self, prefix: str, layer: int, x: Any) -> Any:
        d = self.d
        q = self._heads(f"{prefix}q_proj", x, d.heads, f"{prefix}q_norm.weight")
        k = self._heads(f"{prefix}k_proj", x, d.kv_heads, f"{prefix}k_norm.weight")
        v = self._heads(f"{prefix}v_proj", x, d.kv_heads, None)
        k, v = self._state(f"key.{layer}", k), self._state(f"value.{layer}", v)
        # No mask: with one, OpenVINO 2026.4 computes attention in bfloat16 wrongly (seen with
        # AVX-512: logits a quarter off). Fused with the state, causal counts from the last key.
        mixed = ops.scaled_dot_product_attention(q, self._shared(k), self._shared(v), causal=True)
        rows = ops.reshape(
            ops.transpose(mixed, _ints(0, 2, 1, 3)), _ints(0, 0, d.heads * d.head), True
        )
        return self._linear(f"{prefix}o_proj", rows)

    def _layer(self, prefix: str, layer: int, x: Any) -> Any:
        before = self._norm(f"{prefix}input_layernorm.weight", x)
        x = ops.add(x, self._attention(f"{prefix}self_attn.", layer, before))
        y = self._norm(f"{prefix}post_attention_layernorm.weight", x)
        gate = ops.swish(self._linear(f"{prefix}mlp.gate_proj", y))
        up = self._linear(f"{prefix}mlp.up_proj", y)
        return ops.add(x, self._linear(f"{prefix}mlp.down_proj", ops.multiply(gate, up)))


def _input(name: str, kind: ov.Type, shape: list[int]) -> Any:
    node = ops.parameter(shape, kind, name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def inputs(d: Dimensions, batch: int, start: int, end: int) -> dict[str, Any]:
    """What the graph is fed beside `tokens` (batch, end - start) at positions `start` to `end`.

    `rows` says which row of the state each sequence continues: its own. `cosine` and `sine` are
    the rotary embedding's, (1, 1, n, head), computed here because a graph in bfloat16 would round
    the angles.
    """
    exponent = np.arange(0, d.head, 2, dtype=np.float64) / d.head
    at = np.arange(start, end, dtype=np.float64)
    angle = np.tile(at[:, None] * d.rope_theta**-exponent, (1, 2))[None, None]
    return {
        "rows": np.arange(batch, dtype=np.int32),
        "cosine": np.cos(angle).astype(np.float32),
        "sine": np.sin(angle).astype(np.float32),
    }


def _int(value: int) -> Any:
    return ops.constant(np.int64(value))


def _ints(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))
