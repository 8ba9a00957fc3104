/* Serves a SavedModel by TensorFlow's C API alone: load_saved_model OPS MODEL INPUT OUTPUT ROWS COLUMNS X.
   X is a file of float32; the outputs are printed. No Python takes part. */
#include <stdio.h>
#include <stdlib.h>

#include "tensorflow/c/c_api.h"

static void Check(const TF_Status* status, const char* step) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s: %s\n", step, TF_Message(status));
    exit(1);
  }
}

static void Keep(void* data, size_t length, void* arg) {
  (void)data;
  (void)length;
  (void)arg;
}

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  TF_Status* status = TF_NewStatus();
  TF_LoadLibrary(argv[1], status);
  Check(status, "TF_LoadLibrary");

  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[2], tags, 1, graph, NULL, status);
  Check(status, "TF_LoadSessionFromSavedModel");

  const int64_t shape[] = {atoll(argv[5]), atoll(argv[6])};
  const size_t bytes = (size_t)(shape[0] * shape[1]) * sizeof(float);
  float* x = malloc(bytes);
  FILE* file = fopen(argv[7], "rb");
  if (file == NULL || fread(x, 1, bytes, file) != bytes) return 3;
  fclose(file);
  TF_Output input = {TF_GraphOperationByName(graph, argv[3]), 0};
  TF_Output output = {TF_GraphOperationByName(graph, argv[4]), 0};
  if (input.oper == NULL || output.oper == NULL) return 4;
  TF_Tensor* x_tensor = TF_NewTensor(TF_FLOAT, shape, 2, x, bytes, Keep, NULL);
  TF_Tensor* y_tensor = NULL;
  TF_SessionRun(session, NULL, &input, &x_tensor, 1, &output, &y_tensor, 1, NULL, 0, NULL, status);
  Check(status, "TF_SessionRun");

  const float* y = TF_TensorData(y_tensor);
  for (size_t i = 0; i < TF_TensorByteSize(y_tensor) / sizeof(float); ++i) printf("%.9g\n", y[i]);
  TF_DeleteTensor(x_tensor);
  TF_DeleteTensor(y_tensor);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  free(x);
  return 0;
}
