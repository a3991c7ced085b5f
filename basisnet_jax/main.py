"""The program: `python -m basisnet_jax.main --config=configs/mnv3.py --mode=train ...`.

Modes:
  train     trains and evaluates; continues a run that was interrupted.
  evaluate  evaluates a workdir's checkpoint; needs nothing but --workdir.
  predict   answers for images, with a workdir's checkpoint: a table.
  stream    the same for the frames of a video, with both stages side by side.
  serve     answers over HTTP, with a workdir's checkpoint.
  export    writes a workdir's network as files that run without this package.
  cost      counts multiply-adds and parameters; needs neither data nor workdir.
  sweep     trains a grid of recipes and seeds, and collects a table.
"""

import gc
import os
import shlex
import signal
import sys

from absl import app, flags, logging

from basisnet_jax import command_line, environment, errors, interrupts, supervisor
from basisnet_jax.errors import Missing, Preempted, UserError

_MODES = ['train', 'evaluate', 'predict', 'stream', 'serve', 'export', 'cost', 'sweep']
_MODE = flags.DEFINE_enum('mode', 'train', _MODES, 'What to do.')
_WORKDIR = flags.DEFINE_string(
  'workdir', None, "The folder of the run; by default runs/ plus the recipe's name."
)
_NETWORKS = flags.DEFINE_list(
  'networks',
  None,
  "For --mode=cost: names of networks, or 'all', to compare in one table, with published figures.",
)
_OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'Where to write: the JSON of --mode=cost (default: cost.json in the workdir), the table of '
  '--mode=predict and stream, .csv or .jsonl (default: the terminal), the folder of --mode=export '
  '(default: export/ in the workdir).',
)
_IMAGES = flags.DEFINE_string(
  'images', None, "For --mode=predict: a folder, a pattern such as 'photos/*.jpg', or a file."
)
_FORMAT = flags.DEFINE_list(
  'format', ['stablehlo'], 'For --mode=export: stablehlo, tflite, onnx, triton.'
)
_WEIGHTS = flags.DEFINE_enum(
  'weights',
  'float32',
  ['float32', 'float16', 'int8'],
  'For --mode=predict, stream, serve and export: how bases (in tflite, all weights) are stored.',
)
_VIDEO = flags.DEFINE_string(
  'video', None, 'For --mode=stream: a video, an animated image, or a folder of images.'
)
_REUSE = flags.DEFINE_float(
  'reuse',
  None,
  'For --mode=stream: how far coefficients may be from those of an earlier frame for its '
  'specialist to be reused, such as 0.02; by default each frame has its own.',
)
_REALTIME = flags.DEFINE_bool(
  'realtime', False, 'For --mode=stream: run at the pace of the video, dropping late frames.'
)
_TOP_K = flags.DEFINE_integer(
  'top_k', 5, 'For --mode=predict, stream and serve: labels per image.', 1
)
_THRESHOLD = flags.DEFINE_float(
  'threshold',
  None,
  'For --mode=predict, stream, serve and export: confidence at which images exit, in place of the '
  'chosen one.',
)
_AVERAGE_MADDS = flags.DEFINE_float(
  'average_madds',
  None,
  'For --mode=predict, stream, serve and export: millions of multiply-adds that an image may cost '
  'on average.',
)
_MAX_LATENCY = flags.DEFINE_float(
  'max_latency',
  None,
  'For --mode=predict, stream, serve and export: milliseconds that an image may take on average, '
  'alone, on this machine.',
)
_BUDGET = _THRESHOLD, _AVERAGE_MADDS, _MAX_LATENCY
_HOST = flags.DEFINE_string(
  'host', '127.0.0.1', "For --mode=serve: the address to listen on; '0.0.0.0' means all."
)
_PORT = flags.DEFINE_integer('port', 8000, 'For --mode=serve: 0 picks a free one.', 0, 65535)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 32, 'For --mode=serve: the most images answered at once, a power of two.', 1, 4096
)
_BATCH_WAIT = flags.DEFINE_float(
  'batch_wait', 2.0, 'For --mode=serve: milliseconds that an image waits for others.', 0, 1e6
)
_MAX_BODY = flags.DEFINE_float(
  'max_body', 10.0, 'For --mode=serve: largest request body, millions of bytes.', 1e-6, 1e4
)
_MAX_PIXELS = flags.DEFINE_float(
  'max_pixels', 64.0, 'For --mode=serve: largest image, millions of pixels.', 1e-6, 64
)
_QUEUE = flags.DEFINE_integer(
  'queue', 256, 'For --mode=serve: the most requests accepted and not answered yet.', 1
)
_REQUEST_TIMEOUT = flags.DEFINE_float(
  'request_timeout',
  30.0,
  'For --mode=serve: seconds that a request may take, including its body.',
  1e-3,
  1e5,
)
_RAY = flags.DEFINE_string(
  'ray',
  None,
  "For --mode=predict: the address of a Ray cluster to run on, 'auto', or 'local' to start one.",
)
_SEEDS = flags.DEFINE_list('seeds', None, "For --mode=sweep: in place of the sweep's, as '3,4,5'.")
_COORDINATOR = flags.DEFINE_string(
  'coordinator_address',
  None,
  'HOST:PORT of process 0, where several processes meet; found by itself on TPU pods and Slurm.',
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many processes there are.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which of them this one is, from 0.')
_TIMEOUT = flags.DEFINE_float('processes_timeout', 300.0, 'Seconds to wait for all of them.')
_RESTARTS = flags.DEFINE_integer(
  'restarts', 0, 'How often to start again, from the last checkpoint, when the program fails.'
)
_LIMITS = _BATCH_SIZE, _BATCH_WAIT, _MAX_BODY, _MAX_PIXELS, _QUEUE, _REQUEST_TIMEOUT
# What each mode reads besides the common flags. (A sweep passes --seeds on to its trainings.)
_READS = {
  'predict': (_IMAGES, _OUTPUT, _TOP_K, _WEIGHTS, _RAY, *_BUDGET),
  'stream': (_VIDEO, _OUTPUT, _TOP_K, _WEIGHTS, _REUSE, _REALTIME, *_BUDGET),
  'serve': (_HOST, _PORT, _TOP_K, _WEIGHTS, *_LIMITS, *_BUDGET),
  'export': (_OUTPUT, _FORMAT, _WEIGHTS, *_BUDGET),
  'cost': (_OUTPUT, _NETWORKS),
}


def main(config) -> None:
  """Runs one mode with a resolved recipe."""
  if supervisor.is_needed(_RESTARTS.value):
    sys.exit(supervisor.supervise(_RESTARTS.value))
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax logs its every step.
  _check_flags(_MODE.value)
  workdir = _WORKDIR.value or os.path.join('runs', config.name)
  if _MODE.value in ('train', 'evaluate'):
    from basisnet_jax import distributed

    environment.dispatch_in_calling_thread()
    distributed.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _TIMEOUT.value
    )
  modes = {
    'train': _train,
    'evaluate': _evaluate,
    'predict': _predict,
    'stream': _stream,
    'serve': _serve,
    'export': _export,
    'cost': _cost,
    'sweep': _sweep,
  }
  launched = _MODE.value in ('train', 'evaluate', 'sweep')
  with errors.of_the_disk(workdir), errors.of_buckets(Missing if launched else UserError):
    modes[_MODE.value](config, workdir)


