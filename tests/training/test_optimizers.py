"""Optimizers against TensorFlow's kernels and a written-out formula; schedules at chosen steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from basisnet_jax.data.quiet_tensorflow import tf
from basisnet_jax.errors import UserError
from basisnet_jax.training import optimizers

STEPS = 6
RATES = np.array([0.1, 0.1, 0.05, 0.05, 0.2, 0.01], np.float32)  # A rate that changes.
OPTIONS = {
  'momentum': 0.9,
  'rmsprop_decay': 0.8,
  'epsilon': 1e-3,
  'beta1': 0.85,
  'beta2': 0.95,
  'weight_decay': 0.03,
}


def parameters():
  random = np.random.default_rng(0)
  return {'kernel': random.normal(size=(3, 4)).astype(np.float32)}


def gradients():
  """Small, large, zero: where epsilon matters and where not."""
  random = np.random.default_rng(1)
  scales = np.array([0.0, 1e-3, 1.0, 30.0])
  return [(random.normal(size=(3, 4)) * scales).astype(np.float32) for _ in range(STEPS)]


def ours(name, **options):
  """The kernel after each step."""
  update = optimizers.create(name, lambda step: jnp.asarray(RATES)[step], **(OPTIONS | options))
  params = jax.tree.map(jnp.asarray, parameters())
  opt_state, kernels = update.init(params), []
  for gradient in gradients():
    updates, opt_state = update.update({'kernel': gradient}, opt_state, params)
    params = optax.apply_updates(params, updates)
    kernels.append(np.asarray(params['kernel']))
  return kernels


def tensorflows(apply):
  """The kernel after each step of a TensorFlow kernel, with L2 added to the gradient."""
  kernel, kernels = tf.Variable(parameters()['kernel']), []
  for rate, gradient in zip(RATES, gradients(), strict=True):
    apply(kernel, rate, gradient + OPTIONS['weight_decay'] * kernel)
    kernels.append(kernel.numpy())
  return kernels


def test_rmsprop_is_tensorflows():
  squares, trace = tf.Variable(tf.ones([3, 4])), tf.Variable(tf.zeros([3, 4]))

  def apply(kernel, rate, gradient):
    tf.raw_ops.ResourceApplyRMSProp(
      var=kernel.handle,
      ms=squares.handle,
      mom=trace.handle,
      lr=rate,
      rho=OPTIONS['rmsprop_decay'],
      momentum=OPTIONS['momentum'],
      epsilon=OPTIONS['epsilon'],
      grad=gradient,
    )

  np.testing.assert_allclose(ours('rmsprop'), tensorflows(apply), rtol=2e-5, atol=1e-6)


def test_rmsprop_starts_as_tensorflows_optimizer_does():
  # The kernel above is handed its accumulators; this is the class that the recipes used.
  kernel = tf.Variable(parameters()['kernel'])
  options = OPTIONS['rmsprop_decay'], OPTIONS['momentum'], OPTIONS['epsilon']
  judge = tf.compat.v1.train.RMSPropOptimizer(float(RATES[0]), *options)
  judge.apply_gradients([(tf.constant(gradients()[0]), kernel)])
  np.testing.assert_allclose(ours('rmsprop', weight_decay=0.0)[0], kernel.numpy(), rtol=1e-6)


def test_sgd_is_tensorflows_nesterov_momentum():
  trace = tf.Variable(tf.zeros([3, 4]))

  def apply(kernel, rate, gradient):
    tf.raw_ops.ResourceApplyMomentum(
      var=kernel.handle,
      accum=trace.handle,
      lr=rate,
      grad=gradient,
      momentum=OPTIONS['momentum'],
      use_nesterov=True,
    )

  # TensorFlow's kernel has no rate in its trace and neither have we: equal at a changing rate.
  np.testing.assert_allclose(ours('sgd'), tensorflows(apply), rtol=2e-5, atol=1e-5)


def test_adamw_is_its_formula():
  beta1, beta2, epsilon = OPTIONS['beta1'], OPTIONS['beta2'], 1e-8
  kernel = parameters()['kernel'].astype(np.float64)
  mean, square, expected = 0.0, 0.0, []
  for t, (rate, gradient) in enumerate(zip(RATES, gradients(), strict=True), 1):
    mean = beta1 * mean + (1 - beta1) * gradient.astype(np.float64)
    square = beta2 * square + (1 - beta2) * gradient.astype(np.float64) ** 2
    adapted = mean / (1 - beta1**t) / (np.sqrt(square / (1 - beta2**t)) + epsilon)
    kernel = kernel - rate * (adapted + OPTIONS['weight_decay'] * kernel)
    expected.append(kernel)
  np.testing.assert_allclose(ours('adamw', epsilon=epsilon), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['rmsprop', 'sgd', 'adamw'])
def test_weight_decay_touches_kernels_and_bases_alone(name):
  one = jnp.ones(3)
  params = {
    'conv': {'kernel': one, 'bias': one},
    'specialist': {'depthwise': {'bases': one, 'bias': one}},
    'norm': {'scale': one, 'bias': one},
  }
  update = optimizers.create(name, optax.constant_schedule(0.1), **OPTIONS)
  updates, _ = update.update(jax.tree.map(jnp.zeros_like, params), update.init(params), params)
  decayed = jax.tree_util.tree_map(lambda u: bool((u < 0).all()), updates)
  assert decayed == {
    'conv': {'kernel': True, 'bias': False},
    'specialist': {'depthwise': {'bases': True, 'bias': False}},
    'norm': {'scale': False, 'bias': False},
  }
  assert not any(bool((u > 0).any()) for u in jax.tree.leaves(updates))


def schedule(name, **options):
  options = {
    'learning_rate': 0.5,
    'total_steps': 100,
    'warmup_steps': 0,
    'decay_rate': 0.9,
    'decay_steps': 10,
    **options,
  }
  return optimizers.create_schedule(name, **options)


def test_exponential_schedule_is_stairs():
  rate = schedule('exponential')
  found = [float(rate(step)) for step in (0, 9, 10, 19, 20, 99)]
  assert found == pytest.approx([0.5, 0.5, 0.45, 0.45, 0.405, 0.5 * 0.9**9])


def test_cosine_schedule_falls_to_zero():
  rate = schedule('cosine')
  found = [float(rate(step)) for step in (0, 25, 50, 100, 120)]
  assert found == pytest.approx([0.5, 0.25 * (1 + 0.5**0.5), 0.25, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize('name', ['cosine', 'exponential'])
def test_warm_up_is_linear_and_its_first_step_not_lost(name):
  plain, rate = schedule(name), schedule(name, warmup_steps=5)
  shares = [float(rate(step) / plain(step)) for step in range(8)]
  assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])


def test_unknown_names_are_refused_with_those_there_are():
  with pytest.raises(UserError, match="'lion'; it can be 'rmsprop', 'sgd' or 'adamw'"):
    optimizers.create('lion', optax.constant_schedule(0.1), **OPTIONS)
  with pytest.raises(UserError, match="'linear'; it can be 'cosine' or 'exponential'"):
    schedule('linear')


def test_first_matching_factor_scales_the_update_and_zero_freezes():
  params = {'body': {'stem': {'kernel': 1.0}, 'block': {'kernel': 1.0}}, 'head': {'kernel': 1.0}}
  params = jax.tree.map(jnp.asarray, params)
  factors = (('body/stem/', 0.0), ('body/', 0.25))
  update = optax.chain(optax.adamw(0.1), optimizers.scale_by_path(factors, params))
  plain = optax.adamw(0.1)
  gradients = jax.tree.map(lambda leaf: leaf + 0.5, params)
  found, _ = update.update(gradients, update.init(params), params)
  expected, _ = plain.update(gradients, plain.init(params), params)
  assert found['body']['stem']['kernel'] == 0
  np.testing.assert_allclose(
    found['body']['block']['kernel'], 0.25 * expected['body']['block']['kernel']
  )
  assert found['head']['kernel'] == expected['head']['kernel']


@pytest.mark.parametrize(
  ('factors', 'sentence'),
  [
    ((('kernel', 1.0), ('nothing', 0.0)), "'nothing', which is the first match of no parameter"),
    ((('kernel', 1.0), ('kern', 0.0)), "'kern', which is the first match of no parameter"),
    ((('(kernel', 0.0),), r"'\(kernel', which is no regular expression"),
  ],
)
def test_factor_that_can_have_no_effect_is_refused(factors, sentence):
  with pytest.raises(UserError, match=sentence):
    optimizers.scale_by_path(factors, parameters())


def test_mean_of_scaled_bases_learns_as_a_plain_kernel():
  def loss(params):
    kernel = params['kernel'] if 'kernel' in params else params['bases'].mean(0)
    return ((kernel - 3.0) ** 2).sum()

  def trained(params, update):
    state = update.init(params)
    for _ in range(5):
      updates, state = update.update(jax.grad(loss)(params), state, params)
      params = optax.apply_updates(params, updates)
    return params

  def sgd(**options):
    return optimizers.create('sgd', optax.constant_schedule(0.1), **OPTIONS, **options)

  start = jnp.arange(8.0).reshape(4, 2)
  bases = trained({'bases': start}, sgd(scale_bases=True))['bases']
  kernel = trained({'kernel': start.mean(0)}, sgd())['kernel']
  np.testing.assert_allclose(bases.mean(0), kernel, rtol=1e-5)


def test_stage_that_takes_turns_is_trained_as_by_its_own_steps_alone():
  turn, steps, clip = 2, 11, 1.5
  rates = jnp.linspace(0.1, 0.3, steps)
  random = np.random.default_rng(0)
  shapes = {'lightweight': (3, 4), 'coefficient_head': (4, 2), 'specialist': (2, 3)}
  stages = ('lightweight', 'coefficient_head'), ('specialist',)

  def draw():
    return {key: {'kernel': random.normal(size=s).astype(np.float32)} for key, s in shapes.items()}

  def create(schedule):
    return optax.chain(
      optax.clip_by_global_norm(clip), optimizers.create('adamw', schedule, **OPTIONS)
    )

  params, grads = draw(), [draw() for _ in range(steps)]
  update = optimizers.alternating(create, lambda step: rates[step], turn)
  state, taken = update.init(params), [params]
  for grad in grads:
    updates, state = jax.jit(update.update)(grad, state, taken[-1])
    taken.append(optax.apply_updates(taken[-1], updates))

  for index, members in enumerate(stages):
    own_steps = [step for step in range(steps) if step // turn % 2 == index]
    own = {key: params[key] for key in members}
    plain = create(lambda count, own_steps=own_steps: rates[jnp.array(own_steps)][count])
    own_state, after = plain.init(own), {-1: own}
    for step in own_steps:
      grad = {key: grads[step][key] for key in members}
      updates, own_state = jax.jit(plain.update)(grad, own_state, own)
      own = after[step] = optax.apply_updates(own, updates)
    for step in range(steps):
      expected = after[max(s for s in after if s <= step)]
      for key in members:
        found = taken[step + 1][key]['kernel']
        np.testing.assert_allclose(found, expected[key]['kernel'], rtol=1e-5, atol=1e-6)
        # Bit by bit the same where the others have their turn.
        still = np.array_equal(found, taken[step][key]['kernel'])
        assert still == (step not in own_steps)
