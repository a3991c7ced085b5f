"""Exports to ONNX: what ONNX Runtime says, against the network."""

import json
import pathlib
import subprocess
import sys

import forks
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import onnx
from PIL import Image
import pytest

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.inference import exporting, onnx_file

ROOT = pathlib.Path(__file__).parents[2]
SIDE = 32
# One of each family, the pooling, gates and routings that there are among them.
NETWORKS = [
  'mobilenet_v1', 'mobilenet_v2', 'mobilenet_v3_large', 'efficientnet_b0', 'efficientnet_lite0',
  'fbnet_v3_a', 'once_for_all', 'resnet_10', 'resnet_50', 'vit_tiny', 'condconv_mobilenet_v2',
  'condconv_resnet_10', 'dynamic_convolution_mobilenet_v3_small', 'dynamic_convolution_resnet_10',
]  # fmt: skip
BY_IMAGE = ('condconv', 'dynamic')


def images(count, side=SIDE):
  """Noise of several brightnesses: networks say something else of each."""
  random = np.random.default_rng(count)
  level = random.uniform(-0.5, 0.5, (count, 1, 1, 3))
  return np.float32(level + random.uniform(-0.5, 0.5, (count, side, side, 3)))


def variables(model, side=SIDE):
  """Random ones, as after training: no vector of normalisation, and no bias, is zeros or ones."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
  random = np.random.default_rng(0)

  def draw(path, leaf):
    kind = path[-1].key
    if kind in ('scale', 'var'):  # More scale than variance: what images differ in stays.
      return np.float32(random.uniform(0.7, 1.4, leaf.shape) * (1 if kind == 'scale' else 0.4))
    inputs = leaf.shape[kind == 'bases' : -1]
    return np.float32(
      random.normal(0, 0.1 if leaf.ndim == 1 else np.prod(inputs) ** -0.5, leaf.shape)
    )

  return jax.tree_util.tree_map_with_path(draw, shapes)


def create(name, width=0.5, **options):
  return models.create(name, num_classes=10, width=width, **options)


def two_stages(first, second, kind='basisnet', **options):
  stages = {'lightweight': create(first), 'specialist': create(second)}
  return models.create(kind, **stages, resolution=SIDE, num_bases=3, **options)


def same(part, data, known):
  """Runs all that is known and one image of it, and adds what the network says.

  The tolerance is a thousandth of what images differ by.
  """
  inputs = [known[key] for key in part.inputs]
  run = onnx_file.reader(data)
  wanted = [np.asarray(value) for value in jax.jit(part.call)(*inputs)]
  for count in (1, len(inputs[0])):
    found = run(*(value[:count] for value in inputs))
    for key, right, value in zip(part.outputs, wanted, found, strict=True):
      assert value.dtype == np.float32 and value.shape == right[:count].shape, key
      if value.size:  # A cascade has no coefficients.
        tolerance = 1e-3 * right.std(0).max()
        assert tolerance > 1e-7, key  # It says something else of other images.
        np.testing.assert_allclose(value, right[:count], rtol=0, atol=tolerance, err_msg=key)
  known |= dict(zip(part.outputs, wanted, strict=True))


def operators(data):
  """The operators of a file, those of the images that it runs over one by one, too."""
  (*rest,) = onnx.load_from_string(data).graph.node
  for node in list(rest):
    rest += [inner for own in node.attribute if own.name == 'body' for inner in own.g.node]
  return [node.op_type for node in rest]


def program(call, *shapes, name='some'):
  names = 'xyz'[: len(shapes)]
  takes = dict(zip(names, shapes, strict=True))
  return exporting.Program(name, lambda *arrays: (call(*arrays),), takes, ('out',))


@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_says_what_it_said(name):
  side = 64 if name.startswith('fbnet') else SIDE  # Its kernels are larger than what is left.
  # Eight random bases, added up, make a network that is chaos also to JAX.
  options = {'num_bases': 2} if name.startswith(BY_IMAGE) else {}
  model = create(name, width=1.0 if name == 'vit_tiny' else 0.25, **options)
  held = variables(model, side)
  network = program(lambda x: model.apply(held, x), (side, side, 3), name='network')
  data = onnx_file.model(network)
  same(network, data, {'x': images(5, side)})
  found = operators(data)
  assert ('Scan' in found) == name.startswith(BY_IMAGE)
  assert 'Expand' not in found  # Nothing is repeated that an operator repeats by itself.
  if 'Sqrt' in found:  # Normalisation by what was learnt is no operation any more.
    assert name == 'vit_tiny'


@pytest.mark.parametrize(
  'rule, model',
  [
    (
      'margin',
      two_stages('mobilenet_v3_small', 'mobilenet_v3_large', lightweight_resolution=24, refine=0.5),
    ),
    ('entropy', two_stages('mobilenet_v2', 'resnet_10', activation='sigmoid', shared=True)),
    ('max_softmax', two_stages('resnet_10', 'vit_tiny', lightweight_resolution=40)),
    ('margin', two_stages('mobilenet_v1', 'mobilenet_v2', 'cascade')),
  ],
  ids=['resized and refined', 'shared sigmoid', 'of dense layers', 'cascade'],
)
def test_both_stages_say_what_they_said(model, rule):
  held = variables(model)
  parts = exporting.programs(model, held, SIDE, {'lightweight': 0.5, 'specialist': 0.2}, rule)
  files = {part.name: onnx_file.model(part) for part in parts}
  assert list(files) == ['preview', 'specialist']
  known = {'images': images(5)}
  for part in parts:
    same(part, files[part.name], known)


def test_normalisation_is_taken_into_blended_kernels():
  model = two_stages('mobilenet_v1', 'mobilenet_v1')
  stored = exporting.stored(model, variables(model), SIDE, 'float32')
  part = exporting.programs(model, stored, SIDE, {}, 'margin')[1]
  found = operators(onnx_file.model(part))
  convolutions = found.count('Conv')
  assert convolutions == 27  # Of MobileNetV1.
  assert found.count('Mul') == 0 and found.count('Add') == 1  # The classifier's.
  assert found.count('Transpose') == 1  # Of the images.


def test_weights_are_in_the_file_once():
  model = two_stages('mobilenet_v1', 'mobilenet_v1')
  held = variables(model)
  part = exporting.programs(model, held, SIDE, {}, 'margin')[1]
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(held['params']['specialist']))
  assert 0.9 * size < len(onnx_file.model(part)) < 1.05 * size


@pytest.mark.parametrize('weights, share', [('float16', 0.5), ('int8', 0.25)])
def test_bases_are_stored_in_as_few_bytes_as_they_need(weights, share):
  model = two_stages('mobilenet_v1', 'mobilenet_v1')
  held = variables(model)
  stored = jax.tree.map(np.float32, exporting.stored(model, held, SIDE, weights))
  part = exporting.programs(model, stored, SIDE, {}, 'margin')[1]
  data = onnx_file.model(part)
  leaves = jax.tree_util.tree_leaves_with_path(held['params']['specialist'])
  small, others = 0, 0
  for path, leaf in leaves:
    if path[-1].key == 'bases' and leaf.shape[-2] != 1:  # Those of depthwise layers stay.
      small += leaf.nbytes
    else:
      others += leaf.nbytes
  assert len(data) < 1.05 * (share * small + others)
  assert exporting.check(part, onnx_file.reader(data), (3,), 1e-4) >= 0


TABLE = np.float32(np.random.default_rng(1).uniform(0.5, 2, (4, 6)))
OPERATIONS = {
  'abs': jnp.abs,
  'ceil and floor': lambda x: jnp.ceil(3 * x) - jnp.floor(2 * x),
  'erf': lax.erf,
  'sine': lambda x: jnp.sin(x) + jnp.cos(2 * x),
  'log and sqrt': lambda x: jnp.log(x + 2) + jnp.sqrt(x + 2) + lax.rsqrt(x + 2),
  'power': lambda x: (x + 2) ** 3 + (x + 2) ** jnp.float32(0.3) + x**2,
  'signs': lambda x: jnp.sign(x) * jnp.exp(-x) + jnp.tanh(x),
  'comparisons': lambda x: jnp.where(x > 0.3, x, jnp.where(x <= -0.2, 2.0, -x)),
  'more comparisons': lambda x: jnp.where((x < 0) == (x >= -0.5), x, 1.0),
  'limits': lambda x: jnp.minimum(jnp.maximum(x, -0.4), 0.3) + jnp.minimum(jax.nn.relu(x), 0.2),
  'relu6': lambda x: jax.nn.relu6(9 * x + 1) / 5,  # Not the six of a hard sigmoid.
  'hard sigmoid of four': lambda x: jnp.clip(9 * x + 1, 0, 4) / 4,
  'reductions': lambda x: x.max(2) + x.min(2) + x.sum(2) / 7 + x.mean(2),
  'reduction of nothing': lambda x: lax.reduce_sum_p.bind(x, axes=(), out_sharding=None) + 1,
  'largest': lambda x: x.argmax(1).astype(jnp.float32),
  'slices': lambda x: lax.slice_in_dim(x, 1, 4, 2, axis=1) * x[:, :2],
  'parts': lambda x: x[:, 3, None] * x[:, 1:, 2:3],
  'padded': lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=3),
  'joined': lambda x: jnp.concatenate([x, 2 * x[:, :1]], 1),
  'taken': lambda x: jnp.take(x, np.array([3, 0, 0]), 1),
  'turned': lambda x: (x.transpose(0, 2, 1) + TABLE.T).reshape(x.shape[0], 3, 8),
  'turned sum': lambda x: x.transpose(0, 2, 1).sum(1) * TABLE[:, 0],
  'repeated': lambda x: jnp.broadcast_to(x[:, :1], (x.shape[0], 5, 6)).reshape(-1, 30),
  'constant rows': lambda x: jnp.broadcast_to(TABLE[0], (x.shape[0], 6)) - 1,
  'products': lambda x: jnp.einsum('bij,bkj->bik', x, x) @ (x @ TABLE[0])[..., None],
  'products of several axes': lambda x: jnp.einsum('bij,ijk->bk', x, np.stack([TABLE, -TABLE], 2)),
  'outer products': lambda x: jnp.einsum('bi,j->bij', x[:, 0], TABLE[0]),
  'images last': lambda x: jnp.einsum('bij,jk->ikb', x, TABLE.T).transpose(2, 0, 1),
}  # fmt: skip


@pytest.mark.parametrize('name', OPERATIONS)
def test_an_operation_means_what_it_meant(name):
  part = program(OPERATIONS[name], (4, 6))
  x = np.random.default_rng(0).uniform(-1, 1, (5, 4, 6)).astype(np.float32)
  known = {'x': x}
  if name == 'constant rows':
    found = onnx_file.reader(onnx_file.model(part))(x)[0]
    np.testing.assert_array_equal(found, np.tile(TABLE[0] - 1, (5, 1)))
  else:
    same(part, onnx_file.model(part), known)


def test_a_convolution_that_is_read_twice_is_computed_once():
  kernel = np.float32(np.random.default_rng(0).normal(size=(3, 3, 3, 4)))

  def call(x):
    y = lax.conv_general_dilated(
      x, kernel, (1, 2), 'SAME', rhs_dilation=(2, 1), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return (y + TABLE[0, :4]) * y

  part = program(call, (8, 8, 3))
  data = onnx_file.model(part)
  assert operators(data).count('Conv') == 1
  same(part, data, {'x': images(2, 8)})


def test_nested_calls_are_inlined():
  @jax.custom_vjp
  def double(x):
    return 2 * x

  double.defvjp(lambda x: (2 * x, None), lambda _, dy: (2 * dy,))
  inner = jax.jit(lambda x: jax.checkpoint(lambda y: double(jax.nn.relu6(y)))(x) + 1)
  part = program(lambda x: inner(inner(x)), (4, 6))
  x = np.random.default_rng(0).uniform(-1, 1, (3, 4, 6)).astype(np.float32)
  same(part, onnx_file.model(part), {'x': x})


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda x: jnp.cumsum(x, 1), "no operator for the primitive 'cumsum' of JAX"),
    (
      lambda x: jnp.take_along_axis(x, x.argmax(1, keepdims=True), 1),
      "the primitive 'gather' with indices that the",
    ),
    (lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0)]), "primitive 'pad' with"),
  ],
)
def test_what_cannot_be_written_is_named(call, message):
  with pytest.raises(UserError, match=message):
    onnx_file.model(program(call, (4, 6)))


@pytest.mark.parametrize(
  'library, call', [('onnx', onnx_file.model), ('onnxruntime', onnx_file.reader)]
)
def test_a_missing_library_is_named(monkeypatch, library, call):
  part = program(jnp.abs, (4, 6))
  argument = onnx_file.model(part) if library == 'onnxruntime' else part
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(
    UserError, match=r'--format=onnx and .* need .*: pip install basisnet_jax\[onnx\]'
  ):
    call(argument)


def test_weights_of_more_than_a_file_holds_are_refused(monkeypatch):
  monkeypatch.setattr(onnx_file, '_MOST_BYTES', 90)
  with pytest.raises(UserError, match='a file holds 2 GB'):
    onnx_file.model(program(lambda x: x + TABLE, (4, 6)))


def run(*arguments, cwd=ROOT):
  """A program to its end: what it printed."""
  process = forks.start(*arguments, cwd=cwd, env=forks.environment(1))
  out, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  return out


def test_an_export_runs_with_neither_this_package_nor_jax(tmp_path, data_flag):
  workdir, folder = tmp_path / 'run', tmp_path / 'exported'
  program = '-m', 'basisnet_jax.main'
  small = (f'--config.model.{key}' for key in (
    'specialist=resnet_10', 'width=0.125', 'lightweight.name=resnet_10', 'lightweight.width=0.125'
  ))  # fmt: skip
  steps = '--config.training.steps=4'
  run(*program, '--config=tests/tiny.py', f'--workdir={workdir}', data_flag, steps, *small)
  out = run(
    *program, '--mode=export', f'--workdir={workdir}', f'--output={folder}',
    '--format=onnx,stablehlo,triton',
  )  # fmt: skip
  assert 'preview.onnx' in out and 'specialist.onnx' in out
  assert {path.name for path in folder.iterdir()} >= {'preview.onnx', 'specialist.onnx'}
  about = json.loads((folder / 'model.json').read_text())
  assert about['formats'] == ['onnx', 'stablehlo', 'triton']
  for name in ('preview', 'specialist'):
    served = folder / 'triton' / name / '1' / 'model.onnx'
    assert served.read_bytes() == (folder / f'{name}.onnx').read_bytes()
  photo = tmp_path / 'photo.png'
  Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 20, 3), np.uint8)).save(photo)
  answers = {}
  absences = {
    'onnx': ('basisnet_jax', 'jax'),
    'triton': ('basisnet_jax', 'jax'),
    'stablehlo': ('basisnet_jax',),
  }
  for form, absent in absences.items():
    code = (
      f'import runpy, sys; sys.modules |= dict.fromkeys({absent}); sys.argv = sys.argv[1:]; '
      'runpy.run_path(sys.argv[0], run_name="__main__")'
    )
    done = subprocess.run(
      [sys.executable, '-c', code, folder / 'run.py', photo, form],
      capture_output=True, text=True, cwd=tmp_path, env=forks.environment(1),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers[form] = done.stdout
  assert answers['onnx'].count('%') == 5
  assert answers['onnx'] == answers['stablehlo'] == answers['triton']
