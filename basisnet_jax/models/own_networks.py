"""Networks that are not in the registry: they go by 'module:Class'."""

import importlib

from flax import linen as nn

from basisnet_jax.errors import UserError
from basisnet_jax.models import layers

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
      "'module:Class', and run in the folder of the module or add that to PYTHONPATH."
    ) from error
  if not (isinstance(found, type) and issubclass(found, nn.Module)):
    raise UserError(f'{name!r} is no Flax module; name a class that is one.')
  fields = found.__dataclass_fields__
  if missing := [key for key in _ATTRIBUTES if key not in fields]:
    raise UserError(
      f'The network {name!r} lacks {", ".join(missing)}; recipes set the attributes '
      f'{", ".join(_ATTRIBUTES)}, as in the README under "Add a network".'
    )
  if not isinstance(fields['style'].default, layers.Style):
    raise UserError(
      f'The network {name!r} has no default style; write style: layers.Style = layers.Style().'
    )
  return found
