#!/usr/bin/env bash
# Trains on a Cloud TPU slice, requested as a queued resource:
#
#   launch/tpu.sh up     --name=NAME --zone=ZONE --accelerator-type=v6e-16 [--spot] \
#                        --config=RECIPE --workdir=gs://BUCKET/RUN [-- main's other flags]
#   launch/tpu.sh watch  the same flags
#
# Commands, in the order in which they are needed:
#   create  requests the slice
#   wait    waits until the slice is ready
#   setup   installs code and libraries on all workers
#   run     starts the program on all workers, in the background
#   up      create, wait, setup, run
#   status  shows the state of the slice, and of the workers: running, lost, or an exit code
#   logs    follows a worker's output (--worker=0, a number or all)
#   watch   resumes after preemptions and restarts after failures, until the program has succeeded
#   resume  delete, create, wait, setup (with the same code), run: continues from the checkpoint
#   stop    makes the program save and end; the slice stays
#   delete  gives the slice back
#
# Options: --project=ID (default: gcloud's), --runtime-version=VERSION (default: by accelerator
# type), --spot, --no-preflight, --compilation-cache=DIR (default: compiled/ in the workdir; empty:
# none), --poll=SECONDS (60), --failures=N, the number that `watch` tolerates (5), --dry-run, which
# only prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."

name='' zone='' project='' accelerator='' runtime='' config='' workdir='' worker=0
spot='' dry='' poll=60 failures_allowed=5 flags=() for_worker=()

refuse() {
  echo "$1" >&2
  exit 2
}

say() {
  printf '%(%H:%M:%S)T %s\n' -1 "$1" >&2
}

# Prints the words for a shell, quoted where necessary.
words() {
  local word line=''
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line:1}"
}

# Prints a command and, unless it is a dry run, runs it. A failure ends the script with its code.
call() {
  local what=$1 code=0
  shift
  if [[ -n $dry ]]; then
    words "$@"
    return
  fi
  echo "+ $(words "$@")" >&2
  "$@" || code=$?
  if [[ $code != 0 ]]; then
    echo "$what failed: $1 ended with code $code; what it said is above." >&2
    exit "$code"
  fi
}

queue() {
  local verb=$1
  shift
  call "To $verb $name" gcloud compute tpus queued-resources "$verb" "$name" "${where[@]}" "$@"
}

# Runs tpu_worker.sh on all workers, or on one.
on() {
  local which=$1
  shift
  call "To $1 on worker $which of $name" gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" \
    --worker="$which" --command="bash basisnet_jax/launch/tpu_worker.sh $(words "$@")"
}

state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)'
}

check_slice() {
  [[ -n $accelerator ]] || refuse '--accelerator-type is missing; give, for example, --accelerator-type=v6e-16.'
  case $accelerator in
    v6e-*) : "${runtime:=v2-alpha-tpuv6e}" ;;
    v5p-*) : "${runtime:=v2-alpha-tpuv5}" ;;
    v5litepod-*) : "${runtime:=v2-alpha-tpuv5-lite}" ;;
    v[234]-*) : "${runtime:=tpu-ubuntu2204-base}" ;;
  esac
  [[ -n $runtime ]] || refuse "No runtime version is known for --accelerator-type=$accelerator; give one by --runtime-version."
}

