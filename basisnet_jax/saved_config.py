"""The recipe that an earlier run was trained with.

`--config=basisnet_jax/saved_config.py:<workdir>`; `--workdir=<workdir>` without any
`--config` does the same.
"""

import ml_collections

from basisnet_jax import config


def get_config(workdir: str) -> ml_collections.ConfigDict:
  """Returns the locked config in `workdir`; see `config.load` for the errors."""
  return config.load(workdir)
