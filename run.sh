#!/usr/bin/env bash
# ./run.sh [flags]      sets up .venv if needed, then trains, evaluates, draws and exports a small model in minutes
# ./run.sh setup        the set-up alone
# ./run.sh test [args]  the set-up and the tests
# ./run.sh table [args] the set-up and the published table: ten runs, hours; the same command continues
# ./run.sh tensorboard  serves runs/
# ./run.sh docs         builds the documentation site in build/docs
set -euo pipefail
cd -P -- "$(dirname -- "$0")" >/dev/null

fits() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && fits "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "run.sh: found no Python 3.11, 3.12 or 3.13 with venv; install one, or name it: PYTHON=/path/to/python $0" >&2
  return 1
}

# Installs the package with an extra. In the other editable modes, Python would find a clone in the current folder, which
# has the name of the package, before the package itself. The stamp is written last and names what was installed: an
# interrupted set-up is finished by the next call, and one whose files have changed is brought up to date.
setup() {
  local python stamp extra="$1" stamp_file=".venv/installed_$1"
  stamp="$(cat setup.cfg pyproject.toml constraints.txt run.sh | cksum) $PWD"
  if [ "$(cat "$stamp_file" 2>/dev/null)" = "$stamp" ]; then
    return
  fi
  if ! fits .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python="$(find_python)"
    echo "run.sh: creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
  fi
  echo "run.sh: installing the packages (some minutes)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --config-settings editable_mode=compat --editable ".[$extra]"
  echo "$stamp" >"$stamp_file"
}

# Every warning is an error. Nothing of an earlier build stays.
build_docs() {
  setup docs
  rm -rf build/docs build/doctrees
  TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m sphinx --quiet --fail-on-warning --keep-going \
    -c docs -d build/doctrees . build/docs
  echo "run.sh: the documentation is in $PWD/build/docs/index.html"
}

setup test
case "${1:-}" in
  setup) echo "run.sh: .venv is ready" ;;
  test) exec .venv/bin/python -m pytest "${@:2}" ;;
  table) exec .venv/bin/python -m iwae_tf.table "${@:2}" ;;
  docs) build_docs ;;
  tensorboard) exec .venv/bin/python -m tensorboard.main --logdir runs "${@:2}" ;;
  *) exec .venv/bin/python -m iwae_tf.main --flagfile=flags/quickstart.flags "$@" ;;
esac
