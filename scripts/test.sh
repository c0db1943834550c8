#!/usr/bin/env bash
# Installs kd_keras with the packages that its tests need, and runs the tests; arguments go to pytest.
# usage: bash scripts/test.sh [PYTEST ARGUMENTS]     KD_COVERAGE=1 measures coverage and prints the slowest tests
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test
[ $# -gt 0 ] || set -- -n 2 --dist worksteal  # most of the time is spent tracing, which uses one core per process
[ -z "${KD_COVERAGE:-}" ] || set -- --cov --cov-report=term:skip-covered --durations=20 "$@"
exec python -m pytest "$@"