check_program() {
  [[ -n $config ]] || refuse '--config is missing; it names a recipe, such as --config=configs/mnv3.py.'
  [[ $workdir == gs://* ]] || refuse "--workdir=$workdir is not in a bucket, and the workers share no disk; give --workdir=gs://BUCKET/RUN."
}

create() {
  queue create --node-id="$name" --accelerator-type="$accelerator" --runtime-version="$runtime" \
    ${spot:+--spot} --async
}

# gcloud may fail occasionally, like the network, but not every time.
count_unknown() {
  if [[ -n $now ]]; then
    unknown=0
  elif ((++unknown >= 10)); then
    echo "gcloud did not tell the state of $name $unknown times in a row; what it said is above." >&2
    exit 1
  fi
}

# Returns 0 when the slice is ready, 1 if it never will be.
wait_active() {
  if [[ -n $dry ]]; then
    queue describe '--format=value(state.state)'
    return
  fi
  local now before='' unknown=0
  while true; do
    now=$(state) || now=''
    count_unknown
    [[ $now == "$before" ]] || say "$name: ${now:-state unknown}"
    before=$now
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED) return 1 ;;
    esac
    sleep "$poll"
  done
}

wait_or_end() {
  if ! wait_active; then
    echo "$name will not come by itself; 'gcloud compute tpus queued-resources describe $name ${where[*]}' tells why, and 'launch/tpu.sh resume' requests it anew." >&2
    exit 1
  fi
}

# Packs the code once and keeps it, so that a resumed run uses the same code.
pack() {
  local tree=HEAD
  # Tracked files, with uncommitted changes.
  git diff --quiet HEAD || tree=$(git stash create) || refuse 'git cannot pack the changed files; commit them.'
  [[ -n $dry ]] || mkdir -p runs/tpu
  call 'Packing the code' git archive --format=tar.gz --output="$archive" "$tree"
}

setup() {
  call "Copying the code to $name" gcloud compute tpus tpu-vm scp "$archive" \
    "$name:basisnet_jax.tar.gz" "${where[@]}" --worker=all
  call "Unpacking on $name" gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
    --command='rm -rf basisnet_jax && mkdir basisnet_jax && tar -xzf basisnet_jax.tar.gz -C basisnet_jax'
  on all setup
}

run() {
  on all start "${for_worker[@]}" --config="$config" --workdir="$workdir" "${flags[@]}"
}

resume() {
  queue delete --force
  while create && ! wait_active; do
    say "$name did not come; requesting it again."
    sleep "$poll"
    queue delete --force
  done
  [[ -z $dry && -e $archive ]] || pack
  setup
  run
}

# Prints a line for each worker: running, lost or its exit code.
worker_states() {
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
    --command='bash basisnet_jax/launch/tpu_worker.sh state' | grep -xE 'running|lost|[0-9]+'
}

watch() {
  if [[ -n $dry ]]; then
    queue describe '--format=value(state.state)'
    on all state
    echo '# If the slice was taken away:'
    resume
    return
  fi
  local now states unknown=0 silent=0 failures=0
  while true; do
    now=$(state) || now=''
    count_unknown
    case $now in
      SUSPENDED | FAILED)
        say "$name is $now: it was taken away; requesting it again."
        (resume) || say 'That failed; looking again.'
        ;;
      ACTIVE)
        states=$(worker_states | sort -u | xargs) || states=''
        case $states in
          '') # Perhaps it is being preempted; later checks will show.
            if ((++silent >= 10)); then
              silent=0
              again 'gave no answer'
            fi
            ;;
          *running*) ;;
          0)
            say "The program has ended well. 'launch/tpu.sh delete' gives $name back."
            return 0
            ;;
          2 | '2 3') refuse "The program refuses what it was given (exit code 2); 'launch/tpu.sh logs' tells why." ;;
          *) again "ended with $states" ;;
        esac
        ;;
    esac
    sleep "$poll"
  done
}

# Restarts a program that did not succeed, a limited number of times; ends on request do not count.
again() {
  if [[ $1 != 'ended with 143' ]] && ((++failures > failures_allowed)); then
    echo "The program failed $failures times, and last $1; 'launch/tpu.sh logs' tells why." >&2
    exit 3
  fi
  say "The workers' program $1; starting it again from the last checkpoint."
  (
    setup
    run
  ) || say 'That failed; looking again.'
}

command=${1:-}
case $command in
  create | wait | setup | run | up | status | logs | watch | resume | stop | delete) shift ;;
  *) refuse 'usage: launch/tpu.sh create|wait|setup|run|up|status|logs|watch|resume|stop|delete --name=NAME --zone=ZONE [options]; the head of the script explains them.' ;;
esac
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --accelerator-type=*) accelerator=${1#*=} ;;
    --runtime-version=*) runtime=${1#*=} ;;
    --config=*) config=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    --worker=*) worker=${1#*=} ;;
    --poll=*) poll=${1#*=} ;;
    --failures=*) failures_allowed=${1#*=} ;;
    --spot) spot=yes ;;
    --no-preflight | --compilation-cache=*) for_worker+=("$1") ;;
    --dry-run) dry=yes ;;
    --config.*=*) flags+=("$1") ;;
    --)
      shift
      [[ " $* " != *' --dry-run '* ]] || refuse '--dry-run is no flag of the program; give it before --.'
      flags+=("$@")
      break
      ;;
    *) refuse "$1 is not an option of launch/tpu.sh; options are written --name=VALUE, and flags of the program follow after --." ;;
  esac
  shift
done
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || refuse "--name=$name is not a name of small letters, digits and hyphens."
[[ -n $zone ]] || refuse '--zone is missing; give, for example, --zone=us-east5-b.'
[[ $worker =~ ^([0-9]+|all)$ ]] || refuse "--worker=$worker is neither a number nor 'all'."
[[ $poll =~ ^[0-9]+([.][0-9]+)?$ ]] || refuse "--poll=$poll is not a number of seconds."
[[ $failures_allowed =~ ^[0-9]+$ ]] || refuse "--failures=$failures_allowed is not a number."
where=(--zone="$zone" ${project:+--project="$project"} --quiet)
archive=runs/tpu/$name.tar.gz
if [[ -z $dry ]] && ! command -v gcloud >/dev/null; then
  refuse 'gcloud is not installed here; cloud.google.com/sdk/docs/install tells how, or use Cloud Shell.'
fi

case $command in
  create | up | watch | resume) check_slice ;;
esac
case $command in
  run | up | watch | resume) check_program ;;
esac
case $command in
  create | run | watch | resume) "$command" ;;
  wait) wait_or_end ;;
  setup)
    pack
    setup
    ;;
  up)
    create
    wait_or_end
    pack
    setup
    run
    [[ -n $dry ]] || say "Started. Next: 'launch/tpu.sh watch' with the same flags, or 'launch/tpu.sh logs'."
    ;;
  status)
    queue describe '--format=value(state.state)'
    on all state
    ;;
  logs) on "$worker" logs ;;
  stop) on all stop ;;
  delete) queue delete --force ;;
esac
