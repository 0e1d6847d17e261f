"""A checkpoint is untrusted: whatever is wrong with it has a clear error before anything loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.model import checkpoint, synthetic
from harness.model.architecture import dimensions, parameters
from tests.conftest import tiny_config

PUBLISHED_PARAMETERS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
}


@pytest.fixture
def copy(qwen2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen2, tmp_path / "copy"))


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_built_in_shapes_have_the_published_parameter_counts() -> None:
    counted = {
        name: parameters(dimensions(checkpoint.builtin_config(name)))
        for name in checkpoint.builtin_names()
    }
    assert counted == PUBLISHED_PARAMETERS


def test_a_sharded_checkpoint_opens(qwen2: Path) -> None:
    found = checkpoint.open_folder(qwen2)
    assert len(set(checkpoint.tensor_files(qwen2).values())) > 1
    assert found.synthetic
    assert found.dimensions.qkv_bias
    assert not found.dimensions.tied


def test_synthetic_weights_are_labelled_and_a_real_folder_is_not(copy: Path) -> None:
    assert checkpoint.identify(checkpoint.open_folder(copy)).weights == "synthetic"
    (copy / synthetic.MARK).unlink()
    assert checkpoint.identify(checkpoint.open_folder(copy)).weights == "checkpoint"


def test_building_twice_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        synthetic.build(tmp_path / name, tiny_config("qwen3-0.6b"))
    first, second = (checkpoint.identify(checkpoint.open_folder(tmp_path / n)) for n in ("a", "b"))
    assert first.files == second.files
    assert checkpoint.fingerprint(first) == checkpoint.fingerprint(second)


def test_one_changed_weight_changes_the_fingerprint(copy: Path) -> None:
    before = checkpoint.fingerprint(checkpoint.identify(checkpoint.open_folder(copy)))
    shard = sorted(copy.glob("*.safetensors"))[0]
    body = bytearray(shard.read_bytes())
    body[-1] ^= 1
    shard.write_bytes(body)
    assert checkpoint.fingerprint(checkpoint.identify(checkpoint.open_folder(copy))) != before


def test_an_interrupted_build_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.build(tmp_path / "m", tiny_config("qwen3-0.6b"), progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shard_is_named(copy: Path) -> None:
    shard = sorted(copy.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ArmbenchError, match=shard.name):
        checkpoint.open_folder(copy)


def test_shards_beside_a_whole_file_are_two_models_and_refused(copy: Path, qwen3: Path) -> None:
    """transformers would read the whole file, others the shards."""
    shutil.copy(qwen3 / "model.safetensors", copy)
    with pytest.raises(ArmbenchError, match="holds two models"):
        checkpoint.open_folder(copy)


def test_an_index_of_one_whole_file_is_one_model(qwen3: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(qwen3, tmp_path / "copy"))
    whole = checkpoint.tensor_files(folder)
    (folder / checkpoint.INDEX).write_text(json.dumps({"weight_map": whole}))
    assert checkpoint.open_folder(folder).weight_bytes


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_a_cut_off_shard_is_named(copy: Path, keep: float) -> None:
    shard = sorted(copy.glob("*.safetensors"))[0]
    body = shard.read_bytes()
    shard.write_bytes(body[: int(keep * len(body)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(ArmbenchError, match=shard.name):
        checkpoint.open_folder(copy)


def test_another_architecture_is_refused_by_name(copy: Path) -> None:
    edit(copy, model_type="llama")
    with pytest.raises(ArmbenchError, match=r"unknown architecture.*'llama'"):
        checkpoint.open_folder(copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auto_map": {"AutoModel": "evil.py"}}, "code from the checkpoint"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"hidden_size": -5}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": 2**30}, "num_hidden_layers"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2"),
        ({"intermediate_size": 999}, "999"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
    ],
)
def test_a_config_that_cannot_be_computed_is_refused(
    copy: Path, changes: dict[str, Any], words: str
) -> None:
    edit(copy, **changes)
    with pytest.raises(ArmbenchError, match=words):
        checkpoint.open_folder(copy)


def ask_for_code(folder: Path, code: str) -> None:
    """Let the tokenizer of `folder` be a class of its own Python."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["own.Own", None]}
    settings["tokenizer_class"] = "Own"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text(code)


def test_a_tokenizer_that_brings_code_is_refused(copy: Path) -> None:
    ask_for_code(copy, "")
    with pytest.raises(ArmbenchError, match=r"tokenizer_config\.json asks for code") as caught:
        checkpoint.open_folder(copy)
    assert "never runs remote code" in (caught.value.hint or "")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("qwen3-0.6b")))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ArmbenchError, match="pickled"):
        checkpoint.open_folder(tmp_path)


def test_an_index_that_points_outside_its_folder_is_refused(copy: Path) -> None:
    index = json.loads((copy / checkpoint.INDEX).read_text())
    tensor = next(iter(index["weight_map"]))
    index["weight_map"][tensor] = "../../etc/passwd"
    (copy / checkpoint.INDEX).write_text(json.dumps(index))
    with pytest.raises(ArmbenchError, match="outside"):
        checkpoint.open_folder(copy)


def test_an_unknown_model_gets_the_nearest_name() -> None:
    with pytest.raises(ArmbenchError) as caught:
        checkpoint.resolve("qwen2.5-0.5")
    assert "qwen2.5-0.5b" in (caught.value.hint or "")


def test_a_hub_id_without_a_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ArmbenchError) as caught:
        checkpoint.resolve("Qwen/Qwen2.5-0.5B-does-not-exist")
    assert "give its folder" in (caught.value.hint or "")


def test_a_hub_id_in_the_local_cache_needs_no_network(qwen3: Path, tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    at = tmp_path / "models--someone--tiny"
    shutil.copytree(qwen3, at / "snapshots" / revision)
    (at / "refs").mkdir()
    (at / "refs" / "main").write_text(revision)
    code = (
        "from harness.model import checkpoint\n"
        "found = checkpoint.resolve('someone/tiny')\n"
        "print(found.name, found.revision)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["someone/tiny", revision]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200) | st.builds(lambda b: len(b).to_bytes(8, "little") + b, st.binary()))
def test_no_bytes_make_the_header_reader_raise_anything_but_a_user_error(
    tmp_path: Path, body: bytes
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(body)
    try:
        checkpoint.read_header(file)
    except ArmbenchError as error:
        assert str(file) in error.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(tiny_config("qwen3-0.6b"))), json_values))
def test_no_config_makes_the_reader_raise_anything_but_a_user_error(
    changes: dict[str, Any],
) -> None:
    try:
        d = dimensions(tiny_config("qwen3-0.6b") | changes)
    except ArmbenchError as error:
        assert error.message
    else:
        assert parameters(d) > 0
