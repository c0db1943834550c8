#!/usr/bin/env bash
# Installs kd_keras with what its tests need and runs them; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test
[ $# -gt 0 ] || set -- -n 2 --dist worksteal  # most of the time goes into tracing, for which a process has one core
exec python -m pytest "$@"
