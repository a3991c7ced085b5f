"""The base recipe: every key there is, what it means, and its default.

Recipes (`configs/*.py`) call `get_config` and override a few keys. The result is
locked: a key that is not listed here is an error, so a typo cannot pass silently.
The defaults are ours; what the paper used is unknown where not stated otherwise.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns the locked base recipe: BasisNet-MobileNetV3 on ImageNet."""
  c = ml_collections.ConfigDict()
  c.name = 'base'  # The recipe's name; the default workdir is runs/<name>.
  c.seed = 0  # Everything random follows from it: init, data order, dropout.

  # `model.name` is any of `basisnet_jax.models.names()`. The keys of this first
  # group describe that network, or, for 'basisnet' and 'cascade', its second stage.
  c.model = m = ml_collections.ConfigDict()
  m.name = 'basisnet'
  m.resolution = 224  # Height and width of the images, pixels.
  m.num_classes = config_dict.placeholder(int)  # None: the dataset's.
  m.width = 1.0  # Multiplier of the channel counts.
  m.dropout = 0.2  # Rate before the classifier.
  # Rate at which the last residual block is dropped in training, independently for each image;
  # earlier blocks are dropped linearly less often.
  m.stochastic_depth = 0.0
  m.output_stride = 32  # Input size over that of the last feature map: 32, 16, 8, ...
  # Momentum of the batch normalisation's running statistics, in all stages; less for short runs.
  m.norm_momentum = 0.99
  # As trained weights need it (`models.pretrained` has a table); None is the network's own.
  m.norm_epsilon = config_dict.placeholder(float)
  m.padding = config_dict.placeholder(str)  # 'same' (TensorFlow's) or 'symmetric' (PyTorch's).
  m.pixel_mean = (127.5, 127.5, 127.5)  # Per channel, in pixel values from 0 to 255.
  m.pixel_std = (127.5, 127.5, 127.5)
  m.dtype = 'float32'  # Of the computation, or bfloat16; parameters stay float32.
  m.once_for_all = ofa = ml_collections.ConfigDict()  # Only for the network of that name.
  ofa.depths = (4, 4, 4, 4, 4)  # Blocks of each stage, 1 to 4.
  ofa.kernels = (7,) * 20  # Of each block, four per stage (those beyond the depth are not used).
  ofa.expansions = (6,) * 20  # The same.
  # For 'basisnet', 'condconv_...' and 'dynamic_convolution_...'.
  m.num_bases = 16  # K.
  # Regular expression for the paths of the layers that hold bases. '' means all convolutions and
  # dense layers but classifiers and squeeze-excites; for the last two, what their authors chose.
  m.based_layers = ''
  # This second group is only for 'basisnet' and the plain 'cascade', its ablation.
  m.specialist = 'mobilenet_v3_large'  # The second stage; 'basisnet' lifts it into bases.
  # The final logits are the specialist's plus `refine` times the first prediction's, through
  # which no gradient flows: the specialist learns what that lacks. Not in the paper. 0 is off.
  m.refine = 0.0
  m.lightweight = light = ml_collections.ConfigDict()
  light.name = 'mobilenet_v3_small'
  light.resolution = 160  # The images are resized to it on the device.
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
  # Annealing, in training only: linear from `temperature_start` to `temperature`. 0 is off.
  k.temperature_start = 30.0  # As in dynamic convolution.
  k.temperature_epochs = 0.0
  # Factor of the gradient from the coefficients to the lightweight network: 1 is end to end;
  # with 0 that network has only its own loss (its first prediction gets better).
  k.feature_gradient = 1.0
  # Annealing: (1 - mix) * coefficients + mix / K, where mix stays `uniform_mix` for
  # `uniform_mix_hold_epochs` and then falls linearly to 0 over `uniform_mix_epochs`. It keeps every
  # basis in training.
  k.uniform_mix = 0.0
  k.uniform_mix_hold_epochs = 0.0
  k.uniform_mix_epochs = 0.0
  # Probability that a basis is dropped in training, independently for each image and layer; the
  # coefficients of the others (at least one) make up for it.
  k.basis_dropout = 0.0

  # Trained weights to start from (`models.pretrained` lists the files that it reads).
  c.init = i = ml_collections.ConfigDict()
  # Correlation of a layer's bases, in [0, 1]: 0 draws each independently; near 1 they start as one
  # kernel with small differences.
  i.bases_correlation = 0.0
  i.weights = ''  # A file for the second stage or the single network; '' starts from scratch.
  i.lightweight_weights = ''  # The same for the lightweight network.
  i.classifier = True  # False: the classifiers start from scratch, for other classes.
  # 'basisnet' turns the trained kernels into bases; noise of this share of a kernel's standard
  # deviation keeps them from staying equal. They still predict as the trained network does.
  i.perturbation = 0.1

  c.data = d = ml_collections.ConfigDict()
  # A folder in TFDS's format inside data_dir, a TFDS dataset's name, or a folder of photos with
  # train/<class>/*.jpg: whichever exists first, but './beans' is always a folder.
  d.name = 'imagenet2012'
  d.data_dir = ''  # Where the datasets are; '' is TFDS's default (~/tensorflow_datasets).
  d.train_split = 'train'
  d.eval_split = 'validation'
  # Images on which to fit temperatures and choose the threshold (`early_exit`), which neither
  # training nor evaluation may see: 'train[98%:]' beside the train_split 'train[:98%]'. '' is none.
  d.heldout_split = ''
  # The training crop: 'area' (of random area and aspect ratio) or 'pad' (pad, then shift).
  d.crop = 'area'
  d.crop_min_area = 0.08  # For 'area': the smallest share of the image.
  d.crop_padding = 4  # For 'pad': pixels at the training resolution.
  d.flip = True  # Mirror left-right half of the training images.
  # After that: '' (nothing), 'autoaugment_imagenet', 'autoaugment_cifar10' or 'randaugment'.
  d.augment = ''
  d.randaugment_layers = 2  # For 'randaugment': operations per image.
  d.randaugment_magnitude = 9.0  # How strong they are, 0 to 30; 10 is AutoAugment's greatest.
  d.cutout = 0.0  # Side of a gray square over the image's; 0.5 is usual for CIFAR-10, 0 is off.
  d.random_erasing = 0.0  # Probability that a rectangle is finally replaced by noise.
  d.eval_crop = 0.875  # Share of the shorter side that evaluation sees, centred.
  # For evaluation and the crop 'pad'; or 'bicubic', as some trained weights need it.
  d.eval_resize = 'bilinear'
  # Encoded records, over all hosts; a split of up to 200 MB is shuffled as a whole.
  d.shuffle_buffer = 16384

  # An image that cannot be decoded: 'skip' leaves it out and counts it, 'stop' ends the run.
  d.broken_images = 'skip'

  c.training = t = ml_collections.ConfigDict()
  t.batch_size = 2048  # Over all devices.
  t.epochs = 350.0
  t.steps = config_dict.placeholder(int)  # Instead of epochs, if set.
  # (share of the training, size) in order: from that share on, training images have this size in
  # pixels instead of model.resolution: ((0.0, 128), (0.3, 160), (0.7, 224)). Evaluation keeps it.
  t.resolutions = ()
  # A batch goes through the model in this many parts, one after another, which takes less memory.
  t.accumulation = 1
  # The preview runs again for its gradients: less memory (0.81 at batch 32, 0.77 at 128) for more
  # time (1.06 on CPU). None does so only on CPU, where the memory is the machine's.
  t.remat_preview = config_dict.placeholder(bool)
  # Alphas of mixup and CutMix, which mix each image with another of its device (0.2 and 1.0 are
  # usual); 0 is off.
  t.mixup = 0.0
  t.cutmix = 0.0
  t.cutmix_share = 0.5  # Of the images that get CutMix where both are on; the others get mixup.
  # The stages take turns of this many steps, first the lightweight network with the coefficient
  # head, then the specialist. Each learns in half of the steps, from the loss of both; batch
  # statistics are updated in all steps. 0 trains the stages together.
  t.alternate_steps = 0
  # A loss that is not finite: 'stop' ends the run, 'skip' leaves that step out.
  t.nonfinite = 'stop'
  t.stall_timeout = 1800.0  # Seconds after which a run without progress ends, with code 3.

  c.loss = loss = ml_collections.ConfigDict()
  loss.label_smoothing = 0.1
  loss.lightweight_weight = 1.0  # loss = specialist + weight * lightweight.
  # For 'basisnet': weight of how unevenly a batch uses the bases, from 0 (all equally) to K - 1
  # (one alone): the squared coefficient of variation, averaged over the layers.
  loss.load_balance = 0.0
  # For 'basisnet': weight of the entropy of an image's coefficients over log K, from 0 (one basis)
  # to 1 (all alike). Above 0 makes each image choose few bases, below 0 many.
  loss.coefficient_entropy = 0.0
  # An image counts 1 - exit_aware * sigmoid((confidence - exit_threshold) / exit_softness) in the
  # specialist's loss: less if the lightweight stage is confident and would keep it. 0 is off.
  loss.exit_aware = 0.0
  loss.exit_threshold = 0.7
  loss.exit_softness = 0.1

  # loss = (1 - weight) * cross-entropy + weight * temperature^2 * KL(teacher || student), softened.
  c.distillation = s = ml_collections.ConfigDict()
  s.weight = 0.5  # 0: no teacher.
  s.temperature = 1.0
  s.lightweight = True  # The teacher also teaches the lightweight stage.
  # The specialist teaches the lightweight stage, with or without another teacher, at this weight:
  # (1 - from_specialist) * the above + from_specialist * temperature^2 * KL. 0 is off.
  s.from_specialist = 0.0
  s.teacher = teacher = ml_collections.ConfigDict()
  # A run of ours, with any network, which trains no further; if it has two stages, the specialist
  # teaches.
  teacher.workdir = ''
  teacher.checkpoint = 'latest'  # Or 'best'.
  # Or, instead of a workdir, a network by name and its weights (`models.pretrained`).
  teacher.name = ''
  teacher.weights = ''
  teacher.resolution = 224  # The images are resized to it on the device.
  teacher.width = 1.0
  teacher.output_stride = 32
  teacher.norm_epsilon = config_dict.placeholder(float)
  teacher.padding = config_dict.placeholder(str)
  teacher.pixel_mean = (127.5, 127.5, 127.5)
  teacher.pixel_std = (127.5, 127.5, 127.5)

  c.optimizer = o = ml_collections.ConfigDict()
  o.name = 'rmsprop'  # 'rmsprop' (TensorFlow's form), 'sgd' or 'adamw'.
  o.learning_rate = 0.128  # The peak, at the batch size of this recipe.
  o.warmup_epochs = 5.0  # Linear, from 0.
  o.schedule = 'exponential'  # Or 'cosine' (to 0).
  o.decay_rate = 0.97  # For 'exponential': this factor ...
  o.decay_epochs = 2.4  # ... every so many epochs, in stairs.
  o.momentum = 0.9  # For 'rmsprop' and 'sgd' (Nesterov).
  o.rmsprop_decay = 0.9
  o.epsilon = 1e-3  # 'rmsprop': inside the square root; 'adamw': outside (use 1e-8).
  o.beta1 = 0.9  # For 'adamw'.
  o.beta2 = 0.999
  o.weight_decay = 1e-5  # Kernels and bases only; decoupled for 'adamw', L2 otherwise.
  # The gradients' largest global norm (of one stage if the stages take turns), before any weight
  # decay; 0 does not clip.
  o.clip_norm = 0.0

  # (regular expression for parameter paths, factor of the learning rate) in order; the first
  # that matches counts, and 0 freezes what gets its weights from a file of `init`:
  # (('specialist/(stem|block_[1-4])/', 0.0),)
  o.learning_rate_factors = ()
  # Multiplies the gradients of bases by K, before weight decay: only for 'sgd', where each gets
  # only a Kth of a plain kernel's gradient if the coefficients sum to one.
  o.scale_bases = False

  c.ema_decay = 0.9999  # Of parameters and batch statistics, used in evaluation; 0 is off.

  c.evaluation = e = ml_collections.ConfigDict()
  e.batch_size = 2048  # Over all devices.
  e.every_epochs = 5.0
  e.threshold = 0.7  # For early termination on dashboards and in the report until one is chosen.
  e.thresholds = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)  # Of the printed table.
  e.checkpoint = 'latest'  # Or 'best' (specialist top-1 on the evaluation split).

  # Early termination. With images held out (`data.heldout_split`) a threshold is chosen at the end
  # of training and by --mode=evaluate, and kept in the workdir's early_exit.json.
  c.early_exit = x = ml_collections.ConfigDict()
  # Confidence of the lightweight network's answer, from 0 to 1, after calibration by temperature:
  # 'max_softmax', 'margin' (the largest softmax less the second) or 'entropy' (1 less the entropy
  # over the largest possible one).
  x.rule = 'max_softmax'
  x.choose = choose = ml_collections.ConfigDict()
  # What the threshold must achieve: 'accuracy_loss', 'average_madds' or 'exit_rate' on the held-out
  # images, or 'guarantee': accuracy_loss on all future images, except with probability delta.
  choose.by = 'accuracy_loss'
  choose.accuracy_loss = 0.3  # At most; points of top-1 against always running the specialist.
  choose.delta = 0.1  # The probability that a guarantee does not hold.
  choose.average_madds = 198.0  # At most; millions per image.
  choose.exit_rate = 0.35  # At least; the share of images that end early.

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every_steps = 1000
  c.checkpoint.keep = 3  # This many of the latest; the best is kept besides.

  # Axes of the device mesh and their sizes; -1 is what the others leave. Batches are split over all
  # of them. (('data', -1), ('fsdp', 8)) with the preset 'fsdp' splits the state over 8.
  c.sharding = ml_collections.ConfigDict()
  c.sharding.mesh = (('data', -1),)
  c.sharding.preset = 'replicated'  # Or 'fsdp': splits parameters, averages and optimizer state.
  # (regular expression, axes), before the preset's; `basisnet_jax.sharding.of_tree` explains them.
  c.sharding.rules = ()

  c.logging = ml_collections.ConfigDict()
  c.logging.every_steps = 100
  return c.lock()
