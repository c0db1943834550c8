#!/usr/bin/env bash
# Installs kd_keras with what its tests need and runs them; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test
exec python -m pytest "$@"
