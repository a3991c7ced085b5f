"""Builds what a recipe describes: network, images, schedule, optimizer, state."""

from collections.abc import Iterator
import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from basisnet_jax import models, sharding
from basisnet_jax.errors import UserError
from basisnet_jax.models import once_for_all, pretrained
from basisnet_jax.training import optimizers
from basisnet_jax.training import state as train_state
from basisnet_jax.training import weights as weights_lib

# Known without the data, so that costs can be counted without it.
_NUM_CLASSES = {'imagenet2012': 1000, 'cifar10': 10, 'cifar100': 100, 'digits': 10}


def num_classes(config: ml_collections.ConfigDict) -> int:
  """The recipe's number of classes, or else the dataset's."""
  if config.model.num_classes is not None:
    return config.model.num_classes
  if config.data.name in _NUM_CLASSES:
    return _NUM_CLASSES[config.data.name]
  return open_dataset(config).num_classes


def build_model(config: ml_collections.ConfigDict) -> nn.Module:
  """Builds the recipe's network.

  Raises:
    UserError: an option is impossible.
  """
  m, light = config.model, config.model.lightweight
  if m.name not in ('basisnet', 'cascade'):
    return _network(config, m.name, m)
  return models.create(
    m.name,
    lightweight=_network(config, light.name, light),
    specialist=_network(config, m.specialist, m),
    resolution=m.resolution,
    lightweight_resolution=light.resolution,
    num_bases=m.num_bases,
    based_layers=m.based_layers,
    refine=m.refine,
    activation=m.coefficients.activation,
    shared=m.coefficients.shared,
    temperature=m.coefficients.temperature,
    feature_gradient=m.coefficients.feature_gradient,
    basis_dropout=m.coefficients.basis_dropout,
  )


def _network(config, name, group) -> nn.Module:
  """Builds one network; `group` holds its stage's keys, all other keys apply to both stages."""
  m = config.model
  dtypes = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
  if m.dtype not in dtypes:
    raise UserError(f"config.model.dtype is {m.dtype!r}; it can be 'float32' or 'bfloat16'.")
  options = {'norm_epsilon': group.norm_epsilon, 'padding': group.padding}
  if name == 'once_for_all':
    options['settings'] = once_for_all.Settings(**m.once_for_all)
  if models.is_routed(name):
    options['num_bases'] = m.num_bases
    if group is m:  # The lightweight stage has no such keys.
      options |= {'based_layers': m.based_layers, 'temperature': m.coefficients.temperature}
  return models.create(
    name,
    num_classes=num_classes(config),
    width=group.width,
    dropout=group.dropout,
    stochastic_depth=group.stochastic_depth,
    output_stride=group.output_stride,
    norm_momentum=m.norm_momentum,
    pixel_mean=group.pixel_mean,
    pixel_std=group.pixel_std,
    dtype=dtypes[m.dtype],
    **{key: value for key, value in options.items() if value is not None},
  )


def _data():
  # Not at the top: it imports TensorFlow, which takes seconds and is not needed to count costs.
  from basisnet_jax import data

  return data


def open_dataset(config: ml_collections.ConfigDict):
  """Opens the recipe's dataset (`data.Dataset`)."""
  return _data().open_dataset(config.data.name, config.data.data_dir)


def check_classes(config: ml_collections.ConfigDict, dataset) -> None:
  """Raises a UserError if the recipe's number of classes is not the dataset's."""
  if num_classes(config) != dataset.num_classes:
    raise UserError(
      f'config.model.num_classes={num_classes(config)}, but {dataset.name} has '
      f"{dataset.num_classes} classes; leave the key out to take the dataset's."
    )


def num_images(dataset, split: str) -> int:
  """The number of images in a split of the dataset."""
  return _data().num_images(dataset, split)


