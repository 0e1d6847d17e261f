"""The sizes of a Qwen decoder: what a checkpoint's config.json says of its shape."""

from __future__ import annotations

from msgspec import Struct


class Dimensions(Struct, frozen=True, kw_only=True):
    """Sizes of a Qwen decoder; all counts, no units.

    Of `layers`, `moe_layers` have `experts` experts of `moe_intermediate` each; the rest, and every
    layer of a dense model, has one block of `intermediate`.
    """

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
    output_bias: bool = False
    experts: int = 0
    experts_per_token: int = 0
    moe_intermediate: int = 0
    moe_layers: int = 0
