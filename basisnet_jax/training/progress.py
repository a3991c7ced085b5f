"""One live line: progress, speed, time left and metrics.

On a terminal it is a bar that redraws itself; in a pipe or a log file, a plain line every ten
seconds.
"""

from collections import deque
from collections.abc import Iterator, Mapping
import contextlib
import sys
import time

import tqdm

_REDRAW_SECONDS = 0.1  # On a terminal.
_PLAIN_SECONDS = 10.0  # Elsewhere.
_SAMPLE_SECONDS = 0.5
_WINDOW_SECONDS = 30.0  # The speed is averaged over about this long.


class Progress:
  """Shows progress on stderr; a context manager.

  The clock starts at the first update, so compilation does not count. The speed is averaged over
  the last half minute, not over single updates: JAX returns from a step before it is done, so
  updates come in bursts.
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int = 0,
    batch_size: int = 1,
    enabled: bool = True,
    *,
    name: str = 'training',
    first: str = 'compiling...',
    unit: str = 'images',
  ):
    """Prepares the line; it appears on entering the context.

    Args:
      total_steps: where the count ends.
      start_step: where it starts, after a resume.
      batch_size: images in a step; 1 counts images, as evaluation does.
      enabled: False shows nothing; the speed is still measured.
      name: shown at the start of the line.
      first: shown until the first update.
      unit: what `batch_size` counts.
    """
    self._total = total_steps
    self._done = start_step
    self._batch_size = batch_size
    self._enabled = enabled
    self._name = name
    self._first = first
    self._unit = unit
    self._metrics: Mapping[str, float] = {}
    self._samples: deque[tuple[float, int]] = deque()  # (time, done).
    self._bar = None
    self._shown_at = -float('inf')
    self._shown_line = ''

  def __enter__(self) -> 'Progress':
    if self._enabled and sys.stderr.isatty():
      self._bar = tqdm.tqdm(
        total=self._total,
        initial=self._done,
        file=sys.stderr,
        dynamic_ncols=True,
        bar_format='{bar}',
        mininterval=0,
        leave=None,  # Leave the last state standing, unless within another bar.
      )
    self._show()
    return self

  def __exit__(self, *exception) -> None:
    self._show()
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  @property
  def images_per_second(self) -> float | None:
    """The recent speed, or None in the first half second."""
    seconds_per_step = self._seconds_per_step()
    return self._batch_size / seconds_per_step if seconds_per_step else None

  def update(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
    """Notes that `done` steps are finished.

    Args:
      done: the total count, not that since the last call.
      metrics: numbers to show from now on, already on the host. Those whose names end in `top1` or
        `top5` are fractions and are shown as percentages.
    """
    now = time.monotonic()
    self._done = done
    if metrics is not None:
      self._metrics = metrics
    # Only the first update of a burst counts: it came when the device had caught up.
    if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
      self._samples.append((now, done))
    while len(self._samples) > 2 and now - self._samples[1][0] > _WINDOW_SECONDS:
      self._samples.popleft()
    if now - self._shown_at >= (_REDRAW_SECONDS if self._bar is not None else _PLAIN_SECONDS):
      self._show()

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Stops the clock inside the context, for an evaluation or a checkpoint."""
    began = time.monotonic()
    try:
      yield
    finally:
      pause = time.monotonic() - began
      self._samples = deque((at + pause, done) for at, done in self._samples)

  def write(self, message: str) -> None:
    """Prints a message on stdout, above the bar if there is one."""
    if self._bar is not None:
      tqdm.tqdm.write(message, file=sys.stdout)
      sys.stdout.flush()
    elif self._enabled:
      print(message, flush=True)

  def _seconds_per_step(self):
    if len(self._samples) < 2:
      return None
    (began, first), (ended, last) = self._samples[0], self._samples[-1]
    return (ended - began) / (last - first) if last > first else None

  def _show(self):
    if not self._enabled:
      return
    self._shown_at = time.monotonic()
    share = f'{100 * self._done / max(self._total, 1):.0f}%'
    parts = [f'{self._done:,}/{self._total:,}']
    if self._samples:
      seconds_per_step = self._seconds_per_step()
      if seconds_per_step:
        parts.append(f'{_short(self._batch_size / seconds_per_step)} {self._unit}/s')
        if self._done < self._total:
          parts.append(f'{duration((self._total - self._done) * seconds_per_step)} left')
      parts += [_metric(name, value) for name, value in self._metrics.items()]
    elif self._done < self._total:
      parts.append(self._first)
    text = '  '.join(parts)
    if self._bar is not None:
      escaped = f'{self._name} {share:>4} '.replace('{', '{{').replace('}', '}}')
      self._bar.bar_format = escaped + '|{bar}| ' + text.replace('{', '{{').replace('}', '}}')
      self._bar.n = self._done
      self._bar.refresh()
      return
    line = f'{self._name} {share:>4}  {text}'
    if line != self._shown_line:
      print(line, file=sys.stderr, flush=True)
      self._shown_line = line


def _metric(name, value):
  return f'{name} {100 * value:.1f}%' if name.endswith(('top1', 'top5')) else f'{name} {value:.4g}'


def _short(number):
  return f'{number:,.0f}' if number >= 100 else f'{number:.3g}'


def duration(seconds: float) -> str:
  """Formats a duration like a clock: 0:05, 1:02:03, 2 d 3:04:05."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  days, hours = divmod(hours, 24)
  clock = f'{hours}:{minutes:02}:{seconds:02}' if hours or days else f'{minutes}:{seconds:02}'
  return f'{days} d {clock}' if days else clock
