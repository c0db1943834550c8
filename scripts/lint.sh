#!/usr/bin/env bash
# Checks style (ruff), formatting (ruff format) and types (mypy). `bash scripts/lint.sh --fix` corrects what ruff can.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test
if [ "${1:-}" = "--fix" ]; then
    python -m ruff check --fix .
    python -m ruff format .
else
    python -m ruff check .
    python -m ruff format --check .
fi
exec python -m mypy
