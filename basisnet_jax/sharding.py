"""One mesh over all devices of all hosts: the batch is split over `data`."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from basisnet_jax.errors import UserError


def create_mesh(devices=None) -> Mesh:
  """A mesh with the axis `data` over `devices` (default: all)."""
  devices = jax.devices() if devices is None else devices
  # Auto: with the default, explicit axes, dropout and batched convolutions raise.
  return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds all of it."""
  return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
  """The first axis is split over `data`."""
  return NamedSharding(mesh, P('data'))


def checked_batch_size(batch_size: int, mesh: Mesh, key: str) -> int:
  """Returns a global batch size that the devices can share evenly.

  Raises:
    UserError: they cannot; `key` is the config key to name.
  """
  if batch_size % mesh.size:
    near = max(1, round(batch_size / mesh.size)) * mesh.size
    raise UserError(
      f'{key}={batch_size} cannot be split over {mesh.size} devices; the nearest that can is '
      f'{near}.'
    )
  return batch_size


def to_device(batches: Iterable[dict[str, np.ndarray]], mesh: Mesh) -> Iterator[dict[str, Any]]:
  """Puts each host's batches onto the mesh, one ahead, so that the copy hides behind a step."""
  sharding = over_data(mesh)

  def put(batch):
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}

  ahead = None
  for batch in batches:
    current, ahead = ahead, put(batch)
    if current is not None:
      yield current
  if ahead is not None:
    yield ahead


def abstract(tree: Any, mesh: Mesh) -> Any:
  """Shapes and dtypes of `tree`, each replicated over the mesh: where to restore to."""
  sharding = replicated(mesh)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
