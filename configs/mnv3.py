"""BasisNet-MobileNetV3 on ImageNet: the main recipe.

  python -m basisnet_jax.main --config=configs/mnv3.py --workdir=gs://BUCKET/mnv3 \
      --config.data.data_dir=gs://BUCKET/tensorflow_datasets
  python -m basisnet_jax.main --config=configs/mnv3.py --mode=cost
  python -m basisnet_jax.main --config=configs/mnv3.py:k8    # another number of bases

Data: imagenet2012 as TFDS prepares it.
Cost: 289.8M MAdds, 48.8M parameters (the paper's BasisNet-MobileNetV3: 290M MAdds).
Hardware: TPUs or GPUs of one host; the batch of 2,048 is over all of them.
Hours, expected result: not known; nobody has trained this recipe yet. The paper's is 80.3%
top-1, and 80.0% at 198M MAdds with early termination, by a recipe that is not public.

Sources. Architecture: ours, chosen so that the count meets the paper's total; what the paper
uses for stage 1, K and the based layers is not known. Optimizer, schedule, regularisation:
EfficientNet's (Tan & Le 2019; 350 epochs, learning rate 0.016 per 256 images). Annealing of
the coefficients: ours.
"""

from basisnet_jax import base_config, config


def get_config(variant=None):
  """Returns the recipe, with the variants (comma-separated) applied."""
  c = base_config.get_config()
  c.name = 'mnv3'
  c.model.dtype = 'bfloat16'
  c.model.coefficients.uniform_mix = 1.0
  c.model.coefficients.uniform_mix_epochs = 5.0
  return config.apply_variants(
    c,
    variant,
    {
      'k4': {'model.num_bases': 4},
      'k8': {'model.num_bases': 8},
      'k16': {'model.num_bases': 16},
      'float32': {'model.dtype': 'float32'},
      # The ablations: no synthesis, each stage alone, and the peers' routing.
      'cascade': {'model.name': 'cascade'},
      'condconv': {'model.name': 'condconv_mobilenet_v3_large', 'model.num_bases': 8},
      'dynamic_convolution': {
        'model.name': 'dynamic_convolution_mobilenet_v3_large',
        'model.num_bases': 4,
      },
      'large': {'model.name': 'mobilenet_v3_large'},
      'small': {'model.name': 'mobilenet_v3_small', 'model.resolution': 160},
    },
  )
