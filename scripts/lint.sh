#!/usr/bin/env bash
# flake8 over the whole project.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test
exec python -m flake8 kd_keras experiments tests scripts
