"""One mesh over all devices of all hosts: which device holds what.

The batch is split over all axes of the mesh. The state (parameters, their averages, the
optimizer's state) is replicated unless rules split it: `(regular expression of a path, axes)` in
order, of which the first that is found in a path applies.
"""

from collections.abc import Callable, Iterable, Iterator
import functools
import math
import re
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from basisnet_jax.errors import UserError

# Named sets of rules. A single axis name splits the largest dimension that the axis divides.
# Statistics are small, and split ones would be gathered in the middle of every normalisation.
PRESETS = {'replicated': (), 'fsdp': (('batch_stats/', ''), ('', 'fsdp'))}
# An array with fewer elements stays whole, unless the rule names the dimension.
SMALLEST_SPLIT = 4096


def create_mesh(axes: Iterable[tuple[str, int]] = (('data', -1),), devices=None) -> Mesh:
  """Makes a mesh over `devices` (default: all), with TPU slices along the first axis.

  Args:
    axes: (name, size) of each; one size may be -1, for what the others leave.
    devices: those of the mesh.

  Raises:
    UserError: the devices do not fill the mesh.
  """
  devices = jax.devices() if devices is None else devices
  names, sizes = [name for name, _ in axes], [size for _, size in axes]
  rest, remainder = divmod(len(devices), math.prod(size for size in sizes if size != -1) or 1)
  shape = tuple(rest if size == -1 else size for size in sizes)
  if sizes.count(-1) > 1 or remainder or math.prod(shape) != len(devices):
    raise UserError(
      f'config.sharding.mesh={tuple(axes)} does not fit {len(devices)} devices: the sizes must '
      'multiply to that, and one of them may be -1, for the rest.'
    )
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  # Auto: with the default, explicit axes, dropout and batched convolutions raise.
  types = (AxisType.Auto,) * len(shape)
  if slices == 1:
    return jax.make_mesh(shape, names, axis_types=types, devices=devices)
  if shape[0] % slices:
    raise UserError(
      f'config.sharding.mesh: the first axis has {shape[0]} devices, which {slices} slices cannot '
      f'share evenly; make it a multiple of {slices}.'
    )
  inside, between = (shape[0] // slices, *shape[1:]), (slices,) + (1,) * (len(shape) - 1)
  grid = mesh_utils.create_hybrid_device_mesh(inside, between, devices)
  return Mesh(grid, names, axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds all of it."""
  return NamedSharding(mesh, P())


def inside(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """`function`, to be jitted, traced so that kernels that XLA cannot split know the mesh."""

  @functools.wraps(function)
  def traced(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)

  return traced


def over_data(mesh: Mesh) -> NamedSharding:
  """The first axis of an array is split over all axes of the mesh."""
  return NamedSharding(mesh, P(mesh.axis_names))


def rules_of(preset: str, rules: Iterable = (), *, mesh: Mesh) -> tuple:
  """The recipe's rules, then those of its preset.

  Raises:
    UserError: there is no such preset, or a rule names an axis that the mesh does not have.
  """
  if preset not in PRESETS:
    raise UserError(f'config.sharding.preset={preset!r}: use {" or ".join(map(repr, PRESETS))}.')
  found = (*rules, *PRESETS[preset])
  for pattern, axes in found:
    for name in [axes] if isinstance(axes, str) else axes:
      if name and name not in mesh.axis_names:
        raise UserError(
          f'The sharding rule {(pattern, axes)} names the axis {name!r}; config.sharding.mesh has '
          f'{", ".join(map(repr, mesh.axis_names))}, so add (({name!r}, SIZE),) to it.'
        )
  return found


def of_tree(tree: Any, mesh: Mesh, rules: Iterable = ()) -> Any:
  """The sharding of each array of a tree, by the rules.

  A rule's axes are one name, for the largest dimension that this axis divides (if none, the array
  stays whole), or one name for each of the first dimensions, where '' means not split.

  Raises:
    UserError: a dimension that a rule names cannot be split evenly.
  """

  def spec(path, leaf):
    path = jax.tree_util.keystr(path, simple=True, separator='/')
    axes = next((axes for pattern, axes in rules if re.search(pattern, path)), '')
    if isinstance(axes, str):
      possible = [n for n in leaf.shape if axes and n % mesh.shape[axes] == 0]
      if not possible or math.prod(leaf.shape) < SMALLEST_SPLIT:
        return P()
      axes = ('',) * leaf.shape.index(max(possible)) + (axes,)
    for size, name in zip(leaf.shape, axes, strict=False):
      if name and size % mesh.shape[name]:
        raise UserError(
          f'A sharding rule splits {path} {leaf.shape} over {name!r}, which has '
          f'{mesh.shape[name]} devices and does not divide {size}; exclude it by a rule before.'
        )
    return P(*(name or None for name in axes[: len(leaf.shape)]))

  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: NamedSharding(mesh, spec(path, leaf)), tree
  )


def gather(mesh: Mesh):
  """Returns a function that replicates a tree on every device, inside of `jax.jit`.

  Without it XLA may move images to the shards of a kernel instead.
  """
  return functools.partial(jax.lax.with_sharding_constraint, shardings=replicated(mesh))


def bytes_per_device(tree: Any) -> int:
  """Bytes that one device holds of a tree of arrays, or of shapes with shardings."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


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
  """Puts each host's batches onto the mesh, one ahead, so that the copy overlaps with a step."""
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


def local_rows(array: jax.Array) -> np.ndarray:
  """This host's rows of an array that `over_data` splits, in their order."""
  if array.is_fully_addressable:
    return np.asarray(array)
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def abstract(tree: Any, mesh: Mesh, rules: Iterable = ()) -> Any:
  """Shapes and dtypes of `tree` with their shardings, as the target of a restore."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    tree,
    of_tree(tree, mesh, rules),
  )
