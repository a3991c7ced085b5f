"""What tests look at of a compiled program."""

import re


def collectives(text):
  """The kinds of communication in it."""
  kinds = 'all-gather|all-reduce|all-to-all|reduce-scatter|collective-[a-z]+|ragged-all-to-all'
  return set(re.findall(rf'({kinds})(?:-start|-done)?\(', text))
