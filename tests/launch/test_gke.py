"""launch/gke/jobset.sh: its manifests by Kubernetes' schemas and JobSet's, its calls of kubectl."""

import pathlib
import re

import forks
import jsonschema
import kubernetes_validate
import pytest
import test_processes
import yaml

ROOT = pathlib.Path(__file__).parents[2]

PROGRAM = ['--config=configs/mnv3.py', '--workdir=gs://bucket/lion']
START = ['start', '--name=lion', '--image=region-docker.pkg.dev/zoo/images/basisnet:1', *PROGRAM]
TPU = [*START, '--tpu=tpu-v6e-slice', '--topology=4x4', '--chips-per-node=4']
GPU = [*START, '--gpu=nvidia-h100-80gb', '--gpus-per-node=8', '--nodes=2']
ODD = ["--config.sharding.mesh=(('data', -1), ('fsdp', 8))", r'--odd="\ $(JOB_COMPLETION_INDEX): #']

# Of the fields of JobSet v1alpha2 (its API reference) those that a training may need; the Job in it
# is validated apart.
WORD = {'type': 'string', 'pattern': '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'}


def fields(required=(), **properties):
  return {
    'type': 'object',
    'properties': properties,
    'required': list(required),
    'additionalProperties': False,
  }


RULE = fields(
  ['name', 'action'],
  name={'type': 'string', 'pattern': '^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$'},
  action={'enum': ['FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts']},
  onJobFailureReasons={
    'type': 'array',
    'items': {
      'enum': [
        *('BackoffLimitExceeded', 'DeadlineExceeded', 'FailedIndexes'),
        *('MaxFailedIndexesExceeded', 'PodFailurePolicy'),
      ]
    },
  },
  targetReplicatedJobs={'type': 'array', 'items': WORD},
)
JOBSET = fields(
  ['apiVersion', 'kind', 'metadata', 'spec'],
  apiVersion={'const': 'jobset.x-k8s.io/v1alpha2'},
  kind={'const': 'JobSet'},
  metadata=fields(['name'], name=WORD, annotations={'type': 'object'}),
  spec=fields(
    ['replicatedJobs'],
    network=fields(
      enableDNSHostnames={'type': 'boolean'},
      subdomain=WORD,
      publishNotReadyAddresses={'type': 'boolean'},
    ),
    failurePolicy=fields(
      maxRestarts={'type': 'integer', 'minimum': 0}, rules={'type': 'array', 'items': RULE}
    ),
    replicatedJobs={
      'type': 'array',
      'items': fields(
        ['name', 'template'],
        name=WORD,
        replicas={'type': 'integer', 'minimum': 1},
        template=fields(['spec'], spec={'type': 'object'}),
      ),
    },
  ),
)


def jobset(cloud, *arguments, **options):
  return cloud.run('launch/gke/jobset.sh', *arguments, **options)


def rendered(cloud, *arguments):
  """The manifest of a dry run, found valid; its workers' Job and the container in it."""
  ended = jobset(cloud, arguments[0], '--dry-run', *arguments[1:])
  assert ended.returncode == 0, ended.stderr
  assert cloud.calls() == []
  manifest = yaml.safe_load(ended.stdout)
  jsonschema.validate(manifest, JOBSET)
  (workers,) = manifest['spec']['replicatedJobs']
  job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'a'}, **workers['template']}
  kubernetes_validate.validate(job, '1.31', strict=True)
  pod = workers['template']['spec']['template']['spec']
  (container,) = pod['containers']
  return manifest, workers, pod, container


def arguments_of(container, index):
  """The words that the program gets: the kubelet replaces $(VARIABLE), and $$( is $(."""
  replaced = {'$$(': '$(', '$(JOB_COMPLETION_INDEX)': str(index)}
  return [
    re.sub(r'\$\$\(|\$\(JOB_COMPLETION_INDEX\)', lambda found: replaced[found[0]], argument)
    for argument in container['args']
  ]


def test_tpu_slice_has_a_pod_for_each_of_its_nodes(cloud):
  manifest, workers, pod, container = rendered(cloud, *TPU, '--spot')
  assert workers['replicas'] == 1 and 'annotations' not in manifest['metadata']
  assert workers['template']['spec']['completions'] == 4
  assert workers['template']['spec']['parallelism'] == 4
  assert container['resources']['limits'] == {'google.com/tpu': 4}
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v6e-slice',
    'cloud.google.com/gke-tpu-topology': '4x4',
    'cloud.google.com/gke-spot': 'true',
  }
  # The pods learn of each other by what GKE sets.
  assert arguments_of(container, 0) == [*PROGRAM, '--processes_timeout=3600']


def test_several_slices_are_a_job_for_each_in_a_pool_of_its_own(cloud):
  manifest, workers, _, _ = rendered(cloud, *TPU, '--topology=2x2x4', '--slices=3')
  assert workers['replicas'] == 3 and workers['template']['spec']['completions'] == 4
  assert list(manifest['metadata']['annotations'].values()) == ['cloud.google.com/gke-nodepool']


def test_gpu_pods_are_told_of_each_other_and_flags_arrive_unchanged(cloud):
  _, workers, pod, container = rendered(
    *(cloud, *GPU, '--compilation-cache=', '--no-preflight', '--service-account=trainer'),
    *('--', *ODD),
  )
  assert arguments_of(container, 1) == [
    *('--compilation-cache=', '--no-preflight', *PROGRAM, *ODD, '--processes_timeout=3600'),
    *('--coordinator_address=lion-workers-0-0.lion:8476', '--num_processes=2', '--process_id=1'),
  ]
  assert workers['template']['spec']['completions'] == 2
  assert container['resources']['limits'] == {'nvidia.com/gpu': 8}
  assert pod['serviceAccountName'] == 'trainer'


