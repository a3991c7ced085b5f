"""BasisNet-MobileNetV3 on ImageNet: the main recipe.

  python -m basisnet_jax.main --config=configs/mnv3.py --workdir=gs://BUCKET/mnv3 \
      --config.data.data_dir=gs://BUCKET/tensorflow_datasets
  python -m basisnet_jax.main --config=configs/mnv3.py --mode=cost
  python -m basisnet_jax.main --config=configs/mnv3.py:k8    # another number of bases

Data: imagenet2012 as TFDS prepares it; 2% of the training images are held out for the choice of the
early-termination threshold.
Cost: 291.6M MAdds, 30.3M parameters (the paper's BasisNet-MobileNetV3: 290M MAdds).
Hardware: the TPUs or GPUs of one host; the batch of 2,048 is split over all of them.
Hours: 439 million images divided by the machine's images/s. One H200 took 7,200 images/s in batches
of 128 (the step alone, without input): 17 hours. No more of the recipe has been run.
Expected result: unknown; nobody has trained this recipe yet. The paper reports 80.3% top-1, and
80.0% at 198M MAdds with early termination, from a recipe that is not public.

With a teacher, trained first:
  python -m basisnet_jax.main --config=configs/mnv3.py:teacher --workdir=gs://BUCKET/teacher ...
  python -m basisnet_jax.main --config=configs/mnv3.py --workdir=gs://BUCKET/mnv3 ... \
      --config.distillation.teacher.workdir=gs://BUCKET/teacher

Sources. Architecture: ours, chosen so that the count matches the paper's total; the paper's stage
1, K and based layers are unknown (docs/performance.md explains this choice). Optimizer, schedule,
label smoothing, average: EfficientNet's (Tan & Le 2019; 350 epochs, learning rate 0.016 per 256
images). AutoAugment: EfficientNet's and MobileNetV3's later recipes. Mixup 0.2: from DCD (Li et al.
2021), which also has dynamic kernels. The threshold's goal, 0.3 points: the loss in the paper.
Ours: annealing of the coefficients, dropout of bases (more weights overfit more), EfficientNet-B2
as the teacher.
"""

from basisnet_jax import base_config, config


def get_config(variant=None):
  """Returns the recipe, with the variants (comma-separated) applied."""
  c = base_config.get_config()
  c.name = 'mnv3'
  c.model.dtype = 'bfloat16'
  # The body only. In the head (960 to 1280, after the mean over positions), bases would be as large
  # as all others together, and reading them would take half of a single image's specialist time.
  c.model.based_layers = r'(stem|block_\d+/(expand|depthwise|project)|last)/conv'
  c.model.lightweight.resolution = 208
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
      'k8': {'model.num_bases': 8},
      'k16': {'model.num_bases': 16},
      'float32': {'model.dtype': 'float32'},
      # In all other layers, runtimes on phones are slow with kernels that are computed at run time.
      'pointwise': {'model.based_layers': r'(block_\d+/(expand|project)|last)/conv'},
      'teacher': {
        'model.name': 'efficientnet_b2',
        'model.resolution': 260,
        'model.dropout': 0.3,
        'model.stochastic_depth': 0.2,
      },
      # The ablations: no synthesis, each stage alone, and the peers' routing.
      'cascade': {'model.name': 'cascade'},
      'condconv': {
        'model.name': 'condconv_mobilenet_v3_large',
        'model.based_layers': '',
        'model.num_bases': 8,
        'model.coefficients.uniform_mix': 0.0,
      },
      'dynamic_convolution': {
        'model.name': 'dynamic_convolution_mobilenet_v3_large',
        'model.based_layers': '',
        'model.num_bases': 4,
        'model.coefficients.uniform_mix': 0.0,
        'model.coefficients.temperature_epochs': 10.0,  # From 30, as its authors do.
      },
      'large': {'model.name': 'mobilenet_v3_large'},
      'small': {'model.name': 'mobilenet_v3_small', 'model.resolution': 208},
    },
  )
