"""BasisNet in JAX and Flax: two-stage, input-adaptive image classification.

A lightweight network previews an image and gives a first prediction and combination coefficients.
If it is not sure, the coefficients blend stored bases into a specialist made for this one image,
which gives the answer.

Where to begin:

- `basisnet_jax.load` predicts for images with a trained run
  (`basisnet_jax.inference.predictor.Predictor`).
- `basisnet_jax.models.create` makes a BasisNet from any two Flax networks, or a network by name;
  `basisnet_jax.models.basisnet.BasisNet` has its two stages, `preview` and `specialize`.
- `basisnet_jax.models.cost.count` counts multiply-adds and parameters.
- `basisnet_jax.training.loop.train_and_evaluate` trains a recipe, whose keys
  `basisnet_jax.base_config` explains.
- `basisnet_jax.inference.early_exit.make_predict` is early termination in one compiled function,
  `basisnet_jax.inference.streaming.StreamingPredictor` runs both stages side by side.
- `basisnet_jax.evaluation.early_exit` has the cost and accuracy of every threshold,
  `basisnet_jax.evaluation.thresholds` the choice of one.

The program, `python -m basisnet_jax.main`, does all of it from a terminal; see the README and the
pages beside it in `docs/`.
"""

__version__ = '0.1.0'
__all__ = ['load']


def __getattr__(name):
  # Imported on demand: importing one part of the package does not wait for the others.
  if name == 'load':
    from basisnet_jax.predict import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
