"""Runs all benchmarks, each in its own process, and then compares them with their bars.

python -m benchmarks [--only=network,layer] [--data_dir=DIR] [--seconds=10] [--output=DIR]
"""

import argparse
import json
import os
import subprocess
import sys

NAMES = (
  'network', 'layer', 'early_exit', 'two_devices', 'serve', 'memory', 'growth', 'roofline', 'input',
  'loop', 'startup', 'deploy',
)  # fmt: skip
_NEED_DATA = ('input', 'loop', 'startup')


def main() -> int:
  """Runs the benchmarks; returns how many failed."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks', description=__doc__.split('\n')[0])
  parser.add_argument('--only', default=','.join(NAMES), help='names, with commas between')
  parser.add_argument('--data_dir', help='where TFDS has prepared imagenet2012')
  parser.add_argument('--seconds', type=float, default=10.0, help='that each case is measured')
  parser.add_argument('--output', default='benchmarks/results', help='folder of the files')
  options = parser.parse_args()
  names = options.only.split(',')
  if unknown := [name for name in names if name not in NAMES]:
    parser.error(f'no benchmark {", ".join(unknown)}: there are {", ".join(NAMES)}')
  failed, left_out = [], []
  for number, name in enumerate(names, 1):
    flags = [f'--seconds={options.seconds}', f'--output={options.output}']
    if name in _NEED_DATA:
      if not options.data_dir:
        left_out.append(name)
        continue
      flags.append(f'--data_dir={options.data_dir}')
    print(f'{number} of {len(names)}: {name}', flush=True)
    try:
      done = subprocess.run([sys.executable, '-m', f'benchmarks.{name}', *flags])
    except KeyboardInterrupt:  # The benchmark has received it, too.
      return 1
    if done.returncode:
      failed.append(name)
    print()
  for name in names:
    if name not in failed + left_out:
      _tell(os.path.join(options.output, f'{name}.json'))
  if left_out:
    print(f'Left out, without --data_dir: {", ".join(left_out)}.')
  if failed:
    print(f'Failed: {", ".join(failed)}.')
  return len(failed)


def _tell(path):
  """Prints a line for each ratio that has a bar to meet."""
  with open(path) as file:
    rows = json.load(file)['rows']
  for row in rows:
    if row['bar']:
      met = 'as asked' if row['met'] else 'MISSED'
      print(
        f'{met:<9} {row["case"]}: {row["name"]} / {row["against"]} '
        f'{row["ratio"]["median"]:.2f}, {row["bar"]}'
      )


if __name__ == '__main__':
  sys.exit(main())
