#!/usr/bin/env bash
# What runs on each worker, wherever that is: the preflight, then the program, with the same flags.
#
#   launch/worker.sh [--no-preflight] [--compilation-cache=DIR] --config=RECIPE --workdir=DIR \
#       [main's other flags]
#
# Compiled programs are kept in DIR, else in $JAX_COMPILATION_CACHE_DIR, else in the workdir's
# compiled/; with --compilation-cache= nowhere. PYTHON names the interpreter. Ends with the program's
# exit code, or the preflight's if it fails.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
export PYTHONUNBUFFERED=1
preflight=yes workdir=''
for argument; do
  if [[ $argument == --workdir=* ]]; then workdir=${argument#*=}; fi
done
# JAX writes in process 0 alone and reads in all: the folder is one that all workers see.
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
# What XLA itself notes of GPUs, JAX would have it put there, too; not all buckets are files to XLA.
if [[ $cache == *://* ]]; then
  export JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=${JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES:-none}
fi
if [[ -n $preflight ]]; then
  "$python" launch/preflight.py "$@"
fi
exec "$python" -m basisnet_jax.main "$@"
