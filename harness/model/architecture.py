"""Tensors of the Qwen architectures: names and shapes, from a checkpoint's config.json.

Sources: the parameter names of the published safetensors of Qwen2.5 and Qwen3 (dense).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from harness.errors import ArmbenchError, unknown_name

FAMILIES = ("qwen2", "qwen3")


class Dimensions(Struct, frozen=True, kw_only=True):
    """Sizes of a dense Qwen decoder; all counts, no units."""

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    norm_eps: float
    rope_theta: float
    context: int


def _positive(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ArmbenchError(
            f"config.json has {key} = {value!r}, expected a positive whole number",
            hint="is this the config.json of a Qwen checkpoint?",
        )
    return value


def _rope_theta(config: Mapping[str, Any]) -> float:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else "?"
    if kind != "default":
        raise ArmbenchError(
            f"config.json asks for rope scaling {kind!r}, which the engines here do not compute",
            hint="remove rope_scaling from config.json for contexts inside the trained length",
        )
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    if not isinstance(theta, int | float) or not theta > 0:
        raise ArmbenchError(f"config.json has rope_theta = {theta!r}, expected a positive number")
    return float(theta)


def dimensions(config: Mapping[str, Any]) -> Dimensions:
    """The sizes that `config` (a parsed config.json) states.

    Raises ArmbenchError for another architecture, a missing or senseless size, sliding-window
    attention or rope scaling.
    """
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise unknown_name("architecture (model_type)", family, FAMILIES)
    if config.get("use_sliding_window"):
        raise ArmbenchError(
            "config.json turns sliding-window attention on, which the engines here do not compute",
            hint="set use_sliding_window to false",
        )
    if family == "qwen3" and config.get("attention_bias"):
        raise ArmbenchError(
            "config.json sets attention_bias on a qwen3 model, which no published Qwen3 does",
            hint="the engines here compute qwen3 attention without biases",
        )
    hidden = _positive(config, "hidden_size")
    heads = _positive(config, "num_attention_heads")
    kv_heads = _positive(config, "num_key_value_heads", heads)
    head = _positive(config, "head_dim", 128 if family == "qwen3" else max(1, hidden // heads))
    if heads % kv_heads:
        raise ArmbenchError(f"config.json has {heads} heads, not a multiple of {kv_heads} KV heads")
    return Dimensions(
        family=family,
        hidden=hidden,
        intermediate=_positive(config, "intermediate_size"),
        layers=_positive(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        vocabulary=_positive(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=_rope_theta(config),
        context=_positive(config, "max_position_embeddings", 32768),
    )


def _layer_shapes(d: Dimensions) -> dict[str, tuple[int, ...]]:
    q, kv = d.heads * d.head, d.kv_heads * d.head
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (d.hidden,),
        "self_attn.q_proj.weight": (q, d.hidden),
        "self_attn.k_proj.weight": (kv, d.hidden),
        "self_attn.v_proj.weight": (kv, d.hidden),
        "self_attn.o_proj.weight": (d.hidden, q),
        "post_attention_layernorm.weight": (d.hidden,),
        "mlp.gate_proj.weight": (d.intermediate, d.hidden),
        "mlp.up_proj.weight": (d.intermediate, d.hidden),
        "mlp.down_proj.weight": (d.hidden, d.intermediate),
    }
    if d.qkv_bias:
        shapes |= {f"self_attn.{n}_proj.bias": (q if n == "q" else kv,) for n in "qkv"}
    if d.qk_norm:
        shapes |= {f"self_attn.{n}_norm.weight": (d.head,) for n in "qk"}
    return shapes


def tensor_shapes(d: Dimensions) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint by name, shapes as (rows, columns) or (length,)."""
    layer = _layer_shapes(d)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (d.vocabulary, d.hidden)}
    for i in range(d.layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (d.hidden,)
    if not d.tied:
        shapes["lm_head.weight"] = (d.vocabulary, d.hidden)
    return shapes


def parameters(d: Dimensions) -> int:
    """Number of values in all tensors; a tied head counts once."""
    return sum(math.prod(shape) for shape in tensor_shapes(d).values())
