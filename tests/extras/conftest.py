"""What is imported first: Triton, PyTorch's compiler, which ends a process that has TensorFlow.

Both bring an LLVM, and Triton would find that of TensorFlow (tensorflow/tensorflow#124205).
"""

import contextlib

with contextlib.suppress(ImportError):
  import triton  # noqa: F401
