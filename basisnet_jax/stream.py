"""`--mode=stream`: a video goes through both stages, on two devices if there are two."""

import collections
import functools
import sys
from typing import Any

import jax
import numpy as np

from basisnet_jax import predict
from basisnet_jax.counting import counted
from basisnet_jax.errors import UserError
from basisnet_jax.inference import clips, folder
from basisnet_jax.inference.prediction import prediction, stage
from basisnet_jax.inference.streaming import StreamingPredictor
from basisnet_jax.models import BasisNet, preprocessing
from basisnet_jax.training.progress import Progress


def stream_clip(
  workdir: str,
  video: str,
  output: str | None,
  *,
  checkpoint: str,
  top_k: int,
  weights: str = 'float32',
  reuse: float | None,
  realtime: bool,
  **budget: Any,
) -> None:
  """Writes the answer for each frame into a table, as `predict.predict_files` does.

  Args:
    workdir: of a run with two stages.
    video: as for `clips.open_clip`.
    output: .csv or .jsonl; None: stdout.
    checkpoint: 'latest' or 'best'.
    top_k: labels of each frame.
    weights: as for `predict.load`.
    reuse: see `StreamingPredictor`.
    realtime: frames come at the video's rate, and those for which there is no time are dropped.
    budget: of early termination, as for `Predictor.threshold_for`.

  Raises:
    UserError: there is no such run or video, or the run has one stage.
  """
  folder.check_output(output)
  clip = clips.open_clip(video)
  light, special = _devices()
  ready = predict.ready(workdir, checkpoint, special, weights=weights)
  if not isinstance(ready.model, BasisNet):
    raise UserError(f'{workdir} is of a network of one stage; --mode=stream is for two.')
  asked = ready.predictor()
  threshold = asked.threshold_for(**budget)
  predictor = StreamingPredictor(
    ready.model,
    ready.variables,
    lightweight_device=light,
    specialist_device=special,
    when_full='drop_oldest' if realtime else 'wait',
    reuse=reuse,
    threshold=threshold,
    rule=ready.chosen.rule,
    temperature=ready.chosen.temperatures.get('lightweight', 1),
  )
  names, unreadable = collections.deque(), []

  def frames():
    for name, image in clips.paced(clip) if realtime else clip.frames:
      if isinstance(image, UserError):
        unreadable.append((name, image))
        continue
      names.append(name)
      yield preprocessing.normalize(asked.prepare(image)[None])

  top_k = min(top_k, len(ready.labels))
  told = functools.partial(prediction, labels=ready.labels, cost=ready.cost, top_k=top_k)

  def answers():
    side = ready.preparation.resolution
    # Both stages compile before frames come, since NaN never exits.
    list(predictor([np.full((1, side, side, 3), np.nan, np.float32)]))
    passed = 0
    for answer in predictor(frames()):
      for _ in range(answer.number - passed):  # Names of dropped frames.
        names.popleft()
      passed = answer.number + 1
      temperature = ready.chosen.temperatures.get(stage(ready.cost, answer.exited), 1)
      # In NumPy: JAX would compile it while the first frames are waiting.
      logits = np.asarray(answer.final, np.float32)[0] / temperature
      exponents = np.exp(logits - logits.max())
      confidence = np.asarray(answer.confidence)[0]
      found = told(exponents / exponents.sum(), confidence, answer.exited)
      if answer.reused:
        madds = found.madds - ready.cost.synthesis_madds
        found = found._replace(stage=f'{found.stage}, reused', madds=madds)
      yield names.popleft(), found
    yield from unreadable

  progress = Progress(clip.count or 0, enabled=clip.count is not None, name='streaming')
  total = predict.write(answers(), output, top_k, progress)
  _tell(predictor.metrics, light, special)
  predict.tell(asked, total, threshold, output)


def _devices():
  """Two accelerators, a CPU beside one, or the same device twice."""
  devices = jax.local_devices()
  if len(devices) > 1:
    return devices[0], devices[1]
  try:
    return jax.local_devices(backend='cpu')[0], devices[0]
  except RuntimeError:  # JAX was told to start without a CPU backend.
    return devices[0], devices[0]


def _tell(metrics, light, special):
  print(
    f'{counted(metrics["frames"], "frame")} came; {metrics["dropped"]:,} dropped, '
    f'{metrics["reused"]:,} answered by the specialist of an earlier one.\n'
    f'Milliseconds of a frame: lightweight {metrics["lightweight_ms"]:.3g} on {light}, specialist '
    f'{metrics["specialist_ms"]:.3g} on {special}.',
    file=sys.stderr,
  )
