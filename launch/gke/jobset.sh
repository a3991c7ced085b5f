#!/usr/bin/env bash
# Trains on a GKE cluster with JobSet, on TPU slices or GPU nodes:
#
#   launch/gke/jobset.sh start --name=NAME --image=IMAGE --config=RECIPE --workdir=gs://BUCKET/RUN \
#       --tpu=tpu-v6e-slice --topology=4x4 --chips-per-node=4 [--slices=1] [-- main's other flags]
#       --gpu=nvidia-h100-80gb --gpus-per-node=8 --nodes=2                 (instead, for GPUs)
#   launch/gke/jobset.sh status|logs|delete --name=NAME
#
# Options: --namespace=NAME, --service-account=NAME (which may read and write the bucket), --spot,
# --restarts=N (20), --no-preflight, --compilation-cache=DIR (default: compiled/ in the workdir;
# empty: none), --dry-run (start only prints the manifest, the others their commands).
set -euo pipefail

name='' namespace='' account='' image='' config='' workdir='' restarts=20 spot='' dry=''
tpu='' topology='' chips='' slices=1 gpu='' gpus='' nodes='' flags=() for_worker=()

refuse() {
  echo "$1" >&2
  exit 2
}

# Prints a command and, unless it is a dry run, runs it. A failure ends the script with its code.
call() {
  local code=0
  if [[ -n $dry ]]; then
    echo "$*"
    return
  fi
  echo "+ $*" >&2
  "$@" || code=$?
  if [[ $code != 0 ]]; then
    echo "To $command $name failed: $1 ended with code $code; what it said is above." >&2
    exit "$code"
  fi
}

# Quotes text for YAML and JSON, such that Kubernetes replaces no $(VARIABLE).
quote() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//\$(/\$\$(}"
}

whole_number() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || refuse "$1=$2 is not a number from 1."
}

