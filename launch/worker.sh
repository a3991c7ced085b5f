#!/usr/bin/env bash
# What runs on each worker, wherever that is: the preflight, then the program, with the same flags.
#
#   launch/worker.sh [--no-preflight] --config=RECIPE --workdir=DIR [main's other flags]
#
# PYTHON names the interpreter. Ends with the program's exit code, or the preflight's if it fails.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
export PYTHONUNBUFFERED=1
if [[ ${1:-} == --no-preflight ]]; then
  shift
else
  "$python" launch/preflight.py "$@"
fi
exec "$python" -m basisnet_jax.main "$@"
