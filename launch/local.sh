#!/usr/bin/env bash
# Runs several processes on this machine, with the same code path as on a pod:
#
#   launch/local.sh N --config=configs/digits.py [--workdir=DIR] [main's other flags]
#
# Variables (and defaults): DEVICES, CPU devices per process (1); PYTHON, the interpreter;
# JAX_PLATFORMS, the accelerator (cpu); JAX_COMPILATION_CACHE_DIR, a folder for compiled programs
# (none). Each line of output starts with the process's number. The script ends when all processes
# have ended, with the exit code of the first one in order that failed.
set -euo pipefail

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo 'usage: launch/local.sh N --config=RECIPE [flags]; N is how many processes to run.' >&2
  exit 2
fi
count=$1
shift
python=${PYTHON:-python}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} PYTHONUNBUFFERED=1
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-1}"

# Puts a process's number before its lines. Signals to all, such as Ctrl-C, must not end it before
# the last words of its process.
label() {
  trap '' INT TERM
  exec sed -u "s/^/[$1] /"
}

pids=()
for ((i = 0; i < count; i++)); do
  "$python" -m basisnet_jax.main --coordinator_address="127.0.0.1:$port" \
    --num_processes="$count" --process_id="$i" "$@" > >(label "$i") 2> >(label "$i" >&2) &
  pids+=($!)
done
# After SIGTERM the processes save and end on their own, as do those that lose another process.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM

code=0
for pid in "${pids[@]}"; do
  result=0
  # A signal interrupts `wait`; the process may still be saving.
  while wait "$pid" || result=$?; [[ $result -gt 128 ]] && kill -0 "$pid" 2>/dev/null; do result=0; done
  if [[ $code == 0 ]]; then code=$result; fi
done
exit "$code"
