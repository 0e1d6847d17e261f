# Sourced by scripts/bench and scripts/test: makes .venv with locked versions, once.
#
#   set_up run|test      afterwards "$venv/bin/python" has everything
#
# PYTHON names another interpreter than python3.

set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$repo/.venv
locks=$repo/scripts/locks
cpu_index=https://download.pytorch.org/whl/cpu

say() { printf '%s\n' "set-up: $*" >&2; }
fail() { # MESSAGE HINT
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 2
}

find_python() {
  python=${PYTHON:-python3}
  command -v "$python" >/dev/null ||
    fail "$python is not installed" "apt-get install python3 python3-venv"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old, armbench needs 3.11" \
      "install a newer Python and name it: PYTHON=python3.12 $0"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "this Python has no venv module" "apt-get install python3-venv"
  command -v "${CC:-cc}" >/dev/null ||
    say "no C compiler: measured ceilings will be unknown; apt-get install gcc libc6-dev"
}

pinned_torch() { # index|plain
  awk -v a="$(uname -m)" -v c="$1" '$1 == a { print (c == "index" ? $2 : $3) }' "$locks/torch.txt"
}

index_answers() {
  "$venv/bin/python" - "$cpu_index/torch/" <<'PY' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=5).close()
PY
}

pip_install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

install_torch() {
  local from_index plain
  from_index=$(pinned_torch index) plain=$(pinned_torch plain)
  [ -n "$plain" ] || fail "no torch version is pinned for $(uname -m)" "add a line to $locks/torch.txt"
  if index_answers; then
    say "torch $from_index from PyTorch's CPU wheel index"
    if pip_install --no-deps --index-url "$cpu_index" "torch==$from_index"; then return; fi
  fi
  say "torch $plain from the configured package index (PyTorch's CPU index is not reachable;" \
    "on x86-64 this may bring several GB of CUDA libraries)"
  pip_install "torch==$plain"
}

wanted() { # what an environment of this kind depends on
  cat "$locks/torch.txt" "$locks/run.txt" "$repo/pyproject.toml" "$repo/scripts/setup.sh"
  [ "$1" = run ] || cat "$locks/test.txt"
  printf '%s\n' "$("$python" -c 'import sys; print(sys.version, sys.prefix)')" "$repo"
}

install_all() { # run|test
  [ -x "$venv/bin/python" ] || { say "making $venv"; "$python" -m venv "$venv"; }
  install_torch
  say "locked packages"
  pip_install -r "$locks/run.txt"
  if [ "$1" = test ]; then pip_install -r "$locks/test.txt"; fi
  say "armbench itself"
  pip_install --no-deps --no-build-isolation --editable "$repo"
  "$repo/scripts/build-llamacpp" --cached # llama.cpp's binding, where it was built before
  "$venv/bin/python" -m compileall -q "$repo/harness" # where bytecode is not written on import
}

set_up() { # run|test
  local kind=$1 stamp=$venv/.armbench-$1 key
  find_python
  key=$(wanted "$kind" | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then return; fi
  (
    flock 9 # a second set-up waits for the first
    if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ]; then
      install_all "$kind"
      printf '%s\n' "$key" >"$stamp"
      say "ready in $SECONDS s"
    fi
  ) 9>"$repo/.venv.lock"
}
