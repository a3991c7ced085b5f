"""One training step: against numpy and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from steps import BATCH, averaged, new_step, optimizer, values
import tiny

from basisnet_jax.evaluation import metrics
from basisnet_jax.models import routed, synthesis
from basisnet_jax.models.coefficients import Annealed
from basisnet_jax.training import distillation, mixing
from basisnet_jax.training import state as train_state
from basisnet_jax.training.objective import make_objective


def test_every_part_of_the_state_moves(trajectories):
  first, last = (tiny.leaves(trajectories[1]['states'][i]) for i in (0, 3))
  still = [path for path in first if np.array_equal(first[path], last[path])]
  assert not still


def cross_entropy(logits, labels, smoothing=0.0):
  """By the definition, in float64."""
  logits = np.asarray(logits, np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  targets = np.full(logits.shape, smoothing / logits.shape[-1])
  targets[np.arange(len(labels)), labels] += 1 - smoothing
  return -(targets * log_p).sum(-1)


def test_loss_is_the_specialists_plus_weight_times_the_lightweights(model, trajectories):
  batch, state = tiny.batch(BATCH, 0), trajectories[1]['states'][0]
  images = batch['image'].astype(np.float32) / 127.5 - 1
  outputs, _ = jax.jit(
    functools.partial(model.apply, train=True, annealed=Annealed(1.0), mutable=['batch_stats'])
  )(averaged(state), images)
  expected = {'learning_rate': 0.1, 'broken_images': 0.0, 'loss': 0.0}
  for stage, weight in (('lightweight', 0.5), ('specialist', 1.0)):
    logits, labels = np.asarray(getattr(outputs, stage)), batch['label']
    rank = (logits > logits[np.arange(BATCH), labels][:, None]).sum(-1)
    expected[f'{stage}_loss'] = cross_entropy(logits, labels).mean()
    expected[f'{stage}_top1'] = (rank < 1).mean()
    expected[f'{stage}_top5'] = (rank < 5).mean()
    expected['loss'] += weight * cross_entropy(logits, labels, 0.2).mean()
  assert trajectories[1]['metrics'][0] == pytest.approx(expected, rel=1e-5)
  assert 0 < expected['specialist_top5'] < 1


def test_a_peers_coefficients_are_annealed_too():
  network = tiny.TinyNetwork()
  layers = tuple(synthesis.based_layers(network, (8, 8, 3)))
  model = routed.CondConv(network, layers, num_bases=3)
  batch = tiny.batch(BATCH)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.asarray(batch['image'], jnp.float32))
  objective = make_objective(
    model,
    label_smoothing=0.0,
    lightweight_weight=1.0,
    annealed=lambda step: Annealed(jnp.where(step == 0, 1.0, 0.0)),
  )

  @jax.jit
  def gradient(step):
    def loss(params):
      stats = variables.get('batch_stats', {})
      return objective(params, stats, batch, jax.random.key(1), step).losses['network'].sum()

    return jax.grad(loss)(variables['params'])

  for step in (0, 1):
    leaves = jax.tree_util.tree_leaves_with_path(gradient(step))
    of_routing = [np.abs(leaf).max() for path, leaf in leaves if 'routing' in str(path)]
    assert of_routing and (max(of_routing) > 1e-6) == (step == 1)


def test_penalties_of_the_coefficients_join_the_loss(model, trajectories):
  batch, state = tiny.batch(BATCH), trajectories[1]['states'][1]
  batch['mask'][:5] = 0
  apply = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))

  def shares(rows):
    """The coefficients of the rows that count, as a batch by themselves."""
    images = batch['image'][rows].astype(np.float32) / 127.5 - 1
    outputs, _ = apply(averaged(state), images)
    return np.asarray(outputs.coefficients, np.float64)[batch['mask'][rows] > 0]

  def balance(shares):
    return (shares.shape[-1] * (shares.mean(0) ** 2).sum(-1) - 1).mean()

  def measured(objective=None, **options):
    step = new_step(model, optimizer(), objective=objective, **options)
    return values(jax.jit(step)(state, batch)[1])

  whole = shares(slice(None))
  entropy = -(whole * np.log(whole)).sum(-1).mean() / np.log(whole.shape[-1])
  plain, found = measured(), measured({'load_balance': 3.0, 'coefficient_entropy': -0.5})
  extra = found.pop('loss') - plain.pop('loss')
  assert extra == pytest.approx(3 * balance(whole) - 0.5 * entropy, rel=1e-3)
  assert found.pop('load_balance') == pytest.approx(3 * balance(whole), rel=1e-3)
  assert found.pop('coefficient_entropy') == pytest.approx(entropy, rel=1e-5)
  assert found == pytest.approx(plain, rel=1e-5)
  # Part by part: every second row is of the same.
  parts = measured({'load_balance': 3.0}, accumulation=2)['load_balance']
  of_parts = np.mean([balance(shares(slice(part, None, 2))) for part in (0, 1)])
  assert parts == pytest.approx(3 * of_parts, rel=1e-3)
  assert of_parts != pytest.approx(balance(whole), rel=1e-3)


def test_uniform_mix_follows_its_schedule(trajectories):
  # While the coefficients are uniform no gradient reaches their head; weight decay spares a bias.
  biases = [s.params['coefficient_head']['dense']['bias'] for s in trajectories[1]['states']]
  np.testing.assert_array_equal(biases[1], biases[0])
  assert np.all(biases[2] != biases[1])


def test_average_is_the_one_written_out_by_hand(trajectories):
  first, *others = trajectories[1]['states']
  expected = tiny.leaves(averaged(first))
  for state, decay in zip(others, (1 / 10, 0.15, 0.15), strict=True):  # At most EMA_DECAY.
    now, found = tiny.leaves(averaged(state)), tiny.leaves(state.ema)
    expected = {path: decay * expected[path] + (1 - decay) * now[path] for path in now}
    for path, value in expected.items():
      np.testing.assert_allclose(found[path], value, rtol=1e-5, atol=1e-7, err_msg=path)
    assert state.eval_variables() is state.ema


def test_evaluation_uses_the_parameters_where_no_average_is_kept(model):
  create = functools.partial(
    train_state.create, model, optimizer(), 0, tiny.RESOLUTION, use_ema=False
  )
  state = jax.eval_shape(create)
  assert state.ema is None
  assert state.eval_variables() == averaged(state)


def test_metrics_of_steps_merge_to_the_mean_over_their_images():
  kind = metrics.collection(('loss',))
  first, second = (kind.single_from_model_output(loss=jnp.float32(x)) for x in (1.0, 4.0))
  assert values(first.merge(second)) == {'loss': 2.5}


def test_plain_network_has_one_stage(trajectories):
  model, update = tiny.TinyNetwork(), optimizer()
  state = trajectories[1]['states'][0]
  params, batch_stats = (tree['lightweight'] for tree in (state.params, state.batch_stats))
  state = train_state.TrainState(jnp.int32(0), params, batch_stats, update.init(params), None)
  state, measured = jax.jit(new_step(model, update))(state, tiny.batch(BATCH, 0))
  expected = trajectories[1]['metrics'][0]
  measured = values(measured)
  assert set(measured) == {
    'loss', 'learning_rate', 'broken_images', 'network_loss', 'network_top1', 'network_top5',
  }  # fmt: skip
  for name in ('loss', 'top1', 'top5'):
    assert measured[f'network_{name}'] == pytest.approx(expected[f'lightweight_{name}'], rel=1e-5)
  assert int(state.step) == 1


def test_masked_images_count_nowhere_but_in_batch_statistics(model, trajectories):
  step, state = jax.jit(new_step(model, optimizer())), trajectories[1]['states'][0]
  batch = tiny.batch(BATCH)
  batch['mask'][[1, 5]] = 0
  new, measured = step(state, batch)
  other = {**batch, 'label': np.where(batch['mask'] > 0, batch['label'], 9 - batch['label'])}
  same, measured_other = step(state, other)
  assert values(measured) == values(measured_other)
  for path, value in tiny.leaves(same).items():
    np.testing.assert_array_equal(value, tiny.leaves(new)[path], err_msg=path)
  assert values(measured)['broken_images'] == 2
  _, whole = step(state, {**batch, 'mask': np.ones(BATCH, np.float32)})
  assert values(whole)['loss'] != values(measured)['loss'] < 5
  batch['mask'][:] = 0
  assert values(step(state, batch)[1])['loss'] == 0


def test_batch_of_nothing_but_equal_parts_can_be_accumulated(model, trajectories):
  # Each part then has the batch statistics of the whole batch; rows 4k to 4k + 3 are of parts 0-3.
  part = tiny.batch(BATCH // 4)
  batch = {key: np.repeat(value, 4, axis=0) for key, value in part.items()}
  state = trajectories[1]['states'][1]
  whole, measured = jax.jit(new_step(model, optimizer()))(state, batch)
  parts, measured_parts = jax.jit(new_step(model, optimizer(), accumulation=4))(state, batch)
  assert values(measured_parts) == pytest.approx(values(measured), rel=1e-5)
  expected = tiny.leaves(whole)
  for path, value in tiny.leaves(parts).items():
    np.testing.assert_allclose(value, expected[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_accumulated_gradient_is_that_of_the_whole_batch_where_nothing_is_normalised(model):
  network, update = tiny.TinyNetwork(), optax.sgd(1.0)
  batch = tiny.batch(BATCH)
  batch['mask'][3] = 0
  variables = jax.jit(network.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
  state = train_state.TrainState(
    jnp.int32(1), variables['params'], {}, update.init(variables['params']), None
  )

  class Frozen(tiny.TinyNetwork):
    """Normalises by running statistics also in training."""

    def apply(self, given, x, train, rngs, mutable):
      running = {'params': given['params'], 'batch_stats': variables['batch_stats']}
      return network.apply(running, x), {}

  # Images are mixed before they are parted; the teacher sees each part.
  mix = mixing.make_mixer(10, mixup=0.4, cutmix=1.0, cutmix_share=0.5)
  teacher = distillation.make_teacher(network, tiny.RESOLUTION)
  options = {'weight': 0.5, 'temperature': 2.0, 'lightweight': True, 'from_specialist': 0.0}
  distill = distillation.make_distill(teacher, **options)
  new = functools.partial(new_step, Frozen(), update, objective={'distill': distill}, mix=mix)
  other = jax.tree.map(lambda leaf: 1 - leaf, variables)
  found = {
    parts: tiny.leaves(jax.jit(new(accumulation=parts))(state, batch, other)[0].params)
    for parts in (1, 2, 8)
  }
  for path, value in found[1].items():
    assert np.abs(value - tiny.leaves(state.params)[path]).max() > 0
    for parts in (2, 8):
      np.testing.assert_allclose(found[parts][path], value, rtol=1e-4, atol=1e-6, err_msg=path)


def test_step_that_is_not_finite_can_be_skipped(model, trajectories):
  state = trajectories[1]['states'][1]
  step = jax.jit(new_step(model, optimizer(), skip_nonfinite=True))
  good, bad = tiny.batch(BATCH), tiny.batch(BATCH)
  bad['mask'][3] = np.nan
  new, measured = step(state, bad)
  assert int(new.step) == int(state.step) + 1
  old = tiny.leaves(state.replace(step=new.step))
  for path, value in tiny.leaves(new).items():
    np.testing.assert_array_equal(value, old[path], err_msg=path)
  assert (values(measured)['finite'], values(measured)['loss']) == (0, 0)
  new, measured = step(state, good)
  expected, expected_metrics = jax.jit(new_step(model, optimizer()))(state, good)
  assert values(measured) == pytest.approx({**values(expected_metrics), 'finite': 1}, rel=1e-6)
  expected = tiny.leaves(expected)
  for path, value in tiny.leaves(new).items():
    np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-7, err_msg=path)


def test_dropout_follows_seed_and_step_and_nothing_else(trajectories):
  model, update, batch = tiny.basisnet(dropout=0.3), optimizer(), tiny.batch(BATCH)
  state = trajectories[1]['states'][0]

  @jax.jit
  def loss(seed, step):
    _, measured = new_step(model, update, seed)(state.replace(step=step), batch)
    return measured.compute()['loss']

  # Steps 1, 2, 3: at 0 the coefficients differ.
  losses = [float(loss(seed, step)) for seed, step in ((0, 1), (0, 2), (0, 3), (1, 1))]
  assert len(set(losses)) == 4
  assert float(loss(0, 2)) == losses[1]


def test_seed_alone_decides_the_initial_parameters(model):
  create = jax.jit(
    lambda seed: train_state.create(model, optimizer(), seed, tiny.RESOLUTION, use_ema=False).params
  )
  first, again, other = (tiny.leaves(create(seed)) for seed in (3, 3, 4))
  assert all(np.array_equal(first[path], again[path]) for path in first)
  drawn = [path for path in first if path.endswith(("['kernel']", "['bases']"))]
  assert len(drawn) == 9
  assert all(not np.array_equal(first[path], other[path]) for path in drawn)
