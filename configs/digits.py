"""Handwritten digits: the two-minute demo.

  make demo
  python -m basisnet_jax.main --config=configs/digits.py

Data: scikit-learn's 1,797 digits, 8x8 gray, enlarged to 16x16: 1,150 for training, 287 held out for
the choice of a threshold, 360 for testing.
Hardware: 2 CPU cores, about two minutes.
Seen: lightweight 98.33%, specialist 99.17% top-1 on the test images; at the chosen threshold,
99.17% for 1.196M of 7.943M MAdds.
"""

from basisnet_jax import base_config, config


def get_config(variant=None):
  """Returns the recipe."""
  c = base_config.get_config()
  c.name = 'digits'

  c.model.resolution = 16
  c.model.width = 0.5
  c.model.output_stride = 4
  c.model.specialist = 'mobilenet_v3_small'
  c.model.norm_momentum = 0.9  # A short run.
  c.model.num_bases = 4
  c.model.lightweight.name = 'mobilenet_v3_small'
  c.model.lightweight.resolution = 16
  c.model.lightweight.width = 0.25
  c.model.lightweight.output_stride = 16
  c.model.coefficients.feature_gradient = 0.0
  c.model.coefficients.uniform_mix = 1.0
  c.model.coefficients.uniform_mix_epochs = 22.0

  c.data.name = 'digits'
  c.data.train_split = 'train[:80%]'
  c.data.heldout_split = 'train[80%:]'
  c.data.eval_split = 'test'
  c.data.crop = 'pad'
  c.data.crop_padding = 2
  c.data.flip = False
  c.data.eval_crop = 1.0

  c.training.batch_size = 96
  c.training.epochs = 34.0
  c.training.remat_preview = False  # There is enough memory.
  c.optimizer.name = 'adamw'
  c.optimizer.schedule = 'cosine'
  c.optimizer.learning_rate = 1e-2
  c.optimizer.epsilon = 1e-8
  c.optimizer.weight_decay = 0.02
  c.optimizer.warmup_epochs = 2.5
  c.ema_decay = 0.98
  c.evaluation.batch_size = 120
  c.evaluation.every_epochs = 17.0
  c.checkpoint.every_steps = 200
  c.logging.every_steps = 20
  return config.apply_variants(c, variant, {'k2': {'model.num_bases': 2}})
