"""The predictor of a plain network, against the network itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax.errors import UserError
from basisnet_jax.inference.predictor import Predictor, Preparation
from basisnet_jax.models import cost

SIDE, CLASSES = tiny.RESOLUTION, 10
LABELS = tuple(f'class {i}' for i in range(CLASSES))


def test_a_network_of_one_stage_answers_too():
  photos = list(np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8))
  model = tiny.TinyNetwork(CLASSES)
  variables = model.init(jax.random.key(1), jnp.zeros((1, SIDE, SIDE, 3)))
  predictor = Predictor(
    model,
    variables,
    labels=LABELS,
    preparation=Preparation(SIDE),
    cost=cost.count(model, SIDE, variables),
  )
  answers = predictor.predict(photos, top_k=CLASSES)
  logits = model.apply(variables, np.stack(photos).astype(np.float32) / 127.5 - 1)
  for answer, wanted in zip(answers, np.asarray(jax.nn.softmax(logits)), strict=True):
    assert answer.stage == 'network' and answer.madds == predictor.cost.total_madds
    np.testing.assert_allclose(answer.probabilities, np.sort(wanted)[::-1], rtol=1e-4)
    assert answer.confidence == pytest.approx(wanted.max(), rel=1e-4)
  # As the program asks: with the threshold that it has found before.
  asked = predictor.stream(photos, predictor.threshold_for(), top_k=CLASSES)
  assert [answer for _, answer in asked] == answers
  with pytest.raises(UserError, match='one stage: no image can exit'):
    predictor.threshold_for(threshold=0.5)


@pytest.mark.parametrize(
  'options, sentence',
  [
    ({'devices': []}, r'^devices=\[\] is no list of JAX devices, such as jax.devices\(\)\[:2\]\.$'),
    ({'devices': ['cpu']}, r"^devices=\['cpu'\] is no list of JAX devices"),
    ({'devices': jax.devices()[0]}, '^devices=.* is no list of JAX devices'),
    (
      {'labels': LABELS[1:]},
      '^labels has 9 names, and the network 10 classes; give a name of each',
    ),
    ({'labels': (*LABELS, 'one more')}, '^labels has 11 names, and the network 10 classes'),
  ],
)
def test_what_it_cannot_be_made_of_is_told(options, sentence):
  model, image = tiny.TinyNetwork(CLASSES), np.zeros((SIDE, SIDE, 3), np.uint8)
  variables = model.init(jax.random.key(1), jnp.zeros((1, SIDE, SIDE, 3)))
  shared = {'labels': LABELS, 'preparation': Preparation(SIDE), 'cost': cost.count(model, SIDE)}
  with pytest.raises(UserError, match=sentence):
    Predictor(model, variables, **shared | options).predict([image])


@pytest.mark.parametrize(
  'change, sentence',
  [
    ({'model': None}, r'^model is of the type Module; this is NoneType\.$'),
    ({'model': 'resnet_18'}, r'^model is of the type Module; this is str\.$'),
    ({'variables': None}, r'^variables are what model\.init returns, .*; this is NoneType\.$'),
    ({'variables': {'dense': {}}}, r"\{'params': ..., ...\}; this is dict of \['dense'\]\.$"),
    ({'labels': None}, r'^labels is of the type Iterable; this is NoneType\.$'),
    ({'preparation': SIDE}, r'^preparation is of the type Preparation; this is int\.$'),
    ({'cost': 1e6}, r'^cost is of the type Cost; this is float\.$'),
    ({'chosen': 0.5}, r'^chosen is of the type Chosen; this is float\.$'),
    ({'cost': cost.count(tiny.basisnet(), SIDE)}, '^cost is of another network; give that of `mod'),
    ({'model': tiny.basisnet()}, '^cost is of another network; give that of `model`, from `cost.'),
  ],
)
def test_what_is_of_another_type_or_another_network_is_told(change, sentence):
  model = tiny.TinyNetwork(CLASSES)
  right = {
    'model': model,
    'variables': {'params': {}},
    'labels': LABELS,
    'preparation': Preparation(SIDE),
    'cost': cost.count(model, SIDE),
  }
  Predictor(**right)
  with pytest.raises(UserError, match=sentence):
    Predictor(**right | change)
