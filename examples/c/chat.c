/* Turn after turn on one sequence, of which each turn computes what is new: chat MODEL.hyc TURN... C99, and C++11. */
#include <hyc.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 4096 };

static int failed(hyc_error *error) {
  const char *help = hyc_error_help(error);
  fprintf(stderr, "error: %s\n", hyc_error_message(error));
  if (help) fprintf(stderr, "  help: %s\n", help);
  hyc_error_free(error);
  return 1;
}

static int32_t print_text(const hyc_event *event, void *user) {
  (void)user;
  if (event->kind == HYC_EVENT_TEXT) fwrite(event->text, 1, event->text_len, stdout);
  return 0;
}

/* Says a turn and prints the answer; text has all that was said, *held tokens of it. */
static int turn(const hyc_model *model, hyc_session *session, uint64_t sequence, const hyc_options *options,
                const char *said, uint32_t *text, size_t *held) {
  hyc_error *error = NULL;
  hyc_generation *generation = NULL;
  size_t count = 0, answered = 0;
  int result = 0;
  hyc_status status =
      hyc_model_encode(model, said, strlen(said), *held > 0, text + *held, MOST - *held, &count, &error);
  if (status == HYC_SHORT) {
    fprintf(stderr, "error: the conversation is too long\n");
    return 1;
  }
  if (status != HYC_OK) return failed(error);
  *held += count;
  printf("%s", said);
  if (hyc_generate_in(session, sequence, text, *held, options, &generation, &error) != HYC_OK) return failed(error);
  status = hyc_generation_run(generation, print_text, NULL, &error);
  if (status == HYC_OK) status = hyc_generation_tokens(generation, text + *held, MOST - *held, &answered, &error);
  if (status != HYC_OK) result = failed(error);
  *held += answered;
  hyc_generation_free(generation);
  printf("\n");
  return result;
}

int main(int argc, char **argv) {
  static uint32_t text[MOST];
  hyc_error *error = NULL;
  hyc_model *model = NULL;
  hyc_session *session = NULL;
  hyc_options *options = hyc_options_new();
  uint64_t sequence = 0;
  size_t held = 0;
  const char *path = argc > 1 ? argv[1] : "";
  int at, result = 0;

  hyc_options_set_max_new_tokens(options, 16);
  if (hyc_model_load(path, strlen(path), NULL, &model, &error) != HYC_OK ||
      hyc_session_new(model, NULL, &session, &error) != HYC_OK ||
      hyc_session_add_sequence(session, &sequence, &error) != HYC_OK) {
    result = failed(error);
  }
  for (at = 2; at < argc && result == 0; at++) {
    result = turn(model, session, sequence, options, argv[at], text, &held);
  }
  hyc_options_free(options);
  hyc_session_free(session);
  hyc_model_free(model);
  return result;
}