def _check_flags(mode):
  """Refuses flags of other modes, which would have no effect."""
  for name in dict.fromkeys(holder.name for holders in _READS.values() for holder in holders):
    readers = [reader for reader, holders in _READS.items() if name in _values(*holders)]
    if flags.FLAGS[name].present and mode not in readers:
      wanted = ', '.join(readers)
      raise UserError(f'--{name} is for --mode={wanted}, and this is --mode={mode}; leave it out.')


def _train(config, workdir):
  import jax

  from basisnet_jax.training import loop  # Imported here: other modes start without it.

  interrupts.watch()
  loop.train_and_evaluate(config, workdir, keep_step=True)
  if jax.process_index() == 0:
    print(
      f'\nNext: tensorboard --logdir={shlex.quote(workdir)}   (curves, histograms, the recipe)\n'
      f'      python -m basisnet_jax.main --mode=evaluate --workdir={shlex.quote(workdir)}'
    )


def _evaluate(config, workdir):
  from basisnet_jax.training import evaluator

  evaluator.evaluate_workdir(config, workdir)


def _predict(config, workdir):
  from basisnet_jax import predict

  if not _IMAGES.value:
    raise UserError('--mode=predict needs --images: a folder, a pattern, or a file.')
  checkpoint = config.evaluation.checkpoint
  predict.predict_files(workdir, checkpoint=checkpoint, **_values(*_READS['predict']))


def _values(*holders):
  return {holder.name: holder.value for holder in holders}


def _stream(config, workdir):
  from basisnet_jax import stream

  if not _VIDEO.value:
    raise UserError('--mode=stream needs --video: a video, or a folder of images.')
  checkpoint = config.evaluation.checkpoint
  stream.stream_clip(workdir, checkpoint=checkpoint, **_values(*_READS['stream']))


