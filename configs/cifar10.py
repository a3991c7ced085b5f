"""CIFAR-10 on a laptop.

  python -m basisnet_jax.main --config=configs/cifar10.py --config.data.data_dir=DATA_DIR

Without data_dir, TFDS downloads the data (170 MB) to ~/tensorflow_datasets.

Hardware: 2 CPU cores; 46 minutes on one of them.
Cost: 10.00M MAdds, of which 2.12M are stage 1.
Seen: lightweight 76.60%, specialist 85.33% top-1; at threshold 0.85, 85.10% for 6.28M on average.
Without bases in depthwise layers (:pointwise): 77.64% and 85.14%; at 0.85, 84.86% for 5.93M.
The backbone alone (:static), with the same number of steps: 85.01% for 6.17M.
All choices are ours. The specialist's feature maps end at 4x4 and the preview's at 3x3: ending at
2x2 cost a static network ten points after three epochs, at about equal MAdds. Bases are where the
weights are, from block 4 on. No gradient flows from the coefficients to the lightweight model: with
it, that model's own accuracy fell. A stronger preview exits more often, but makes the specialist
depend on it: with maps of 4x4 at 32 px, 76.5% and 78.9% (with AdamW). With AdamW at 1e-2 backbone
and specialist were worse, the specialist more so: 83.1% and 82.1%.
"""

from basisnet_jax import base_config, config


def _static(c):
  """The specialist's backbone alone."""
  c.model.name = c.model.specialist


def get_config(variant=None):
  """Returns the recipe."""
  c = base_config.get_config()
  c.name = 'cifar10'

  c.model.resolution = 32
  c.model.width = 0.5
  c.model.output_stride = 8
  c.model.specialist = 'mobilenet_v3_small'
  c.model.num_bases = 4
  c.model.based_layers = r'(block_([4-9]|1[01])/(?!squeeze)|last|head)'
  c.model.lightweight.name = 'mobilenet_v3_small'
  c.model.lightweight.resolution = 24
  c.model.lightweight.width = 0.35
  c.model.lightweight.output_stride = 8
  c.model.coefficients.feature_gradient = 0.0
  c.model.coefficients.uniform_mix = 1.0
  c.model.coefficients.uniform_mix_epochs = 2.5
  c.init.bases_correlation = 0.9

  c.data.name = 'cifar10'
  c.data.eval_split = 'test'
  c.data.crop = 'pad'
  c.data.eval_crop = 1.0

  c.training.batch_size = 128
  c.training.epochs = 8.0
  c.loss.label_smoothing = 0.0
  c.optimizer.name = 'sgd'
  c.optimizer.schedule = 'cosine'
  c.optimizer.learning_rate = 0.3
  c.optimizer.scale_bases = True
  c.optimizer.warmup_epochs = 1.0
  c.optimizer.weight_decay = 3e-4
  c.ema_decay = 0.998
  c.evaluation.batch_size = 500
  c.evaluation.every_epochs = 2.0
  c.logging.every_steps = 50
  return config.apply_variants(
    c,
    variant,
    {
      'k2': {'model.num_bases': 2},
      'k8': {'model.num_bases': 8},
      # What suits runtimes on phones (configs/mnv3.py).
      'pointwise': {'model.based_layers': r'(block_([4-9]|1[01])/(expand|project)|last|head)'},
      'static': _static,  # If combined with 'narrow', after it.
      # For configs/sweeps: narrow networks and 20 epochs, because more parameters do not help a
      # network that is still learning (these still are, even then). A tenth of the training images
      # is held out for the choice of a threshold.
      'narrow': {
        'model.dropout': 0.0,
        'model.num_bases': 8,
        'model.specialist': 'resnet_10',
        'model.resolution': 16,
        'model.width': 1 / 16,
        'model.output_stride': 4,
        'model.based_layers': 'stage_[234]',
        'model.lightweight.name': 'resnet_10',
        'model.lightweight.resolution': 12,
        'model.lightweight.width': 1 / 16,
        'model.lightweight.dropout': 0.0,
        'model.coefficients.uniform_mix_epochs': 6.0,
        'model.refine': 1.0,
        'data.train_split': 'train[:90%]',
        'data.heldout_split': 'train[90%:]',
        'data.crop_padding': 2,
        'data.eval_resize': 'bicubic',  # Sharper at this size.
        'training.batch_size': 64,
        'training.epochs': 20.0,
        'evaluation.every_epochs': 20.0,
      },
    },
  )
