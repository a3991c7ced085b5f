"""Sub-networks of Once-for-All (Cai et al. 2020): its MobileNetV3 design space."""

from typing import NamedTuple

from flax import linen as nn
import jax

from basisnet_jax.errors import UserError
from basisnet_jax.models import layers

# The five stages: channels at width 1, stride, squeeze-excite, hard-swish.
_STAGES = (
  (24, 2, False, False),
  (40, 2, True, False),
  (80, 2, False, True),
  (112, 1, True, True),
  (160, 2, True, True),
)
_MAX_DEPTH = 4


class Settings(NamedTuple):
  """The choices that make up a sub-network.

  Attributes:
    depths: blocks of each of the five stages, 1 to 4 (the paper: 2, 3, 4).
    kernels, expansions: of all blocks, four per stage; those beyond a stage's depth are not used.
      The paper: kernels of 3, 5, 7 pixels, expansions of 3, 4, 6.
    width: channel multiplier; the paper has super-networks of 1.0 and 1.2.
  """

  depths: tuple[int, ...] = (4,) * 5
  kernels: tuple[int, ...] = (7,) * 20
  expansions: tuple[int, ...] = (6,) * 20
  width: float = 1.0


def _specialized(stages: str) -> Settings:
  """Settings at width 1.2 from digit pairs (kernel, expansion): 'block block | next stage'."""
  blocks = [stage.split() for stage in stages.split('|')]
  padded = [stage + ['33'] * (_MAX_DEPTH - len(stage)) for stage in blocks]
  pairs = [(int(kernel), int(expansion)) for stage in padded for kernel, expansion in stage]
  kernels, expansions = zip(*pairs, strict=True)
  return Settings(tuple(map(len, blocks)), kernels, expansions, 1.2)


# The published networks (`flops-...M_top1-..._finetune-75/net.config` of OFA's model zoo).
PUBLISHED = {
  '389m': _specialized('33 33 | 53 56 33 | 54 54 33 | 56 54 34 34 | 36 36 76 33'),
  '482m': _specialized('53 33 33 | 54 34 54 33 | 54 56 33 33 | 56 76 36 54 | 76 36 36 33'),
  '595m': _specialized('33 54 33 | 54 54 36 53 | 76 56 33 54 | 36 56 76 34 | 36 36 56 33'),
}


class OnceForAll(nn.Module):
  """Images `[b, h, w, 3]` -> logits `[b, num_classes]`.

  Attributes:
    num_classes: outputs of the classifier.
    settings: of the sub-network.
    width: a further channel multiplier.
    dropout: rate before the classifier.
    stochastic_depth: rate of the last block, see `layers.block_rates`.
    output_stride: see `layers.strides_for`.
    style: see `layers.Style`; the logits have its dtype, too.
  """

  num_classes: int
  settings: Settings = Settings()
  width: float = 1.0
  dropout: float = 0.2
  stochastic_depth: float = 0.0
  output_stride: int = 32
  style: layers.Style = layers.Style(0.9, 1e-5, 'symmetric')

  @nn.compact
  def __call__(self, x, train: bool = False):
    blocks = list(_blocks(self.settings))
    strides = layers.strides_for([2, 1] + [block['stride'] for block in blocks], self.output_stride)
    drop_rates = layers.block_rates(self.stochastic_depth, 1 + len(blocks))
    scale = self.width * self.settings.width
    style, dtype = self.style, self.style.dtype

    def channels(value):
      return layers.round_channels(value * scale)

    x = style.images(x)
    x = layers.ConvNorm(
      channels(16), 3, strides[0], activation=layers.hard_swish, style=style, name='stem'
    )(x, train)
    first = {'kernel': 3, 'expansion': 1, 'features': 16, 'squeeze': False, 'hard_swish': False}
    for i, (block, stride) in enumerate(zip([first, *blocks], strides[1:], strict=True)):
      expanded = layers.round_channels(x.shape[-1] * block['expansion'])
      x = layers.InvertedResidual(
        features=channels(block['features']),
        expanded=expanded,
        kernel=block['kernel'],
        stride=stride,
        squeeze=layers.round_channels(expanded // 4) if block['squeeze'] else 0,
        activation=layers.hard_swish if block['hard_swish'] else jax.nn.relu,
        drop_rate=drop_rates[i],
        style=style,
        name=f'block_{i + 1}',
      )(x, train)
    x = layers.ConvNorm(channels(960), activation=layers.hard_swish, style=style, name='last')(
      x, train
    )
    x = x.mean((1, 2))
    head = nn.Dense(channels(1280), use_bias=False, dtype=dtype, name='head')
    x = layers.hard_swish(head(x))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=dtype, name='classifier')(x)


def _blocks(settings):
  """Yields the options of each block.

  Raises:
    UserError: the settings' lengths or depths are wrong.
  """
  depths, kernels, expansions, _ = settings
  blocks = len(_STAGES) * _MAX_DEPTH
  if (len(depths), len(kernels), len(expansions)) != (len(_STAGES), blocks, blocks):
    raise UserError(
      f'Once-for-all wants {len(_STAGES)} depths, {blocks} kernels and {blocks} expansions '
      f'(four for each stage); it has {len(depths)}, {len(kernels)} and {len(expansions)}.'
    )
  if not all(1 <= depth <= _MAX_DEPTH for depth in depths):
    raise UserError(f'depths={tuple(depths)} of once-for-all must be between 1 and {_MAX_DEPTH}.')
  for i, (features, stride, squeeze, hard_swish) in enumerate(_STAGES):
    for j in range(depths[i]):
      yield {
        'kernel': kernels[_MAX_DEPTH * i + j],
        'expansion': expansions[_MAX_DEPTH * i + j],
        'features': features,
        'stride': stride if j == 0 else 1,
        'squeeze': squeeze,
        'hard_swish': hard_swish,
      }
