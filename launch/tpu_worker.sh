#!/usr/bin/env bash
# Runs on each VM of a TPU slice, where launch/tpu.sh calls it:
#
#   setup           installs Python and the libraries
#   start FLAGS...  starts launch/worker.sh in the background and returns at once
#   state           prints one word: running, lost (it left no exit code), or the exit code
#   stop            sends SIGTERM: the program saves and ends
#   logs            follows the program's output
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
log=$HOME/basisnet_jax.log ended=$HOME/basisnet_jax.code group=$HOME/basisnet_jax.pid
export PYTHON=${PYTHON:-$HOME/venv/bin/python}

# Prints one of Compute Engine's metadata attributes of this VM.
metadata() {
  curl --fail --silent --show-error --retry 5 --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

state() {
  if [[ -e $ended ]]; then
    cat "$ended"
  elif [[ -e $group ]] && kill -0 -- "-$(cat "$group")" 2>/dev/null; then
    echo running
  else
    echo lost
  fi
}

case ${1:-} in
  setup)
    # The image's own Python is too old.
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --clear --python 3.12 "$HOME/venv"
    python3 -m uv pip install --quiet --python "$PYTHON" "$here/.." 'jax[tpu]'
    ;;
  start)
    shift
    if [[ $(state) == running ]]; then
      echo "Already running here; launch/tpu.sh stop ends it." >&2
      exit 2
    fi
    rm -f "$ended"
    setsid nohup bash "$here/tpu_worker.sh" work "$@" >>"$log" 2>&1 </dev/null &
    echo $! >"$group"
    ;;
  work)
    shift
    trap : TERM # Only the program reacts; its exit code is still to be written here.
    code=0
    # JAX finds the workers by the same metadata, but does not name those that never appear. Its
    # format is name:id:address,... or address,...
    if endpoints=$(metadata worker-network-endpoints) && number=$(metadata agent-worker-number); then
      IFS=, read -ra workers <<<"$endpoints"
      "$here/worker.sh" "$@" --coordinator_address="${workers[0]##*:}:8476" \
        --num_processes="${#workers[@]}" --process_id="$number" || code=$?
    else
      code=1
    fi
    echo "$code" >"$ended.new"
    mv "$ended.new" "$ended"
    ;;
  state) state ;;
  stop) [[ $(state) != running ]] || kill -TERM -- "-$(cat "$group")" ;;
  logs) tail -n 200 -F "$log" ;;
  *)
    echo 'usage: tpu_worker.sh setup | start FLAGS | state | stop | logs' >&2
    exit 2
    ;;
esac
