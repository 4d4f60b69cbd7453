/* Prompts in one batch, up to their first full stop: batch MODEL.hyc PROMPT... C99, and C++11. */
#include <hyc.h>
#include <stdio.h>
#include <string.h>

static int failed(hyc_error *error) {
  const char *help = hyc_error_help(error);
  fprintf(stderr, "error: %s\n", hyc_error_message(error));
  if (help) fprintf(stderr, "  help: %s\n", help);
  hyc_error_free(error);
  return 1;
}

static int add(const hyc_model *model, hyc_batch *batch, const hyc_options *options, const char *prompt) {
  uint32_t tokens[512];
  size_t count = 0, index = 0;
  hyc_error *error = NULL;
  hyc_status status = hyc_model_encode(model, prompt, strlen(prompt), false, tokens, 512, &count, &error);
  if (status == HYC_OK) status = hyc_batch_add(batch, tokens, count, options, &index, &error);
  return status == HYC_OK ? 0 : failed(error);
}

static int run(hyc_batch *batch) {
  hyc_error *error = NULL;
  hyc_event event;
  char text[4096];
  size_t len = 0;
  hyc_finish finish = HYC_FINISH_LENGTH;
  for (;;) {
    hyc_status status;
    event.size = sizeof event;
    status = hyc_batch_next(batch, &event, &error);
    if (status == HYC_END) return 0;
    if (status != HYC_OK) return failed(error);
    if (event.kind != HYC_EVENT_END) continue;
    status = hyc_batch_result(batch, event.index, text, sizeof text, &len, &finish, &error);
    if (status != HYC_OK) return failed(error);
    printf("%lu %u %.*s\n", (unsigned long)event.index, (unsigned)finish, (int)len, text);
  }
}

int main(int argc, char **argv) {
  hyc_error *error = NULL;
  hyc_model *model = NULL;
  hyc_session *session = NULL;
  hyc_batch *batch = NULL;
  hyc_options *options = hyc_options_new();
  const char *path = argc > 1 ? argv[1] : "";
  int at, result = 0;

  hyc_options_set_max_new_tokens(options, 24);
  hyc_options_add_stop(options, ".", 1);
  hyc_options_add_stop(options, "\n", 1);
  if (hyc_model_load(path, strlen(path), NULL, &model, &error) != HYC_OK ||
      hyc_session_new(model, NULL, &session, &error) != HYC_OK ||
      hyc_batch_new(session, &batch, &error) != HYC_OK) {
    result = failed(error);
  }
  for (at = 2; at < argc && result == 0; at++) result = add(model, batch, options, argv[at]);
  if (result == 0) result = run(batch);
  hyc_batch_free(batch);
  hyc_options_free(options);
  hyc_session_free(session);
  hyc_model_free(model);
  return result;
}
