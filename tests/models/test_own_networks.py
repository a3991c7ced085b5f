"""Networks that recipes name by where they are, 'module:Class'."""

import pathlib
import re
import sys
import types

from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest
from tiny import TinyNetwork

from basisnet_jax import base_config, models
from basisnet_jax.errors import UserError
from basisnet_jax.training import experiment


class Bare(nn.Module):
  num_classes: int


class Unstyled(TinyNetwork):
  style: object = None


@pytest.fixture(autouse=True)
def own_module(monkeypatch):
  module = types.ModuleType('my_networks')
  module.Net, module.Bare, module.Unstyled = TinyNetwork, Bare, Unstyled
  module.no_class = print
  monkeypatch.setitem(sys.modules, 'my_networks', module)


def test_recipe_trains_networks_that_are_not_in_the_registry():
  c = base_config.get_config()
  c.model.specialist, c.model.lightweight.name = 'my_networks:Net', 'my_networks:Net'
  c.model.lightweight.width, c.model.resolution, c.data.name = 0.5, 16, 'digits'
  model = experiment.build_model(c)
  assert isinstance(model.specialist, TinyNetwork) and model.lightweight.width == 0.5
  assert model.layers == ('dense', 'depthwise', 'pointwise')
  logits = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((2, 16, 16, 3)))[0]
  assert logits.specialist.shape == (2, 10)


def test_network_of_the_readme_is_found_where_python_looks(tmp_path, monkeypatch):
  text = (pathlib.Path(__file__).parents[2] / 'README.md').read_text()
  (block,) = re.findall(r'```python\n(from flax import linen as nn\n.*?)```', text, re.DOTALL)
  (tmp_path / 'networks_of_the_readme.py').write_text(block)
  monkeypatch.syspath_prepend(tmp_path)
  options = {'num_classes': 10, 'width': 0.5, 'output_stride': 4, 'norm_epsilon': 1e-5}
  network = models.create('networks_of_the_readme:MyNetwork', **options)
  images = jnp.zeros((2, 16, 16, 3))
  logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  assert logits.shape == (2, 10)
  assert variables['params']['classifier']['kernel'].shape == (16, 10)


@pytest.mark.parametrize(
  ('name', 'sentence'),
  [
    ('my_networks:Nothing', r"'my_networks:Nothing' cannot be imported \(AttributeError: "),
    ('no_such_module:Net', r'cannot be imported \(ModuleNotFoundError: .*no_such_module'),
    (':Net', r'cannot be imported \(ValueError'),
    ('my_networks:no_class', 'is no Flax module; name a class that is one'),
    ('my_networks:Bare', 'lacks width, dropout, output_stride, style; recipes set'),
    ('my_networks:Unstyled', r'has no default style; write style: layers\.Style = '),
  ],
)
def test_mistake_in_its_name_is_one_clear_sentence(name, sentence):
  with pytest.raises(UserError, match=sentence) as error:
    models.create(name, num_classes=10)
  assert len(str(error.value).splitlines()) == 1