@pytest.mark.parametrize('kind', [TPU, GPU], ids=['tpu', 'gpu'])
def test_all_restart_when_one_fails_but_not_when_the_program_refuses(cloud, kind):
  manifest, workers, pod, container = rendered(cloud, *kind, '--restarts=7')
  policy = manifest['spec']['failurePolicy']
  job = workers['template']['spec']
  assert (
    policy['maxRestarts'] == 7 and job['backoffLimit'] == 0 and job['completionMode'] == 'Indexed'
  )
  assert pod['restartPolicy'] == 'Never' and pod['terminationGracePeriodSeconds'] >= 25
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob' and rule['onExitCodes']['values'] == [2]
  assert rule['onExitCodes']['containerName'] == container['name']
  (refused,) = policy['rules']
  assert (refused['action'], refused['onJobFailureReasons']) == ('FailJobSet', ['PodFailurePolicy'])


def test_rendered_command_starts_processes_that_meet(cloud, tmp_path):
  _, _, _, container = rendered(
    *(cloud, *GPU, '--config=tests/tiny.py', f'--workdir=file://{tmp_path}', '--no-preflight'),
    *('--', '--mode=evaluate'),
  )
  address, port = 'lion-workers-0-0.lion:8476', forks.free_port()
  processes = {}
  for index in (0, 1):
    arguments = [
      argument.replace(address, f'127.0.0.1:{port}').replace('file://', '')
      for argument in arguments_of(container, index)
    ]
    script = str(ROOT / container['command'][0].removeprefix('/app/'))
    processes[index] = cloud.start(
      script, *arguments, cwd=tmp_path, KUBERNETES_SERVICE_HOST='10.0.0.1'
    )
  ended = test_processes.outcome(processes)
  # They met, or it would have taken an hour; the first to refuse ends the other.
  assert {code for code, _ in ended.values()} <= {2, 3} and 2 in [
    code for code, _ in ended.values()
  ]
  assert any('There is no checkpoint in' in text for _, text in ended.values()), ended


def test_start_applies_what_the_dry_run_prints(cloud):
  dry = jobset(cloud, *GPU, '--dry-run', '--', *ODD)
  ended = jobset(cloud, *GPU, '--namespace=zoo', '--', *ODD)
  assert ended.returncode == 0, ended.stderr
  assert cloud.calls() == [['kubectl', '--namespace=zoo', 'apply', '--filename=-']]
  assert (cloud.folder / 'stdin').read_text() == dry.stdout


def test_status_logs_and_delete_call_kubectl(cloud):
  mine = '--selector=jobset.sigs.k8s.io/jobset-name=lion'
  first = 'jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0'
  wanted = {
    'status': [['get', 'jobset', 'lion'], ['get', 'pods', mine]],
    'logs': [['logs', '--follow', '--tail=200', f'{mine},{first}']],
    'delete': [['delete', 'jobset', 'lion']],
  }
  for command, calls in wanted.items():
    before = len(cloud.calls())
    dry = jobset(cloud, command, '--name=lion', '--dry-run')
    assert len(cloud.calls()) == before
    assert jobset(cloud, command, '--name=lion').returncode == 0
    assert cloud.calls()[before:] == [['kubectl', *call] for call in calls]
    assert dry.stdout.splitlines() == [' '.join(call) for call in cloud.calls()[before:]]


@pytest.mark.parametrize('arguments', [GPU, ['delete', '--name=lion']], ids=['start', 'delete'])
def test_failing_kubectl_ends_it_with_its_code_and_a_sentence(cloud, arguments):
  cloud.answer({'kubectl': [[4, 'no matches for kind "JobSet"']]})
  ended = jobset(cloud, *arguments)
  assert ended.returncode == 4
  assert f'To {arguments[0]} lion failed: kubectl ended with code 4;' in ended.stderr


@pytest.mark.parametrize(
  ('wrong', 'sentence'),
  [
    ([*GPU, '--name=a_b'], '--name=a_b is not a name of small letters'),
    ([*GPU, '--image='], '--image is missing; launch/README.md tells'),
    ([*GPU, '--config='], '--config is missing; it names a recipe'),
    ([*GPU, '--workdir=runs/lion'], '--workdir=runs/lion is not in a bucket'),
    ([*GPU, '--nodes=0'], '--nodes=0 is not a number from 1'),
    ([*TPU, '--topology=16'], '--topology=16 is not like 4x4 or 2x2x2'),
    ([*TPU, '--chips-per-node=3'], '--topology=4x4 has 16 chips, which are no whole number of'),
    ([*TPU, '--gpu=nvidia-l4'], 'Give either --tpu, --topology and --chips-per-node, or --gpu'),
    ([*START], 'Give either --tpu, --topology and --chips-per-node, or --gpu'),
    ([*GPU, '--', '--dry-run'], '--dry-run is no flag of the program; give it before --.'),
    ([*GPU, '--spot=yes'], '--spot=yes is not an option of launch/gke/jobset.sh'),
    (['apply'], 'usage: launch/gke/jobset.sh start|status|logs|delete'),
  ],
  ids=lambda value: value[-1] if isinstance(value, list) else '',
)
def test_wrong_options_are_one_clear_sentence(cloud, wrong, sentence):
  ended = jobset(cloud, *wrong)
  assert (ended.returncode, ended.stdout, cloud.calls()) == (2, '', [])
  assert ended.stderr.startswith(sentence) and ended.stderr.count('\n') == 1
