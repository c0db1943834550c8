#!/usr/bin/env bash
# Makes the API pages from the docstrings, in build/docs. A warning is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh docs
rm -rf build/docs
# TensorFlow asks `uname` for the processor when it is imported, which pdoc only permits with PDOC_ALLOW_EXEC.
PDOC_ALLOW_EXEC=1 python - "$@" <<'PDOC'
import runpy, sys, warnings

warnings.filterwarnings("error", category=UserWarning, module=r"pdoc\.")
# pdoc looks up the types of a NamedTuple's fields in the wrong module.
warnings.filterwarnings("ignore", message="Error parsing type annotation ForwardRef", module=r"pdoc\.")
sys.argv = ["pdoc", "--docformat=google", "--math", "--output-directory=build/docs", *(sys.argv[1:] or ["kd_keras"])]
runpy.run_module("pdoc", run_name="__main__")
PDOC
echo "The pages are in build/docs/index.html."
