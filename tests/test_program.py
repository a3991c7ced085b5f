"""A program with these flags: what it prints, and how it exits."""

import os
import subprocess
import sys

from basisnet_jax import base_config


def run_program(*arguments, cwd):
  program = """
from absl import app, flags
from basisnet_jax import command_line
flags.DEFINE_string('workdir', None, 'Where the run is.')
app.run(lambda c: print(c.name, c.training.steps, c is flags.FLAGS.config),
        flags_parser=command_line.parse_flags)
"""
  root = os.path.dirname(os.path.dirname(base_config.__file__))
  return subprocess.run(
    [sys.executable, '-W', 'error', '-c', program, *arguments],
    cwd=cwd, env=os.environ | {'PYTHONPATH': root}, capture_output=True, text=True, timeout=60,
  )  # fmt: skip


def test_program_prints_one_sentence_and_exits_with_2(tmp_path):
  done = run_program('--config.trainig.steps=3', cwd=tmp_path)
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.count('\n') == 1 and '--config.training.steps' in done.stderr


def test_program_hands_the_config_to_main(tmp_path):
  done = run_program('--config.training.steps=3', cwd=tmp_path)
  assert (done.returncode, done.stdout, done.stderr) == (0, 'base 3 True\n', '')


def test_help_names_the_config_and_its_default(tmp_path):
  done = run_program('--help', cwd=tmp_path)
  assert '--config:' in done.stdout and 'base_config.py' in done.stdout
  assert '--workdir:' in done.stdout
