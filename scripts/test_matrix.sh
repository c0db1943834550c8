#!/usr/bin/env bash
# Runs the fast tests with the oldest and with the newest Python, Keras and TensorFlow that setup.cfg allows, each in a
# virtual environment of its own (.matrix/oldest and .matrix/newest).
# usage: bash scripts/test_matrix.sh [PYTEST ARGUMENTS]     ONLY=oldest or ONLY=newest runs one of the two
# A Python that is not installed is named, and the present python3 takes its place.
set -uo pipefail
cd "$(dirname "$0")/.."
TOP="$PWD"
. scripts/find_python.sh

# Prints "3.10" and "3.13" for python_requires = >=3.10,<3.14.
read -r OLDEST_PYTHON NEWEST_PYTHON < <(sed -nE 's/^python_requires = >=3\.([0-9]+),<3\.([0-9]+)$/\1 \2/p' setup.cfg |
    while read -r low high; do echo "3.$low 3.$((high - 1))"; done)
lowest() { sed -nE "s/^ +$1>=([0-9.]+)$/$1==\1.*/p" setup.cfg | head -1; }

run() {  # run NAME PYTHON_VERSION [PIP CONSTRAINT ...]; the remaining arguments of the script are in PYTEST
    local name="$1" version="$2" place="$TOP/.matrix/$1" interpreter
    shift 2
    if ! interpreter="$(find_python "$version")"; then
        echo "Python $version is not installed (apt-get install python$version, or pyenv install $version)." >&2
        echo "The $name Keras and TensorFlow are tested on $(python3 --version) instead." >&2
        interpreter=python3
    fi
    [ -x "$place/bin/python" ] || "$interpreter" -m venv "$place" || return 1
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip || return 1
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade --editable ".[test]" "$@" || return 1
    printf '\n== %s: ' "$name"
    "$place/bin/python" - <<'VERSIONS'
from importlib.metadata import version
from platform import python_version
print(f"Python {python_version()}, Keras {version('keras')}, TensorFlow {version('tensorflow')}, NumPy {version('numpy')}")
VERSIONS
    TF_CPP_MIN_LOG_LEVEL=2 KD_VENV="$place" PATH="$place/bin:$PATH" "$place/bin/python" -m pytest -q "${PYTEST[@]}"
}

PYTEST=("$@")
[ $# -gt 0 ] || PYTEST=(-n 2 --dist worksteal)
summary="" code=0
for name in ${ONLY:-oldest newest}; do
    case "$name" in
        oldest) run oldest "$OLDEST_PYTHON" "$(lowest keras)" "$(lowest tensorflow)" ;;
        newest) run newest "$NEWEST_PYTHON" ;;
        *) echo "ONLY must be oldest or newest, but is '$name'." >&2; exit 2 ;;
    esac
    result=$?
    [ "$result" -eq 0 ] && summary+="$name: passed. " || { summary+="$name: FAILED (exit code $result). "; code=1; }
done
printf '\n%s\n' "$summary"
exit "$code"
