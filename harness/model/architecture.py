"""What a checkpoint's config.json says of its model: sizes, tensors and their shapes.

Sources: the parameter names of the published safetensors of Qwen2.5 and Qwen3 (dense), and the
defaults of transformers' Qwen2Config, Qwen3Config and Qwen3MoeConfig.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.errors import ArmbenchError, unknown_name
from harness.records.model import Dimensions

__all__ = ["ARCHITECTURES", "Dimensions", "dimensions", "parameters", "sizes", "tensor_shapes"]

ARCHITECTURES: dict[str, str] = {
    "qwen2": "Qwen2 and Qwen2.5, dense",
    "qwen3": "Qwen3, dense",
    "qwen3_moe": "Qwen3, mixture of experts",
}


# No published model has more; a config that says so would keep every reader busy.
_MOST_LAYERS = 4096


def _positive(
    config: Mapping[str, Any], key: str, default: int | None = None, most: int = 2**31 - 1
) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise ArmbenchError(
            f"config.json has {key} = {value!r:.100}, expected a whole number from 1 to {most}",
            hint="take config.json from the Qwen checkpoint's own repository",
        )
    return value


def _number(values: Mapping[str, Any], key: str, default: float) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise ArmbenchError(f"config.json has {key} = {value!r}, expected a positive number")
    return float(value)


def _rope(config: Mapping[str, Any]) -> tuple[str, float]:
    """(kind of scaling, theta) of the rotary embedding."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    known = rope if isinstance(rope, dict) else {"rope_type": "?"}
    theta = _number(known if "rope_theta" in known else config, "rope_theta", 10000.0)
    return str(known.get("rope_type", known.get("type", "default"))), theta


def _moe_layers(config: Mapping[str, Any], layers: int) -> int:
    """Layers with experts: every `decoder_sparse_step`-th that is not in `mlp_only_layers`."""
    step = _positive(config, "decoder_sparse_step", 1)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(isinstance(i, int) for i in dense):
        raise ArmbenchError(f"config.json has mlp_only_layers = {dense!r}, expected a list")
    return sum(1 for i in range(layers) if i not in set(dense) and (i + 1) % step == 0)


def sizes(config: Mapping[str, Any]) -> Dimensions:
    """The sizes that `config` (a parsed config.json) states, of every architecture we count.

    Raises ArmbenchError for another architecture, or a missing or senseless size.
    """
    family = str(config.get("model_type"))
    if family not in ARCHITECTURES:
        raise unknown_name("architecture (model_type)", family, ARCHITECTURES)
    hidden = _positive(config, "hidden_size")
    heads = _positive(config, "num_attention_heads")
    kv_heads = _positive(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise ArmbenchError(f"config.json has {heads} heads, not a multiple of {kv_heads} KV heads")
    derived = max(1, hidden // heads)
    if config.get("head_dim", 0) is None:  # written out as null: transformers derives it
        head = derived
    else:
        head = _positive(config, "head_dim", derived if family == "qwen2" else 128)
    layers = _positive(config, "num_hidden_layers", most=_MOST_LAYERS)
    moe = family == "qwen3_moe"
    bias = bool(config.get("attention_bias", False)) and family != "qwen2"
    return Dimensions(
        family=family,
        hidden=hidden,
        intermediate=_positive(config, "intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        vocabulary=_positive(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or bias,
        output_bias=bias,
        qk_norm=family != "qwen2",
        norm_eps=_number(config, "rms_norm_eps", 1e-6),
        rope_theta=_rope(config)[1],
        context=_positive(config, "max_position_embeddings", 32768),
        experts=_positive(config, "num_experts") if moe else 0,
        experts_per_token=_positive(config, "num_experts_per_tok") if moe else 0,
        moe_intermediate=_positive(config, "moe_intermediate_size") if moe else 0,
        moe_layers=_moe_layers(config, layers) if moe else 0,
    )


def dimensions(config: Mapping[str, Any]) -> Dimensions:
    """The sizes in `config`, of a model that the engines here compute.

    Raises ArmbenchError as `sizes` does, and for a mixture of experts, sliding-window attention,
    rope scaling, or a qwen3 with biases.
    """
    found = sizes(config)
    if found.experts:
        raise ArmbenchError(
            f"config.json is a {found.family}: the engines here run no mixture of experts",
            hint="only its footprint is known here; to run, take a dense model",
        )
    if config.get("use_sliding_window"):
        raise ArmbenchError(
            "config.json turns sliding-window attention on, which the engines here do not compute",
            hint="set use_sliding_window to false",
        )
    if found.output_bias:
        raise ArmbenchError(
            "config.json sets attention_bias on a qwen3 model, which no published Qwen3 does",
            hint="the engines here compute qwen3 attention without biases",
        )
    kind = _rope(config)[0]
    if kind != "default":
        raise ArmbenchError(
            f"config.json asks for rope scaling {kind!r}, which the engines here do not compute",
            hint="remove rope_scaling from config.json for contexts inside the trained length",
        )
    return found


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
    """Every tensor of a dense checkpoint by name, shapes as (rows, columns) or (length,)."""
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
