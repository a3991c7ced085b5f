"""The base recipe: every key, what it means, and its default.

Recipes (`configs/*.py`) call `get_config` and override a few keys. The result is
locked: a key that is not listed here is an error, so a typo cannot pass silently.
The defaults are ours; what the paper used is unknown unless stated otherwise.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns the locked base recipe: BasisNet-MobileNetV3 on ImageNet."""
  c = ml_collections.ConfigDict()
  c.name = 'base'  # The recipe's name; the default workdir is runs/<name>.
  c.seed = 0  # Determines everything random: init, data order, dropout.

  # `model.name` is any of `basisnet_jax.models.names()`, or 'module:Class' for a network of your
  # own. This first group of keys describes it or, for 'basisnet' and 'cascade', its second stage.
  c.model = m = ml_collections.ConfigDict()
  m.name = 'basisnet'
  m.resolution = 224  # Height and width of the images, pixels.
  m.num_classes = config_dict.placeholder(int)  # None: the dataset's number.
  m.width = 1.0  # Multiplier of the channel counts.
  m.dropout = 0.2  # Dropout rate before the classifier.
  # Rate at which training drops the last residual block, independently for each image; earlier
  # blocks are dropped linearly less often.
  m.stochastic_depth = 0.0
  m.output_stride = 32  # Input size divided by the last feature map's: 32, 16, 8, ...
  # Momentum of batch normalisation's running statistics, in all stages; lower it for short runs.
  m.norm_momentum = 0.99
  # Trained weights may need other values here (table in `models.pretrained`); None: the network's.
  m.norm_epsilon = config_dict.placeholder(float)
  m.padding = config_dict.placeholder(str)  # 'same' (TensorFlow's) or 'symmetric' (PyTorch's).
  m.pixel_mean = (127.5, 127.5, 127.5)  # For each channel, in pixel values from 0 to 255.
  m.pixel_std = (127.5, 127.5, 127.5)
  m.dtype = 'float32'  # Dtype of the computation, or 'bfloat16'; parameters stay float32.
  m.once_for_all = ofa = ml_collections.ConfigDict()  # Only for the network 'once_for_all'.
  ofa.depths = (4, 4, 4, 4, 4)  # Blocks in each stage, 1 to 4.
  ofa.kernels = (7,) * 20  # For each block, four per stage (those beyond the depth are ignored).
  ofa.expansions = (6,) * 20  # Likewise.
  # For 'basisnet', 'condconv_...' and 'dynamic_convolution_...'.
  m.num_bases = 16  # K.
  # Regular expression for the paths of the layers that hold bases. '' selects all convolutions and
  # dense layers except classifiers and squeeze-excites or, in 'condconv_...' and
  # 'dynamic_convolution_...', the layers that their authors chose.
  m.based_layers = ''
  # This second group is only for 'basisnet' and its ablation, the plain 'cascade'.
  m.specialist = 'mobilenet_v3_large'  # The second stage; 'basisnet' lifts it into bases.
  # The final logits are the specialist's plus `refine` times the first prediction's. No gradient
  # flows through the latter: the specialist learns what they lack. Not in the paper. 0 is off.
  m.refine = 0.0
  m.lightweight = light = ml_collections.ConfigDict()
  light.name = 'mobilenet_v3_small'
  light.resolution = 160  # The images are resized to this on the device.
  light.width = 1.0
  light.dropout = 0.2
  light.stochastic_depth = 0.0
  light.output_stride = 32
  light.norm_epsilon = config_dict.placeholder(float)
  light.padding = config_dict.placeholder(str)
  light.pixel_mean = (127.5, 127.5, 127.5)
  light.pixel_std = (127.5, 127.5, 127.5)
  # Temperature and uniform mix also apply to 'condconv_...' and 'dynamic_convolution_...'.
  m.coefficients = k = ml_collections.ConfigDict()
  k.activation = 'softmax'  # Or 'sigmoid'.
  k.shared = False  # One vector for all layers instead of one for each.
  k.temperature = 1.0  # Divides the head's outputs before the activation.
  # Annealing, only in training: linear from `temperature_start` to `temperature` over
  # `temperature_epochs`; 0 epochs is off.
  k.temperature_start = 30.0  # As in dynamic convolution.
  k.temperature_epochs = 0.0
  # Factor of the gradient from the coefficients to the lightweight network: 1 trains end to end,
  # 0 leaves that network to its own loss (its first prediction gets better).
  k.feature_gradient = 1.0
  # Annealing: (1 - mix) * coefficients + mix / K, where mix stays `uniform_mix` for
  # `uniform_mix_hold_epochs` and then falls linearly to 0 over `uniform_mix_epochs`. This keeps
  # every basis in training.
  k.uniform_mix = 0.0
  k.uniform_mix_hold_epochs = 0.0
  k.uniform_mix_epochs = 0.0
  # Probability with which training shuts a basis off, independently for each image and layer; the
  # coefficients of the others, of which at least one stays on, make up for it.
  k.basis_dropout = 0.0

  # Trained weights to start from (`models.pretrained` says which files it reads).
  c.init = i = ml_collections.ConfigDict()
  # Correlation between the bases of a layer, in [0, 1]: at 0 they are drawn independently, near 1
  # they start as one kernel with small differences.
  i.bases_correlation = 0.0
  i.weights = ''  # File for the second stage, or the single network; '': random initialisation.
  i.lightweight_weights = ''  # Likewise for the lightweight network.
  i.classifier = True  # False: classifiers are initialised at random, for other classes.
  # 'basisnet' copies each trained kernel into bases, perturbed by this share of the kernel's
  # standard deviation, or they would stay equal. It still predicts as the trained network does.
  i.perturbation = 0.1

  c.data = d = ml_collections.ConfigDict()
  # A folder in TFDS's format inside data_dir, the name of a TFDS dataset, or a folder of photos
  # with train/<class>/*.jpg, tried in this order; './beans' is always a folder.
  d.name = 'imagenet2012'
  d.data_dir = ''  # Folder of the datasets; '' is TFDS's default (~/tensorflow_datasets).
  d.train_split = 'train'
  d.eval_split = 'validation'
  # Images on which temperatures are fitted and the threshold is chosen (`early_exit`); neither
  # training nor evaluation may see them: 'train[98%:]' with train_split 'train[:98%]'. '' is none.
  d.heldout_split = ''
  # The training crop: 'area' (random area and aspect ratio) or 'pad' (pad, then shift).
  d.crop = 'area'
  d.crop_min_area = 0.08  # For 'area': the smallest share of the image.
  d.crop_padding = 4  # For 'pad': pixels at the training resolution.
  d.flip = True  # Mirror half of the training images left-right.
  # Then: '' (nothing), 'autoaugment_imagenet', 'autoaugment_cifar10' or 'randaugment'.
  d.augment = ''
  d.randaugment_layers = 2  # For 'randaugment': operations applied to each image.
  d.randaugment_magnitude = 9.0  # Their strength, 0 to 30; AutoAugment's maximum is 10.
  d.cutout = 0.0  # Gray square's side as a share of the image's; 0.5 is usual for CIFAR-10, 0 off.
  d.random_erasing = 0.0  # Probability that, last of all, noise replaces a rectangle.
  d.eval_crop = 0.875  # Share of the shorter side that evaluation sees, centred.
  # Resizing in evaluation and for the crop 'pad'; some trained weights need 'bicubic'.
  d.eval_resize = 'bilinear'
  # Encoded records in all hosts' buffers together; a split of up to 200 MB is shuffled as a whole.
  d.shuffle_buffer = 16384

  # An image that cannot be decoded: 'skip' leaves it out and counts it, 'stop' ends the run.
  d.broken_images = 'skip'

  c.training = t = ml_collections.ConfigDict()
  t.batch_size = 2048  # Over all devices.
  t.epochs = 350.0
  t.steps = config_dict.placeholder(int)  # If set, replaces epochs.
  # (share of the training, size) in order: from that share on, training images have this size in
  # pixels: ((0.0, 128), (0.3, 160), (0.7, 224)). Evaluation keeps model.resolution.
  t.resolutions = ()
  # Number of parts in which a batch goes through the model, one after another, to save memory.
  t.accumulation = 1
  # Rematerialisation: the preview runs a second time for its gradients, which takes less memory
  # (0.81 times at batch 32, 0.77 at 128) and more time (1.06 times on CPU). None does so only on
  # CPU, where the memory is the machine's.
  t.remat_preview = config_dict.placeholder(bool)
  # Alphas of mixup and CutMix, which mix each image with another on the same device (0.2 and 1.0
  # are usual); 0 is off.
  t.mixup = 0.0
  t.cutmix = 0.0
  t.cutmix_share = 0.5  # Share of images that get CutMix if both are on; the others get mixup.
  # The stages take turns of this many steps: first the lightweight network with the coefficient
  # head, then the specialist. Each learns in half of the steps, from the loss of both; batch
  # statistics are updated in all. 0 trains the stages together.
  t.alternate_steps = 0
  # On a loss that is not finite: 'stop' ends the run, 'skip' leaves that step out.
  t.nonfinite = 'stop'
  t.stall_timeout = 1800.0  # Seconds without progress after which a run ends, with exit code 3.

  c.loss = loss = ml_collections.ConfigDict()
  loss.label_smoothing = 0.1
  loss.lightweight_weight = 1.0  # loss = specialist + weight * lightweight.
  # For 'basisnet': weight of how unevenly a batch uses the bases, from 0 (all equally) to K - 1
  # (only one): the squared coefficient of variation, averaged over the layers.
  loss.load_balance = 0.0
  # For 'basisnet': weight of the entropy of an image's coefficients divided by log K, from 0 (one
  # basis) to 1 (all equal). Above 0 it makes each image choose few bases, below 0 many.
  loss.coefficient_entropy = 0.0
  # An image's weight in the specialist's loss is
  # 1 - exit_aware * sigmoid((confidence - exit_threshold) / exit_softness):
  # less where the lightweight stage is confident and would keep the image. 0 is off.
  loss.exit_aware = 0.0
  loss.exit_threshold = 0.7
  loss.exit_softness = 0.1

  # loss = (1 - weight) * cross-entropy + weight * temperature^2 * KL(teacher || student), where the
  # temperature softens both.
  c.distillation = s = ml_collections.ConfigDict()
  s.weight = 0.5  # 0: no teacher.
  s.temperature = 1.0
  s.lightweight = True  # The teacher also teaches the lightweight stage.
  # Weight with which the specialist teaches the lightweight stage, with or without another teacher:
  # (1 - from_specialist) * the above + from_specialist * temperature^2 * KL. 0 is off.
  s.from_specialist = 0.0
  s.teacher = teacher = ml_collections.ConfigDict()
  # Workdir of a run with any of our networks, which stays frozen; of two stages, the specialist
  # teaches.
  teacher.workdir = ''
  teacher.checkpoint = 'latest'  # Or 'best'.
  # Or, instead of a workdir, a network's name and its weights (`models.pretrained`).
  teacher.name = ''
  teacher.weights = ''
  teacher.resolution = 224  # The images are resized to this on the device.
  teacher.width = 1.0
  teacher.output_stride = 32
  teacher.norm_epsilon = config_dict.placeholder(float)
  teacher.padding = config_dict.placeholder(str)
  teacher.pixel_mean = (127.5, 127.5, 127.5)
  teacher.pixel_std = (127.5, 127.5, 127.5)

  c.optimizer = o = ml_collections.ConfigDict()
  o.name = 'rmsprop'  # 'rmsprop' (TensorFlow's form), 'sgd' or 'adamw'.
  o.learning_rate = 0.128  # The peak, for the batch size of this recipe.
  o.warmup_epochs = 5.0  # Linear, from 0.
  o.schedule = 'exponential'  # Or 'cosine' (to 0).
  o.decay_rate = 0.97  # For 'exponential': this factor ...
  o.decay_epochs = 2.4  # ... after every so many epochs (a staircase).
  o.momentum = 0.9  # For 'rmsprop' and 'sgd' (Nesterov).
  o.rmsprop_decay = 0.9
  o.epsilon = 1e-3  # 'rmsprop': inside the square root; 'adamw': outside (use 1e-8).
  o.beta1 = 0.9  # For 'adamw'.
  o.beta2 = 0.999
  o.weight_decay = 1e-5  # Kernels and bases only; decoupled for 'adamw', L2 otherwise.
  # Gradients are clipped to this global norm (each stage's own if the stages take turns), before
  # any weight decay; 0 does not clip.
  o.clip_norm = 0.0

  # (regular expression for parameter paths, factor of the learning rate) in order; the first match
  # counts, and 0 freezes parameters whose weights come from a file of `init`:
  # (('specialist/(stem|block_[1-4])/', 0.0),)
  o.learning_rate_factors = ()
  # Multiplies the gradients of bases by K, before weight decay. Only for 'sgd', where each basis
  # gets 1/K of a plain kernel's gradient if the coefficients sum to one.
  o.scale_bases = False

  c.ema_decay = 0.9999  # Averages parameters and batch statistics for evaluation; 0 is off.

  c.evaluation = e = ml_collections.ConfigDict()
  e.batch_size = 2048  # Over all devices.
  e.every_epochs = 5.0
  e.threshold = 0.7  # For early termination on dashboards and in the report until one is chosen.
  e.thresholds = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)  # For the printed table.
  e.checkpoint = 'latest'  # Or 'best' (by specialist top-1 on the evaluation split).

  # Early termination. If images are held out (`data.heldout_split`), a threshold is chosen at the
  # end of training and by --mode=evaluate, and kept in the workdir's early_exit.json.
  c.early_exit = x = ml_collections.ConfigDict()
  # Confidence of the lightweight network's answer, from 0 to 1, after calibration by temperature:
  # 'max_softmax', 'margin' (largest softmax minus the second largest) or 'entropy' (1 minus the
  # entropy as a share of its possible maximum).
  x.rule = 'max_softmax'
  x.choose = choose = ml_collections.ConfigDict()
  # The goal for the threshold: 'accuracy_loss', 'average_madds' or 'exit_rate' on the held-out
  # images, or 'guarantee': accuracy_loss on all future images, except with probability delta.
  choose.by = 'accuracy_loss'
  choose.accuracy_loss = 0.3  # At most; top-1 points below always running the specialist.
  choose.delta = 0.1  # Probability that a guarantee does not hold.
  choose.average_madds = 198.0  # At most; millions per image.
  choose.exit_rate = 0.35  # At least; the share of images that end early.

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every_steps = 1000
  c.checkpoint.keep = 3  # How many of the latest are kept, besides the best.

  # Axes of the device mesh and their sizes; -1 takes what the others leave. Batches are split over
  # all axes. (('data', -1), ('fsdp', 8)) with the preset 'fsdp' splits the state over 8 devices.
  c.sharding = ml_collections.ConfigDict()
  c.sharding.mesh = (('data', -1),)
  c.sharding.preset = 'replicated'  # Or 'fsdp': splits parameters, averages and optimizer state.
  # (regular expression, axes), tried before the preset's rules: `basisnet_jax.sharding.of_tree`.
  c.sharding.rules = ()

  c.logging = ml_collections.ConfigDict()
  c.logging.every_steps = 100
  return c.lock()
