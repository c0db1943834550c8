#!/usr/bin/env bash
# Installs kd_keras with the packages that its tests need, and runs the tests; arguments go to pytest.
# usage: bash scripts/test.sh [PYTEST ARGUMENTS]     KD_COVERAGE=1 measures coverage and prints the slowest tests
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test
[ $# -gt 0 ] || set -- -n 2 --dist worksteal  # most of the time is spent tracing, which uses one core per process
if [ -n "${KD_COVERAGE:-}" ]; then
    set -- --cov --cov-report=term:skip-covered --durations=20 "$@"
    # The default tracer costs 20 to 40 % of the time, Python 3.12's monitoring hardly anything.
    if python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then export COVERAGE_CORE=sysmon; fi
fi
exec python -m pytest "$@"
