"""200 classes: 40,000 images of Tiny ImageNet, 64 pixels, seen at 32 by a narrow ResNet-10.

  python -m basisnet_jax.main --config=configs/tiny_imagenet.py --config.data.data_dir=DATA_DIR

Data: DATA_DIR/tiny_imagenet40k in TFDS's format with the splits train and validation;
--config.data.name gives another name. It is a part of Tiny ImageNet, so it does not compare with
published numbers.
Hardware: 2 CPU cores; 14 minutes on one of them.
Cost: 4.11M MAdds, of which 0.80M are stage 1.
Seen (docs/results.md), three seeds: lightweight 12.2%, specialist 19.6%; the backbone alone
(:static): 16.6% for 3.16M.
All choices are ours, and those of configs/cifar10.py:narrow unless stated otherwise. The backbone
has a sixteenth of ResNet-10's width, too little for so many classes: there bases help. Feature maps
end at 4x4 in the specialist and 2x2 in the preview. Dropout is off, since ten epochs do not
overfit. A tenth of the training images is held out for the choice of a threshold.
"""

from basisnet_jax import base_config, config


def get_config(variant=None):
  """Returns the recipe, with the variants (comma-separated) applied."""
  c = base_config.get_config()
  c.name = 'tiny_imagenet'

  c.model.resolution = 32
  c.model.num_classes = 200  # Costs are counted without the data.
  c.model.width = 1 / 16
  c.model.dropout = 0.0
  c.model.output_stride = 8
  c.model.specialist = 'resnet_10'
  c.model.num_bases = 8
  c.model.based_layers = 'stage_[234]'
  c.model.lightweight.name = 'resnet_10'
  c.model.lightweight.resolution = 16
  c.model.lightweight.width = 1 / 16
  c.model.lightweight.dropout = 0.0
  c.model.lightweight.output_stride = 8
  c.model.coefficients.feature_gradient = 0.0
  c.model.coefficients.uniform_mix = 1.0
  c.model.coefficients.uniform_mix_epochs = 3.0
  c.model.refine = 1.0
  c.init.bases_correlation = 0.9

  c.data.name = 'tiny_imagenet40k'
  c.data.train_split = 'train[:90%]'
  c.data.heldout_split = 'train[90%:]'
  c.data.crop = 'pad'
  c.data.eval_crop = 1.0
  c.data.eval_resize = 'bicubic'

  c.training.batch_size = 64
  c.training.epochs = 10.0
  c.loss.label_smoothing = 0.0
  c.optimizer.name = 'sgd'
  c.optimizer.schedule = 'cosine'
  c.optimizer.learning_rate = 0.3
  c.optimizer.scale_bases = True
  c.optimizer.warmup_epochs = 1.0
  c.optimizer.weight_decay = 3e-4
  c.ema_decay = 0.998
  c.evaluation.batch_size = 500
  c.evaluation.every_epochs = 10.0
  c.logging.every_steps = 50
  return config.apply_variants(c, variant, {'static': {'model.name': 'resnet_10'}})
