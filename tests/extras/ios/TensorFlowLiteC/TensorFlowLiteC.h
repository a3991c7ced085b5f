/* LiteRT's C interface, as far as it is asked: types and declarations as they are published. */
#pragma once

#include <stddef.h>

typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;
typedef struct TfLiteModel TfLiteModel;
typedef struct TfLiteInterpreterOptions TfLiteInterpreterOptions;
typedef struct TfLiteInterpreter TfLiteInterpreter;
typedef struct TfLiteSignatureRunner TfLiteSignatureRunner;
typedef struct TfLiteTensor TfLiteTensor;

TfLiteModel *TfLiteModelCreateFromFile(const char *model_path);
TfLiteInterpreter *TfLiteInterpreterCreate(
    const TfLiteModel *model, const TfLiteInterpreterOptions *optional_options);
TfLiteSignatureRunner *TfLiteInterpreterGetSignatureRunner(
    const TfLiteInterpreter *interpreter, const char *signature_key);
TfLiteStatus TfLiteSignatureRunnerAllocateTensors(TfLiteSignatureRunner *signature_runner);
TfLiteTensor *TfLiteSignatureRunnerGetInputTensor(
    TfLiteSignatureRunner *signature_runner, const char *input_name);
TfLiteStatus TfLiteSignatureRunnerInvoke(TfLiteSignatureRunner *signature_runner);
const TfLiteTensor *TfLiteSignatureRunnerGetOutputTensor(
    const TfLiteSignatureRunner *signature_runner, const char *output_name);
TfLiteStatus TfLiteTensorCopyFromBuffer(
    TfLiteTensor *tensor, const void *input_data, size_t input_data_size);
TfLiteStatus TfLiteTensorCopyToBuffer(
    const TfLiteTensor *output_tensor, void *output_data, size_t output_data_size);
