/* A README's C, and LiteRT's functions, which ask Python's that is at the pointer beside each. */
#include "network.c"

#define ASKS_PYTHON(result, name, parameters, arguments) \
  result (*python_##name) parameters;                    \
  result name parameters { return python_##name arguments; }

ASKS_PYTHON(TfLiteModel *, TfLiteModelCreateFromFile, (const char *path), (path))
ASKS_PYTHON(TfLiteInterpreter *, TfLiteInterpreterCreate,
            (const TfLiteModel *model, const TfLiteInterpreterOptions *options), (model, options))
ASKS_PYTHON(TfLiteSignatureRunner *, TfLiteInterpreterGetSignatureRunner,
            (const TfLiteInterpreter *interpreter, const char *key), (interpreter, key))
ASKS_PYTHON(TfLiteStatus, TfLiteSignatureRunnerAllocateTensors, (TfLiteSignatureRunner *runner),
            (runner))
ASKS_PYTHON(TfLiteTensor *, TfLiteSignatureRunnerGetInputTensor,
            (TfLiteSignatureRunner *runner, const char *name), (runner, name))
ASKS_PYTHON(TfLiteStatus, TfLiteSignatureRunnerInvoke, (TfLiteSignatureRunner *runner), (runner))
ASKS_PYTHON(const TfLiteTensor *, TfLiteSignatureRunnerGetOutputTensor,
            (const TfLiteSignatureRunner *runner, const char *name), (runner, name))
ASKS_PYTHON(TfLiteStatus, TfLiteTensorCopyFromBuffer,
            (TfLiteTensor *tensor, const void *data, size_t size), (tensor, data, size))
ASKS_PYTHON(TfLiteStatus, TfLiteTensorCopyToBuffer,
            (const TfLiteTensor *tensor, void *data, size_t size), (tensor, data, size))

bool seen(const uint8_t *rgba, int width, int height, float *images) {
  return pixels(rgba, width, height, images);
}
