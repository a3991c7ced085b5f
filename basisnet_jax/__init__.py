"""BasisNet in JAX and Flax: two-stage, input-adaptive image classification.

A lightweight network previews an image and gives a first prediction and combination coefficients.
If it is not sure, the coefficients blend stored bases into a specialist made for this one image,
which gives the answer.

Where to begin:

- `basisnet_jax.load` answers for images with what a run has trained
  (`basisnet_jax.inference.predictor.Predictor`).
- `basisnet_jax.models.create` makes a BasisNet of any two Flax networks, or a network by name;
  `basisnet_jax.models.basisnet.BasisNet` has its two stages, `preview` and `specialize`.
- `basisnet_jax.models.cost.count` counts multiply-adds and parameters.
- `basisnet_jax.training.loop.train_and_evaluate` trains by a recipe, whose keys are explained in
  `basisnet_jax.base_config`.
- `basisnet_jax.inference.early_exit.make_predict` is early termination in one compiled function,
  `basisnet_jax.inference.streaming.StreamingPredictor` both stages beside each other.
- `basisnet_jax.evaluation.early_exit` has the cost and accuracy of every threshold,
  `basisnet_jax.evaluation.thresholds` the choice of one.

The program, `python -m basisnet_jax.main`, does all of it from a terminal; see the README and the
pages beside it in `docs/`.
"""

__version__ = '0.1.0'
__all__ = ['load']


def __getattr__(name):
  # Found when it is asked for: whoever imports a part of the package waits for no other.
  if name == 'load':
    from basisnet_jax.predict import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
