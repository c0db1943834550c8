#!/usr/bin/env bash
# Installs kd_keras with the packages that its tests need, and runs the tests; arguments go to pytest.
# usage: bash scripts/test.sh [PYTEST ARGUMENTS]     KD_COVERAGE=1 measures coverage
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test
[ $# -gt 0 ] || set -- -n 2 --dist worksteal --durations=20  # most of the time is spent tracing, which uses one core per process
if [ -n "${KD_COVERAGE:-}" ]; then
    set -- --cov --cov-report=term:skip-covered "$@"
    if python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then export COVERAGE_CORE=sysmon; fi
fi
exec python -m pytest "$@"
