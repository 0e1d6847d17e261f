"""What a recipe needs of this machine before it can start: a program, a model, a free port."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from harness.engine_process import child_environment
from harness.engines._llamacpp_programs import find as llamacpp_program
from harness.errors import ArmbenchError
from harness.load.recipes import Recipe

HOST = "127.0.0.1"
_VERSION_S = 60.0  # importing a large package from a cold disk takes a while


def resolve(recipe: Recipe, binary: str | None = None) -> str:
    """The path of the recipe's program, or of `binary`. Raises ArmbenchError where it is none."""
    name = binary or recipe.command[0]
    found = shutil.which(Path(name).expanduser())
    if binary is None and name == "llama-server":
        found = llamacpp_program(name)
    if found is None:
        where = "is no program" if os.sep in name else "is not on PATH"
        raise ArmbenchError(f"{recipe.title} is needed, but {name} {where}", hint=recipe.install)
    return str(Path(found).absolute())


def version(recipe: Recipe, program: str) -> str | None:
    """What `program` says its version is; None where it does not say."""
    if recipe.version is None:
        return None
    command = recipe.version.command
    if command[0] == recipe.command[0]:
        command = [program, *command[1:]]
    try:
        run = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment({}),
            timeout=_VERSION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(recipe.version.pattern, run.stdout.decode(errors="replace"))
    return match[1].strip()[:200] if match and run.returncode == 0 else None


def check_model(recipe: Recipe, model: str) -> None:
    """Raise ArmbenchError where `model` is not of the kind that the server loads."""
    path = Path(model)
    there = {
        "gguf": path.is_file(),
        "folder": (path / "config.json").is_file(),
        "openvino": path.is_dir() and any(path.glob("*.xml")),
        "name": True,
    }[recipe.model]
    if not there:
        what = {
            "gguf": "a GGUF file",
            "folder": "a checkpoint folder with config.json",
            "openvino": "a folder with a model in OpenVINO's format",
        }[recipe.model]
        raise ArmbenchError(f"{recipe.title} takes {what} as its model, {model} is none")


def free_port(port: int | None) -> int:
    """`port` where it is free, or one that is. Raises ArmbenchError for one that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            raise ArmbenchError(
                f"port {port} of {HOST} cannot be used: {error.strerror}",
                hint="leave the port out: a free one is taken then",
            ) from error
        number: int = probe.getsockname()[1]
        return number
