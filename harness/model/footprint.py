"""What one token costs, from a checkpoint's config alone: bytes read, bytes kept, operations.

Covers Qwen2 and Qwen2.5 (`qwen2`), Qwen3 dense (`qwen3`) and Qwen3 MoE (`qwen3_moe`). A
multiply-add counts as two operations. A look-up of embedding rows, rotary factors, norms and
softmax are left out of the operations: together they are below one percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from harness.errors import ArmbenchError, unknown_name

ARCHITECTURES: dict[str, str] = {
    "qwen2": "Qwen2 and Qwen2.5, dense",
    "qwen3": "Qwen3, dense",
    "qwen3_moe": "Qwen3, mixture of experts",
}


class WeightFormat(Struct, frozen=True, kw_only=True):
    """How a matrix is stored: `bits` per weight, and scale and zero point per group.

    `group` is the number of weights along the input that share one scale: 0 is a whole row (one
    output channel), None is a format without scales. Zero points are packed row by row.
    """

    name: str
    bits: int
    group: int | None = None
    scale_bits: int = 0
    zero_bits: int = 0

    def bytes(self, rows: int, columns: int) -> int:
        """Stored bytes of a matrix with `rows` outputs and `columns` inputs."""
        if self.group is None:
            return rows * _whole_bytes(columns * self.bits)
        group = self.group or columns
        groups = -(-columns // group)
        padded = groups * group if self.group else columns  # the last group is stored whole
        row = _whole_bytes(padded * self.bits) + _whole_bytes(groups * self.zero_bits)
        return rows * (row + groups * self.scale_bits // 8)


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)


def _format(
    name: str, bits: int, group: int | None = None, scale: int = 0, zero: int = 0
) -> WeightFormat:
    return WeightFormat(name=name, bits=bits, group=group, scale_bits=scale, zero_bits=zero)


FORMATS: dict[str, WeightFormat] = {
    f.name: f
    for f in (
        _format("float32", 32),
        _format("float16", 16),
        _format("bfloat16", 16),
        _format("int8", 8, 0, 32),  # one float32 scale per output channel
        _format("int8-channel-zero", 8, 0, 32, 8),
        _format("int8-g32", 8, 32, 32),
        _format("int4-g32", 4, 32, 32),  # ONNX Runtime MatMulNBits, float32 model, symmetric
        _format("int4-g32-zero", 4, 32, 32, 4),
        _format("int4-g128", 4, 128, 32),
        _format("int4-g32-f16", 4, 32, 16),
        _format("int4-g128-f16", 4, 128, 16),
        _format("int4-channel", 4, 0, 32),  # KleidiAI, one scale per output channel
        _format("q8_0", 8, 32, 16),  # llama.cpp block: 32 weights, one half-float scale
        _format("q4_0", 4, 32, 16),
    )
}


def weight_format(name: str) -> WeightFormat:
    """The format of that name; raises ArmbenchError with the nearest one where there is none."""
    if name not in FORMATS:
        raise unknown_name("weight format", name, FORMATS)
    return FORMATS[name]


class Quantisation(Struct, frozen=True, kw_only=True):
    """Which format each part of the model is stored in.

    `head` and `embedding` follow `body` where they are None; `rest` is norms and biases.
    """

    body: WeightFormat
    head: WeightFormat | None = None
    embedding: WeightFormat | None = None
    rest: WeightFormat = FORMATS["float32"]

    @staticmethod
    def of(spec: str | WeightFormat | Quantisation) -> Quantisation:
        """`spec` itself, or the scheme that keeps every matrix in the one format named."""
        if isinstance(spec, Quantisation):
            return spec
        body = weight_format(spec) if isinstance(spec, str) else spec
        rest = body if body.group is None else FORMATS["float32"]
        return Quantisation(body=body, rest=rest)


class _Matrix(Struct, frozen=True):
    """`count` matrices of `rows` outputs by `columns` inputs."""

    rows: int
    columns: int
    count: int = 1

    @property
    def weights(self) -> int:
        return self.rows * self.columns * self.count


class ModelShape(Struct, frozen=True, kw_only=True):
    """The sizes in a checkpoint's config that decide what a token costs."""

    architecture: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    qkv_bias: bool
    output_bias: bool
    qk_norm: bool
    max_position: int | None = None
    experts: int = 0
    experts_per_token: int = 0
    moe_intermediate: int = 0
    moe_layers: int = 0

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> ModelShape:
        """The shape in the dict of a `config.json`.

        Raises ArmbenchError where the architecture is not covered or a size is missing or wrong.
        """
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in ARCHITECTURES:
            raise unknown_name("model architecture", str(kind), ARCHITECTURES)
        heads, hidden = _size(config, "num_attention_heads"), _size(config, "hidden_size")
        default_head = None if kind == "qwen2" else 128  # as transformers' Qwen3Config
        head_dim = config.get("head_dim", default_head) or hidden // heads
        layers = _size(config, "num_hidden_layers")
        moe = kind == "qwen3_moe"
        bias = kind == "qwen2" or bool(config.get("attention_bias", False))
        position = config.get("max_position_embeddings")
        return ModelShape(
            architecture=kind,
            hidden_size=hidden,
            layers=layers,
            heads=heads,
            kv_heads=_size(config, "num_key_value_heads", heads),
            head_dim=_size({"head_dim": head_dim}, "head_dim"),
            intermediate=_size(config, "intermediate_size"),
            vocab=_size(config, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bias,
            output_bias=bias and kind != "qwen2",
            qk_norm=kind != "qwen2",
            max_position=None if position is None else _size(config, "max_position_embeddings"),
            experts=_size(config, "num_experts") if moe else 0,
            experts_per_token=_size(config, "num_experts_per_tok") if moe else 0,
            moe_intermediate=_size(config, "moe_intermediate_size") if moe else 0,
            moe_layers=_moe_layers(config, layers) if moe else 0,
        )

    def parameters(self) -> int:
        """Parameters as the checkpoint counts them: a tied embedding once, every expert."""
        body = sum(m.weights for m in self._body(self.experts)) + self._router_weights
        head = 0 if self.tied else self.embedding_parameters
        return body + self.rest_parameters + self.embedding_parameters + head

    @property
    def embedding_parameters(self) -> int:
        """Weights of the token embedding (and, in the same shape, of the head)."""
        return self.vocab * self.hidden_size

    @property
    def rest_parameters(self) -> int:
        """Norms and biases."""
        kv, attention = self.kv_heads * self.head_dim, self.heads * self.head_dim
        layer = 2 * self.hidden_size
        layer += (attention + 2 * kv) * self.qkv_bias + self.hidden_size * self.output_bias
        layer += 2 * self.head_dim * self.qk_norm
        return self.layers * layer + self.hidden_size

    @property
    def linear_parameters(self) -> int:
        """Weights that one token multiplies with, head excluded (MoE: its own experts only)."""
        body = sum(m.weights for m in self._body(self.experts_per_token))
        return body + self._router_weights

    def expected_experts(self, batch: int = 1) -> float:
        """Distinct experts of one layer that `batch` tokens reach, if routing were even."""
        if not self.experts:
            return 0.0
        missed = (1 - self.experts_per_token / self.experts) ** batch
        return self.experts * (1 - missed)

    def weight_bytes(self, spec: str | WeightFormat | Quantisation) -> int:
        """Bytes of all stored weights: the memory a loaded model takes for them.

        A tied embedding counts once unless the scheme keeps it in a format of its own.
        """
        scheme = Quantisation.of(spec)
        head, embedding = scheme.head or scheme.body, scheme.embedding or scheme.body
        once = self.tied and (scheme.embedding is None or embedding == head)
        total = self._bytes(scheme, self._body(self.experts))
        total += head.bytes(self.vocab, self.hidden_size)
        return total + (0 if once else embedding.bytes(self.vocab, self.hidden_size))

    def weight_bytes_per_step(
        self, spec: str | WeightFormat | Quantisation, batch: int = 1
    ) -> float:
        """Bytes of weights that one decode step of `batch` sequences reads.

        The head counts once, tied or not; of the experts those that even routing reaches. The
        embedding rows looked up are left out.
        """
        scheme = Quantisation.of(spec)
        head = (scheme.head or scheme.body).bytes(self.vocab, self.hidden_size)
        dense = self._bytes(scheme, self._attention() + self._dense_mlp())
        if not self.moe_layers:
            return float(dense + head)
        expert = _stored(scheme.body, self._mlp(self.moe_intermediate, 1))
        return dense + head + self.moe_layers * self.expected_experts(batch) * expert

    def kv_bytes_per_token(self, bytes_per_element: float = 2) -> float:
        """Bytes that one token of context keeps in the KV cache of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_element

    def prefill_flops(self, n: int, *, start: int = 0, head_positions: int | None = None) -> int:
        """Operations to take in `n` tokens after `start` cached ones.

        The head runs for `head_positions` of them: by default the last alone.
        """
        head = min(n, 1) if head_positions is None else head_positions
        seen = n * start + n * (n + 1) // 2  # keys that the n queries meet, causally
        return (
            2 * self.linear_parameters * n
            + 2 * self.embedding_parameters * head
            + self._attention_flops(seen)
        )

    def decode_flops(self, context: int, *, batch: int = 1) -> int:
        """Operations of one decode step of `batch` sequences that each attend to `context` keys."""
        token = 2 * (self.linear_parameters + self.embedding_parameters)
        return batch * (token + self._attention_flops(context))

    def _attention_flops(self, keys: int) -> int:
        return 4 * self.layers * self.heads * self.head_dim * keys  # scores, then values

    def _attention(self) -> list[_Matrix]:
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [
            _Matrix(query, self.hidden_size, self.layers),
            _Matrix(kv, self.hidden_size, 2 * self.layers),
            _Matrix(self.hidden_size, query, self.layers),
        ]

    def _dense_mlp(self) -> list[_Matrix]:
        return self._mlp(self.intermediate, self.layers - self.moe_layers)

    def _mlp(self, width: int, count: int) -> list[_Matrix]:
        return [
            _Matrix(width, self.hidden_size, 2 * count),
            _Matrix(self.hidden_size, width, count),
        ]

    def _body(self, experts: int) -> list[_Matrix]:
        moe = self._mlp(self.moe_intermediate, self.moe_layers * experts)
        return [*self._attention(), *self._dense_mlp(), *moe]

    @property
    def _router_weights(self) -> int:
        return self.experts * self.hidden_size * self.moe_layers

    def _bytes(self, scheme: Quantisation, matrices: list[_Matrix]) -> int:
        # Routers decide which experts run, so the schemes in use leave them unquantised.
        rest = scheme.rest.bytes(1, self.rest_parameters + self._router_weights)
        return rest + _stored(scheme.body, matrices)


def _stored(kept: WeightFormat, matrices: list[_Matrix]) -> int:
    return sum(kept.bytes(m.rows, m.columns) * m.count for m in matrices)


class Footprint(Struct, frozen=True, kw_only=True):
    """A shape in one format: what a decode step and a prefill cost, and what bounds them."""

    shape: ModelShape
    weights: Quantisation
    kv_element_bytes: float = 2

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes that one token of context keeps in the KV cache."""
        return self.shape.kv_bytes_per_token(self.kv_element_bytes)

    def weight_bytes_per_step(self, batch: int = 1) -> float:
        """Bytes of weights that one decode step reads."""
        return self.shape.weight_bytes_per_step(self.weights, batch)

    def step_bytes(self, context: int, batch: int = 1) -> float:
        """Bytes that one decode step reads: weights, and the KV cache of every sequence."""
        return self.weight_bytes_per_step(batch) + batch * context * self.kv_bytes_per_token

    def decode_bound_tok_per_s(
        self, read_bytes_per_s: float, context: int, batch: int = 1
    ) -> float:
        """Tokens per second of all sequences, if reading were all there is to a step."""
        return batch * read_bytes_per_s / self.step_bytes(context, batch)

    def prefill_bound_tok_per_s(self, ops_per_s: float, n: int) -> float:
        """Input tokens per second, if arithmetic were all there is to a prefill of `n`."""
        return n * ops_per_s / self.shape.prefill_flops(n)

    def decode_intensity(self, context: int, batch: int = 1) -> float:
        """Operations per byte read of one decode step."""
        return self.shape.decode_flops(context, batch=batch) / self.step_bytes(context, batch)

    def prefill_intensity(self, n: int, batch: int = 1) -> float:
        """Operations per byte of weights read once for a prefill of `n` tokens each."""
        return batch * self.shape.prefill_flops(n) / self.weight_bytes_per_step(batch * n)


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        found = "nothing" if value is None else repr(value)
        raise ArmbenchError(
            f"config.json should hold a positive whole number as {key!r}, but holds {found}",
            hint="take config.json from the checkpoint's own repository",
        )
    return value


def _moe_layers(config: Mapping[str, Any], layers: int) -> int:
    """Layers with experts: every `decoder_sparse_step`-th that is not in `mlp_only_layers`."""
    step = _size(config, "decoder_sparse_step", 1)
    dense = set(config.get("mlp_only_layers") or [])
    return sum(1 for i in range(layers) if i not in dense and (i + 1) % step == 0)
