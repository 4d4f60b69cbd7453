/* Continues a prompt: generate MODEL.hyc PROMPT. C99, and C++11. */
#include <hyc.h>
#include <stdio.h>
#include <string.h>

/* Prints an error with its help, and frees it. */
static int failed(hyc_error *error) {
  const char *help = hyc_error_help(error);
  fprintf(stderr, "error: %s\n", hyc_error_message(error));
  if (help) fprintf(stderr, "  help: %s\n", help);
  hyc_error_free(error);
  return 1;
}

int main(int argc, char **argv) {
  hyc_error *error = NULL;
  hyc_model *model = NULL;
  hyc_session *session = NULL;
  hyc_generation *generation = NULL;
  const char *path = argc > 1 ? argv[1] : "";
  const char *prompt = argc > 2 ? argv[2] : "";
  uint32_t tokens[512];
  size_t count = 0;
  hyc_event event;
  hyc_status status;
  int result = 0;

  if (hyc_model_load(path, strlen(path), NULL, &model, &error) != HYC_OK) return failed(error);
  status = hyc_model_encode(model, prompt, strlen(prompt), false, tokens, 512, &count, &error);
  if (status == HYC_SHORT) {
    fprintf(stderr, "error: the prompt has %lu tokens\n", (unsigned long)count);
    result = 1;
  } else if (status != HYC_OK || hyc_session_new(model, NULL, &session, &error) != HYC_OK ||
             hyc_generate(session, tokens, count, NULL, &generation, &error) != HYC_OK) {
    result = failed(error);
  }
  while (result == 0) {
    event.size = sizeof event;
    status = hyc_generation_next(generation, &event, &error);
    if (status == HYC_END) break;
    if (status != HYC_OK) result = failed(error);
    if (status == HYC_OK && event.kind == HYC_EVENT_TEXT) fwrite(event.text, 1, event.text_len, stdout);
  }
  if (result == 0) printf("\n");
  hyc_generation_free(generation);
  hyc_session_free(session);
  hyc_model_free(model);
  return result;
}
