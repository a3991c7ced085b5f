"""BasisNet-MobileNetV2 on ImageNet: like configs/mnv3.py, with MobileNetV2 as both stages.

  python -m basisnet_jax.main --config=configs/mnv2.py --workdir=gs://BUCKET/mnv2 \
      --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Cost: 369.0M MAdds, 21.3M parameters (the paper's BasisNet-MobileNetV2 is not public).
Data, hardware, hours, teacher, sources: see configs/mnv3.py. Nobody has trained this recipe yet.
"""

from basisnet_jax import base_config, config


def get_config(variant=None):
  """Returns the recipe, with the variants (comma-separated) applied."""
  c = base_config.get_config()
  c.name = 'mnv2'
  c.model.dtype = 'bfloat16'
  c.model.specialist = 'mobilenet_v2'
  c.model.num_bases = 8
  c.model.lightweight.name = 'mobilenet_v2'
  c.model.lightweight.width = 0.5
  c.model.coefficients.uniform_mix = 1.0
  c.model.coefficients.uniform_mix_epochs = 5.0
  c.model.coefficients.basis_dropout = 0.1
  c.data.train_split = 'train[:98%]'
  c.data.heldout_split = 'train[98%:]'
  c.data.augment = 'autoaugment_imagenet'
  c.training.mixup = 0.2
  return config.apply_variants(
    c,
    variant,
    {
      'k4': {'model.num_bases': 4},
      'k16': {'model.num_bases': 16},
      'float32': {'model.dtype': 'float32'},
      # The ablations: no synthesis, the second stage alone, and the peers' routing.
      'cascade': {'model.name': 'cascade'},
      'static': {'model.name': 'mobilenet_v2'},
      'condconv': {
        'model.name': 'condconv_mobilenet_v2',
        'model.num_bases': 8,
        'model.coefficients.uniform_mix': 0.0,
      },
      'dynamic_convolution': {
        'model.name': 'dynamic_convolution_mobilenet_v2',
        'model.num_bases': 4,
        'model.coefficients.uniform_mix': 0.0,
        'model.coefficients.temperature_epochs': 10.0,  # From 30, as its authors do.
      },
    },
  )
