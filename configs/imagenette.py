"""Ten classes of larger images: Imagenette at 160 pixels, seen at 96, by a narrow ResNet-10.

  python -m basisnet_jax.main --config=configs/imagenette.py --config.data.data_dir=DATA_DIR

Data: DATA_DIR/imagenette160 in TFDS's format with the splits train and validation, 6,000 and 1,500
images; --config.data.name gives another name. Their shapes are squashed, so they do not compare
with published numbers.
Hardware: 2 CPU cores; 9 minutes on one of them.
Cost: 7.72M MAdds, of which 2.19M are stage 1.
Seen (docs/results.md), three seeds: lightweight 67.9%, specialist 72.6%; with early termination
72.4% for 4.96M on average. The backbone alone (:static): 71.2% for 4.92M.
All choices are ours, and those of configs/cifar10.py:narrow unless stated otherwise. The preview is
four to five points behind for less than a third of the cost, so early termination pays. There is no
refining, which helps where the preview is far behind. A tenth of the training images is held out
for the choice of a threshold.
"""

from basisnet_jax import base_config, config


def get_config(variant=None):
  """Returns the recipe, with the variants (comma-separated) applied."""
  c = base_config.get_config()
  c.name = 'imagenette'

  c.model.resolution = 96
  c.model.num_classes = 10  # Costs are counted without the data.
  c.model.width = 1 / 8
  c.model.dropout = 0.0
  c.model.specialist = 'resnet_10'
  c.model.num_bases = 8
  c.model.based_layers = 'stage_[234]'
  c.model.lightweight.name = 'resnet_10'
  c.model.lightweight.resolution = 64
  c.model.lightweight.width = 1 / 8
  c.model.lightweight.dropout = 0.0
  c.model.coefficients.feature_gradient = 0.0
  c.model.coefficients.uniform_mix = 1.0
  c.model.coefficients.uniform_mix_epochs = 6.0
  c.init.bases_correlation = 0.9

  c.data.name = 'imagenette160'
  c.data.train_split = 'train[:90%]'
  c.data.heldout_split = 'train[90%:]'
  c.data.crop_min_area = 0.35
  c.data.eval_crop = 1.0
  c.data.eval_resize = 'bicubic'

  c.training.batch_size = 64
  c.training.epochs = 20.0
  c.loss.label_smoothing = 0.0
  c.optimizer.name = 'sgd'
  c.optimizer.schedule = 'cosine'
  c.optimizer.learning_rate = 0.3
  c.optimizer.scale_bases = True
  c.optimizer.warmup_epochs = 1.0
  c.optimizer.weight_decay = 3e-4
  c.ema_decay = 0.998
  c.evaluation.batch_size = 500
  c.evaluation.every_epochs = 20.0
  c.logging.every_steps = 50
  return config.apply_variants(
    c,
    variant,
    {
      'static': {'model.name': 'resnet_10'},
      'wide': {'model.width': 1 / 4},  # After 'static', a teacher for the others.
    },
  )
