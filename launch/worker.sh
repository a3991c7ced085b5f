#!/usr/bin/env bash
# Runs on each worker, on any platform: the preflight, then the program, with the same flags.
#
#   launch/worker.sh [--no-preflight] [--compilation-cache=DIR] --config=RECIPE --workdir=DIR \
#       [main's other flags]
#
# Compiled programs are kept in DIR, or else in $JAX_COMPILATION_CACHE_DIR, or else in the workdir's
# compiled/; --compilation-cache= keeps none. PYTHON names the interpreter. Ends with the program's
# exit code, or the preflight's if that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
export PYTHONUNBUFFERED=1
preflight=yes workdir=''
for argument; do
  if [[ $argument == --workdir=* ]]; then workdir=${argument#*=}; fi
done
# JAX writes only in process 0 and reads in all, so the folder must be one that all workers see.
cache=${JAX_COMPILATION_CACHE_DIR:-${workdir:+${workdir%/}/compiled}}
while [[ ${1:-} == --no-preflight || ${1:-} == --compilation-cache=* ]]; do
  case $1 in
    --no-preflight) preflight='' ;;
    *) cache=${1#*=} ;;
  esac
  shift
done
unset JAX_COMPILATION_CACHE_DIR
if [[ -n $cache ]]; then export JAX_COMPILATION_CACHE_DIR=$cache; fi
# JAX would also make XLA put its own GPU caches there, but XLA cannot access every kind of bucket.
if [[ $cache == *://* ]]; then
  export JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=${JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES:-none}
fi
if [[ -n $preflight ]]; then
  "$python" launch/preflight.py "$@"
fi
exec "$python" -m basisnet_jax.main "$@"