check() {
  [[ -n $image ]] || refuse '--image is missing; launch/README.md tells how to build and push one.'
  [[ -n $config ]] || refuse '--config is missing; it names a recipe, such as --config=configs/mnv3.py.'
  [[ $workdir == *?://* ]] || refuse "--workdir=$workdir is not in a bucket, and the pods share no disk; give --workdir=gs://BUCKET/RUN."
  [[ $restarts =~ ^[0-9]+$ ]] || refuse "--restarts=$restarts is not a number."
  if [[ -n $tpu && -z $gpu ]]; then
    [[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || refuse "--topology=$topology is not like 4x4 or 2x2x2."
    whole_number --chips-per-node "$chips"
    whole_number --slices "$slices"
    local all=$((${topology//x/*}))
    ((all % chips == 0)) || refuse "--topology=$topology has $all chips, which are no whole number of nodes with --chips-per-node=$chips."
    nodes=$((all / chips))
  elif [[ -n $gpu && -z $tpu ]]; then
    whole_number --gpus-per-node "$gpus"
    whole_number --nodes "$nodes"
  else
    refuse 'Give either --tpu, --topology and --chips-per-node, or --gpu, --gpus-per-node and --nodes.'
  fi
}

manifest() {
  cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
END
  if ((slices > 1)); then
    cat <<END
  annotations:
    # Each slice is a node pool of its own.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
END
  fi
  cat <<END
spec:
  network:
    enableDNSHostnames: true
  failurePolicy:
    # All pods start again from the last checkpoint; but not when the program refuses its flags.
    maxRestarts: $restarts
    rules:
    - name: refused
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: workers
    replicas: $slices
    template:
      spec:
        completionMode: Indexed
        completions: $nodes
        parallelism: $nodes
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              containerName: train
              operator: In
              values: [2]
        template:
          spec:
            restartPolicy: Never
            # To save in; of this a Spot node gives the first 15 s, if its pool is not set otherwise.
            terminationGracePeriodSeconds: $([[ -n $spot ]] && echo 25 || echo 120)
END
  if [[ -n $account ]]; then echo "            serviceAccountName: $account"; fi
  echo '            nodeSelector:'
  if [[ -n $spot ]]; then echo '              cloud.google.com/gke-spot: "true"'; fi
  if [[ -n $tpu ]]; then tpu_pod; else gpu_pod; fi
}

container() {
  cat <<END
            containers:
            - name: train
              image: $(quote "$image")
              command: [/app/launch/worker.sh]
              args:
END
  local argument
  for argument in "${for_worker[@]}" --config="$config" --workdir="$workdir" "${flags[@]}"; do
    echo "              - $(quote "$argument")"
  done
  # Nodes may appear one after another, over as long as an hour.
  echo '              - "--processes_timeout=3600"'
}

# GKE tells the pods of a slice about each other.
tpu_pod() {
  cat <<END
              cloud.google.com/gke-tpu-accelerator: $tpu
              cloud.google.com/gke-tpu-topology: $topology
END
  container
  cat <<END
              # The devices of a TPU are root's.
              securityContext:
                runAsUser: 0
              resources:
                limits:
                  google.com/tpu: $chips
END
}

gpu_pod() {
  echo "              cloud.google.com/gke-accelerator: $gpu"
  container
  cat <<END
              # The first pod of the set is process 0.
              - "--coordinator_address=$name-workers-0-0.$name:8476"
              - "--num_processes=$nodes"
              - "--process_id=\$(JOB_COMPLETION_INDEX)"
              resources:
                limits:
                  nvidia.com/gpu: $gpus
              volumeMounts:
              - name: shared-memory
                mountPath: /dev/shm
            volumes:
            # NCCL's; by default it is 64 MB.
            - name: shared-memory
              emptyDir:
                medium: Memory
END
}

command=${1:-}
case $command in
  start | status | logs | delete) shift ;;
  *) refuse 'usage: launch/gke/jobset.sh start|status|logs|delete --name=NAME [options]; the head of the script explains them.' ;;
esac
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --namespace=*) namespace=${1#*=} ;;
    --service-account=*) account=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --config=*) config=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    --tpu=*) tpu=${1#*=} ;;
    --topology=*) topology=${1#*=} ;;
    --chips-per-node=*) chips=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --gpu=*) gpu=${1#*=} ;;
    --gpus-per-node=*) gpus=${1#*=} ;;
    --nodes=*) nodes=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
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
    *) refuse "$1 is not an option of launch/gke/jobset.sh; options are written --name=VALUE, and flags of the program follow after --." ;;
  esac
  shift
done
# With its suffixes, the name must still be a valid host name.
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || refuse "--name=$name is not a name of small letters, digits and hyphens, 40 at most."
[[ -z $namespace || $namespace =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]] || refuse "--namespace=$namespace is not a name of small letters, digits and hyphens."
[[ $account =~ ^[-a-z0-9.]*$ ]] || refuse "--service-account=$account is not a Kubernetes service account's name."
[[ "$tpu$gpu" =~ ^[-a-z0-9]*$ ]] || refuse "$tpu$gpu is not an accelerator's name, such as tpu-v6e-slice or nvidia-h100-80gb."
if [[ $command == start ]]; then check; fi
if [[ -z $dry ]] && ! command -v kubectl >/dev/null; then
  refuse 'kubectl is not installed here; kubernetes.io/docs/tasks/tools tells how, or use Cloud Shell.'
fi
kubectl=(kubectl ${namespace:+--namespace="$namespace"})
mine=--selector=jobset.sigs.k8s.io/jobset-name=$name

case $command in
  start)
    if [[ -n $dry ]]; then
      manifest
    else
      manifest | call "${kubectl[@]}" apply --filename=-
    fi
    ;;
  status)
    call "${kubectl[@]}" get jobset "$name"
    call "${kubectl[@]}" get pods "$mine"
    ;;
  # Process 0 reports for all.
  logs)
    call "${kubectl[@]}" logs --follow --tail=200 \
      "$mine,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    ;;
  delete) call "${kubectl[@]}" delete jobset "$name" ;;
esac