def check_heldout(config: ml_collections.ConfigDict, dataset, heldout: str) -> None:
  """Raises a UserError if training or evaluation sees held-out images, or if these are under ten.

  `heldout` is the split on which a threshold is chosen; '' is none.
  """
  if not heldout:
    return
  if (images := num_images(dataset, heldout)) < 10:
    raise UserError(
      f'config.data.heldout_split={heldout!r} has {images} images, too few to choose a threshold '
      'on; hold out at least ten, better some thousands.'
    )
  for key in ('train_split', 'eval_split'):
    split = config.data[key]
    if common := _data().num_common_images(dataset, heldout, split):
      raise UserError(
        f'config.data.heldout_split={heldout!r} and config.data.{key}={split!r} share {common:,} '
        "images; hold out others, such as data.train_split='train[:95%]' with "
        "data.heldout_split='train[95%:]'."
      )


def num_seen(config: ml_collections.ConfigDict, dataset) -> int:
  """The number of evaluation images that training sees, too."""
  return _data().num_common_images(dataset, config.data.eval_split, config.data.train_split)


def train_batches(
  config: ml_collections.ConfigDict, dataset, mesh: jax.sharding.Mesh, start_step: int
) -> Iterator[dict[str, np.ndarray]]:
  """This host's training batches from `start_step` on, endlessly."""
  d = config.data
  _check_batch_size(config, mesh)
  total_steps = Schedule(config, num_images(dataset, d.train_split)).total_steps
  return _data().train_batches(
    dataset,
    resolution=train_resolution(config, total_steps),
    crop=d.crop,
    crop_min_area=d.crop_min_area,
    crop_padding=d.crop_padding,
    crop_resize=d.eval_resize,
    flip=d.flip,
    policy=_data().create_policy(
      d.augment, layers=d.randaugment_layers, magnitude=d.randaugment_magnitude
    ),
    cutout=d.cutout,
    random_erasing=d.random_erasing,
    start_step=start_step,
    broken_images=d.broken_images,
    **_order(config),
  )


def train_resolution(
  config: ml_collections.ConfigDict, total_steps: int
) -> int | tuple[tuple[int, int], ...]:
  """The training images' size in pixels, or pairs (batch number, size from that batch on)."""
  if not config.training.resolutions:
    return config.model.resolution
  return tuple((round(share * total_steps), size) for share, size in config.training.resolutions)