def _serve(config, workdir):
  from basisnet_jax import serve

  checkpoint = config.evaluation.checkpoint
  serve.serve_workdir(workdir, checkpoint=checkpoint, **_values(*_READS['serve']))


def _export(config, workdir):
  from basisnet_jax import export

  output = _OUTPUT.value or os.path.join(workdir, 'export')
  export.export_workdir(config, workdir, output, _FORMAT.value, _WEIGHTS.value, **_values(*_BUDGET))


def _cost(config, workdir):
  from basisnet_jax.evaluation import report
  from basisnet_jax.models import cost
  from basisnet_jax.training import experiment

  counted = cost.count(experiment.build_model(config), config.model.resolution)
  if _NETWORKS.value:
    _compare(config, workdir, counted)
    return
  print(cost.table(counted))
  paths = [_OUTPUT.value] if _OUTPUT.value else []
  if _WORKDIR.value or not paths:
    paths.append(os.path.join(workdir, 'cost.json'))
  for path in paths:
    try:
      report.write_json(path, counted.as_dict())
    except OSError as error:
      if path != _OUTPUT.value:
        raise  # `errors.of_the_disk` reports those of the workdir.
      reason = error.strerror or error
      raise UserError(f'{path} cannot be written ({reason}); name another by --output.') from error
  print(f'\nWritten: {", ".join(paths)}')


def _compare(config, workdir, counted):
  from basisnet_jax.evaluation import cost_report
  from basisnet_jax.training.progress import Progress

  if _OUTPUT.value:
    raise UserError('--output is of one network; with --networks choose the folder by --workdir.')
  m = config.model
  count = len(cost_report.sizes(_NETWORKS.value))
  with Progress(count, name='counting', first='starting...', unit='networks') as progress:
    table = [
      cost_report.row(f'{config.name} (this recipe)', m.width, m.resolution, counted),
      *cost_report.rows(_NETWORKS.value, progress.update),
    ]
  print(cost_report.markdown(table))
  print(f'\nWritten: {", ".join(cost_report.write(workdir, table))}')


def _sweep(config, workdir):
  from basisnet_jax import config as config_lib
  from basisnet_jax.sweep import records, results, runner
  from basisnet_jax.training import workdir_lock

  if '://' in workdir or _COORDINATOR.value:
    raise UserError('A sweep is of one machine: it needs a local --workdir and no other processes.')
  path, sweep, rows = command_line.parse_sweep(sys.argv, flags.FLAGS)
  if _SEEDS.value is not None:
    sweep = sweep.with_seeds(_SEEDS.value)
  runs = records.of(sweep, workdir)
  for run in runs:
    if records.is_finished(run):  # The training checks the others.
      rows[run.row].seed = run.seed
      config_lib.check_same_run(rows[run.row], str(run.folder), finished=True)

  def command(run):
    # If a flag is repeated, the last one counts.
    flags_of_run = ['--mode=train', f'--config={path}:{run.row}', f'--config.seed={run.seed}']
    return [sys.executable, *sys.orig_argv[1:], *flags_of_run, f'--workdir={run.folder}']

  def collect():
    with workdir_lock.exclusive(workdir, wait=True):  # Another sweep may share the workdir.
      return results.write(workdir, config.name, runs, sweep.compare)

  code = runner.run(runs, command, on_end=collect)
  print(collect())
  sys.exit(code)


def run() -> None:
  """The console entry point: the user's mistakes end in a sentence and exit code 2."""
  environment.start_again()
  gc.set_threshold(500_000)  # The libraries make a million objects, which all stay.
  try:
    app.run(main, flags_parser=command_line.parse_flags)
  except (UserError, Missing) as error:
    _end(2 if isinstance(error, UserError) else 3, str(error))
  except Preempted as error:
    from basisnet_jax import distributed

    distributed.leave()
    _end(128 + signal.SIGTERM, str(error))
  except KeyboardInterrupt:
    trains = flags.FLAGS.is_parsed() and _MODE.value in ('train', 'sweep')
    more = '; the same command continues from the last checkpoint, if any' if trains else ''
    _end(1, f'Interrupted{more}.')
  except Exception as error:
    # An error of another process arrives here as a JAX error, from the middle of a step.
    _end(3, f'This process fails, or lost another one: {error}'.split('\n')[0][:500], error)


def _end(code: int, sentence: str, error: Exception | None = None) -> None:
  """Exits at once, with a code.

  An orderly exit would wait for other processes, and for threads: Orbax's wait for ten minutes
  if a folder could not be made.
  """
  from basisnet_jax import distributed

  if error is not None and not distributed.is_shared():
    raise error
  print(sentence, file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


if __name__ == '__main__':
  run()
