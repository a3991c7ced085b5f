"""Networks that are not in the registry, by where they are: 'module:Class'."""

import importlib

from flax import linen as nn

from basisnet_jax.errors import UserError

_ATTRIBUTES = ('num_classes', 'width', 'dropout', 'output_stride', 'style')


def find(name: str) -> type[nn.Module]:
  """Imports the Flax module that 'module:Class' names, such as 'my_networks:SmallNet'.

  Raises:
    UserError: it cannot be imported, is no Flax module, or lacks an attribute that recipes set.
  """
  module, _, own = name.partition(':')
  try:
    found = getattr(importlib.import_module(module), own)
  except Exception as error:  # The user's file may raise anything.
    raise UserError(
      f'The network {name!r} cannot be imported ({type(error).__name__}: {error}); write it as '
      "'module:Class', where Python finds the module from the folder you are in."
    ) from error
  if not (isinstance(found, type) and issubclass(found, nn.Module)):
    raise UserError(f'{name!r} is no Flax module; name a class that is one.')
  if missing := [key for key in _ATTRIBUTES if key not in found.__dataclass_fields__]:
    raise UserError(
      f'The network {name!r} lacks {", ".join(missing)}; recipes set the attributes '
      f'{", ".join(_ATTRIBUTES)}, as in the README under "Add a network".'
    )
  return found
