"""What a token costs, held against parameters and sizes that are known from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.model.architecture import dimensions, parameters
from harness.model.footprint import (
    FORMATS,
    Footprint,
    ModelShape,
    Quantisation,
    weight_format,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    },
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
}


def shape(name: str, **changes: Any) -> ModelShape:
    return ModelShape.from_config(CONFIGS[name] | changes)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-30b-a3b", 30_532_122_624),
    ],
)
def test_parameters_are_those_of_the_published_checkpoint(name: str, parameters: int) -> None:
    assert shape(name).parameters() == parameters


def test_kv_bytes_count_keys_and_values_of_the_kv_heads_only() -> None:
    assert shape("qwen2.5-0.5b").kv_bytes_per_token(4) == 2 * 24 * 2 * 64 * 4
    assert shape("qwen3-0.6b").kv_bytes_per_token(2) == 2 * 28 * 8 * 128 * 2


def test_a_tied_head_is_read_once_per_step_and_stored_once() -> None:
    tied = shape("qwen2.5-0.5b")
    assert tied.weight_bytes_per_step("bfloat16") == 2 * 494_032_768
    assert tied.weight_bytes("bfloat16") == 2 * 494_032_768


def test_an_untied_embedding_is_stored_but_not_read() -> None:
    untied = shape("qwen2.5-7b")
    embedding = 152064 * 3584 * 2
    assert untied.weight_bytes("bfloat16") == 2 * 7_615_616_512
    assert untied.weight_bytes_per_step("bfloat16") == 2 * 7_615_616_512 - embedding


def test_int4_bytes_match_what_the_engines_read() -> None:
    """309 MB per token of ONNX Runtime's int4 graph, 346 of llama.cpp's q4_0 with a q8_0 head."""
    small = shape("qwen2.5-0.5b")
    llama = Quantisation(body=FORMATS["q4_0"], head=FORMATS["q8_0"])
    assert small.weight_bytes_per_step("int4-g32") == pytest.approx(309e6, rel=0.002)
    assert small.weight_bytes_per_step(llama) == pytest.approx(346e6, rel=0.002)


def test_a_quantised_head_beside_a_full_embedding_is_stored_twice() -> None:
    small = shape("qwen2.5-0.5b")
    scheme = Quantisation(body=FORMATS["int4-g32"], embedding=FORMATS["float32"])
    extra = small.weight_bytes(scheme) - small.weight_bytes("int4-g32")
    assert extra == small.embedding_parameters * 4


def test_scales_and_zero_points_are_counted() -> None:
    plain = FORMATS["int4-g32"].bytes(8, 64)
    assert plain == 8 * (32 + 2 * 4)
    assert FORMATS["int4-g32-zero"].bytes(8, 64) == plain + 8 * 1  # two nibbles a row
    assert FORMATS["int8"].bytes(8, 64) == 8 * (64 + 4)
    assert FORMATS["q4_0"].bytes(1, 32) == 18
    assert FORMATS["q8_0"].bytes(1, 32) == 34


def test_a_last_group_that_is_not_full_is_stored_whole() -> None:
    assert FORMATS["q4_0"].bytes(1, 33) == 2 * 18


def test_prefill_counts_the_head_once_and_attention_causally() -> None:
    small = shape("qwen2.5-0.5b")
    linear = 24 * (896 * 896 * 2 + 2 * 896 * 128 + 3 * 896 * 4864)
    attention = 4 * 24 * 14 * 64 * (512 * 513 // 2)
    assert small.linear_parameters == linear
    assert small.prefill_flops(512) == 2 * linear * 512 + 2 * 151936 * 896 + attention
    every = small.prefill_flops(512, head_positions=512)
    assert every - small.prefill_flops(512) == 511 * 2 * 151936 * 896


@given(st.integers(1, 64), st.integers(0, 64), st.sampled_from(sorted(CONFIGS)))
def test_a_prefill_in_two_parts_costs_the_same(n: int, more: int, name: str) -> None:
    model = shape(name)
    parts = model.prefill_flops(n, head_positions=0) + model.prefill_flops(
        more, start=n, head_positions=0
    )
    assert parts == model.prefill_flops(n + more, head_positions=0)


@given(st.integers(0, 4096), st.sampled_from(sorted(CONFIGS)))
def test_a_decode_step_is_a_prefill_of_one_token_behind_its_context(cached: int, name: str) -> None:
    model = shape(name)
    assert model.decode_flops(cached + 1) == model.prefill_flops(1, start=cached)


def test_experts_read_grow_from_those_of_one_token_to_all() -> None:
    moe = shape("qwen3-30b-a3b")
    assert moe.expected_experts(1) == pytest.approx(8)
    assert 8 < moe.expected_experts(4) < 32
    assert moe.expected_experts(10_000) == pytest.approx(128)
    dense_head = moe.weight_bytes_per_step("bfloat16", batch=100_000)
    assert dense_head == pytest.approx(moe.weight_bytes("bfloat16") - 2 * 151936 * 2048, rel=1e-9)


def test_one_token_of_the_moe_uses_the_active_parameters_its_name_says() -> None:
    moe = shape("qwen3-30b-a3b")
    active = moe.linear_parameters + 2 * moe.embedding_parameters
    assert active == pytest.approx(3.3e9, rel=0.02)


def test_dense_layers_among_experts_are_counted_as_dense() -> None:
    some = shape("qwen3-30b-a3b", mlp_only_layers=[0, 1], decoder_sparse_step=2)
    assert some.sizes.moe_layers == 23  # every second one is 1, 3, …; 1 is dense
    assert some.parameters() < shape("qwen3-30b-a3b").parameters()


def test_decode_bound_is_bandwidth_over_bytes() -> None:
    cost = Footprint(
        shape=shape("qwen2.5-0.5b"), weights=Quantisation.of("bfloat16"), kv_element_bytes=2
    )
    step = 2 * 494_032_768 + 512 * 2 * 24 * 2 * 64 * 2
    assert cost.step_bytes(512) == step
    assert cost.decode_bound_tok_per_s(100e9, 512) == pytest.approx(100e9 / step)
    assert cost.decode_bound_tok_per_s(100e9, 512, batch=8) > cost.decode_bound_tok_per_s(
        100e9, 512
    )
    assert cost.prefill_bound_tok_per_s(1e12, 512) == pytest.approx(
        512e12 / cost.shape.prefill_flops(512)
    )
    assert cost.prefill_intensity(512) > 100 * cost.decode_intensity(512)


@pytest.mark.parametrize("name", ["qwen2_moe", "llama", None])
def test_another_architecture_is_refused_with_the_known_ones(name: str | None) -> None:
    with pytest.raises(ArmbenchError, match="unknown architecture") as error:
        shape("qwen3-0.6b", model_type=name)
    assert "qwen3_moe" in str(error.value.hint)


@pytest.mark.parametrize("wrong", [None, 0, -1, True, "896", 1.5])
def test_a_missing_or_senseless_size_is_named(wrong: object) -> None:
    with pytest.raises(ArmbenchError, match="hidden_size"):
        shape("qwen3-0.6b", hidden_size=wrong)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(ArmbenchError, match="unknown weight format") as error:
        weight_format("int4-g33")
    assert "int4-g32" in str(error.value.hint)


def test_a_head_size_left_out_follows_the_architecture() -> None:
    assert shape("qwen3-0.6b", head_dim=None).sizes.head == 64
    config = {k: v for k, v in CONFIGS["qwen3-0.6b"].items() if k != "head_dim"}
    assert ModelShape.from_config(config).sizes.head == 128
    assert shape("qwen2.5-0.5b").sizes.head == 64


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"qwen3-30b-a3b"}))
def test_parameters_counted_by_tensor_and_by_formula_are_the_same(name: str) -> None:
    assert shape(name).parameters() == parameters(dimensions(CONFIGS[name]))


def test_a_mixture_of_experts_has_a_footprint_but_no_engine() -> None:
    with pytest.raises(ArmbenchError, match="no mixture of experts") as error:
        dimensions(CONFIGS["qwen3-30b-a3b"])
    assert "dense" in str(error.value.hint)
    assert shape("qwen3-30b-a3b").sizes.experts == 128


@pytest.mark.parametrize("wrong", [3, "0", {"0": 1}, [None]])
def test_dense_layers_that_are_no_list_are_refused(wrong: object) -> None:
    with pytest.raises(ArmbenchError, match="mlp_only_layers"):
        shape("qwen3-30b-a3b", mlp_only_layers=wrong)