def _order(config):
  """Everything that determines the order of the training images."""
  return dict(
    split=config.data.train_split,
    batch_size=config.training.batch_size,
    shuffle_buffer=config.data.shuffle_buffer,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def _check_batch_size(config, mesh):
  batch_size, parts = config.training.batch_size, config.training.accumulation
  sharding.checked_batch_size(batch_size, mesh, 'config.training.batch_size')
  if parts < 1 or batch_size // mesh.size % parts:
    raise UserError(
      f'config.training.accumulation={parts} does not divide the {batch_size // mesh.size} images '
      f'that each of {mesh.size} devices has of config.training.batch_size={batch_size}.'
    )


def train_records(config: ml_collections.ConfigDict, dataset, batch: int) -> list[str]:
  """Where the images of this host's training batch number `batch` are stored; the first is 0."""
  return _data().train_records(dataset, batch, **_order(config))


def eval_batches(
  config: ml_collections.ConfigDict, dataset, mesh: jax.sharding.Mesh, split: str
) -> Iterator[dict[str, np.ndarray]]:
  """This host's evaluation batches of a split: every image once, padding masked out."""
  key = 'config.evaluation.batch_size'
  batch_size = sharding.checked_batch_size(config.evaluation.batch_size, mesh, key)
  return _data().eval_batches(
    dataset,
    split=split,
    batch_size=batch_size // jax.process_count(),
    resolution=config.model.resolution,
    eval_crop=config.data.eval_crop,
    eval_resize=config.data.eval_resize,
    broken_images=config.data.broken_images,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


class Schedule:
  """The recipe's epochs as steps.

  Attributes:
    steps_per_epoch: may be a fraction; batches straddle epochs.
    total_steps: steps in the whole training.
  """

  def __init__(self, config: ml_collections.ConfigDict, num_train: int):
    self.steps_per_epoch = num_train / config.training.batch_size
    self.total_steps = (
      self.steps(config.training.epochs) if config.training.steps is None else config.training.steps
    )

  def steps(self, epochs: float) -> int:
    """The number of steps in `epochs`, rounded up; at most what the step counter, int32, holds."""
    return math.ceil(min(epochs * self.steps_per_epoch, 2**31 - 1))


def learning_rate(config: ml_collections.ConfigDict, schedule: Schedule) -> optax.Schedule:
  """The learning rate by step."""
  o = config.optimizer
  return optimizers.create_schedule(
    o.schedule,
    learning_rate=o.learning_rate,
    total_steps=schedule.total_steps,
    warmup_steps=schedule.steps(o.warmup_epochs),
    decay_rate=o.decay_rate,
    decay_steps=schedule.steps(o.decay_epochs),
  )


def optimizer(
  config: ml_collections.ConfigDict, model: nn.Module, rate: optax.Schedule
) -> optax.GradientTransformation:
  """Creates the recipe's optimizer."""
  o, turn = config.optimizer, config.training.alternate_steps

  def create(rate):
    update = optimizers.create(
      o.name,
      rate,
      momentum=o.momentum,
      rmsprop_decay=o.rmsprop_decay,
      epsilon=o.epsilon,
      beta1=o.beta1,
      beta2=o.beta2,
      weight_decay=o.weight_decay,
      scale_bases=o.scale_bases,
    )
    return optax.chain(optax.clip_by_global_norm(o.clip_norm), update) if o.clip_norm else update

  if turn and not isinstance(model, models.BasisNet):
    raise UserError(
      f'config.training.alternate_steps={turn} is for two stages, and {config.model.name!r} has '
      'one; set it to 0.'
    )
  update = optimizers.alternating(create, rate, turn) if turn else create(rate)
  if not o.learning_rate_factors:
    return update
  params = jax.eval_shape(state_factory(config, model, optax.identity())).params
  return optax.chain(update, optimizers.scale_by_path(o.learning_rate_factors, params))


def state_factory(
  config: ml_collections.ConfigDict, model: nn.Module, update: optax.GradientTransformation
):
  """Returns a function without arguments that creates the state at step 0."""
  return functools.partial(
    train_state.create,
    model,
    update,
    config.seed,
    config.model.resolution,
    use_ema=config.ema_decay > 0,
    bases_correlation=config.init.bases_correlation,
  )


def abstract_state(
  config: ml_collections.ConfigDict, create_state, mesh: jax.sharding.Mesh
) -> train_state.TrainState:
  """Shapes, dtypes and shardings of the state that `create_state`, a `state_factory`, creates."""
  rules = sharding.rules_of(config.sharding.preset, config.sharding.rules, mesh=mesh)
  return sharding.abstract(jax.eval_shape(create_state), mesh, rules)


def read_weights(config: ml_collections.ConfigDict, model: nn.Module) -> weights_lib.Weights:
  """Reads the recipe's files of trained weights, if it names any.

  Raises:
    UserError: a file cannot be read or does not fit, or there is no stage for it.
  """
  i, two_stage = config.init, isinstance(model, models.BasisNet)
  if i.lightweight_weights and not two_stage:
    raise UserError(
      f'config.init.lightweight_weights is set, but {config.model.name!r} has one stage: use '
      'config.init.weights.'
    )

  def load(network, path):
    return pretrained.load(network, path, classifier=i.classifier) if path else None

  final = load(model.specialist if two_stage else model, i.weights)
  light = load(model.lightweight, i.lightweight_weights) if two_stage else None
  return weights_lib.Weights(final, light)


def with_trained_weights(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  state: train_state.TrainState,
  weights: weights_lib.Weights | None = None,
) -> train_state.TrainState:
  """Puts trained weights into a fresh state, on the same devices.

  Without `weights` it calls `read_weights`, and raises the same errors.
  """
  weights = weights or read_weights(config, model)
  options = {'perturbation': config.init.perturbation, 'seed': config.seed}
  return weights_lib.put(weights, model, state, **options)
