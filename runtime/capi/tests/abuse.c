/* Everything that a caller can do wrong and a library can know of. C99, and C++11. */
#define _POSIX_C_SOURCE 200809L
#include <hyc.h>
#include <hyc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

const char *second_version(void);

#define CHECK(condition)                                             \
  do {                                                               \
    if (!(condition)) {                                              \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition);        \
      exit(1);                                                       \
    }                                                                \
  } while (0)

/* A call fails with a status and an error of the same kind, with a message and a help. */
#define FAILS(status, call)                                          \
  do {                                                               \
    hyc_error *error = NULL;                                         \
    hyc_status is = (call);                                          \
    if (is != (status)) {                                            \
      fprintf(stderr, "line %d: %s is %d: %s\n", __LINE__, #call, (int)is, hyc_error_message(error)); \
      exit(1);                                                       \
    }                                                                \
    CHECK(error != NULL && hyc_error_kind(error) == (status));       \
    CHECK(strlen(hyc_error_message(error)) > 0);                     \
    CHECK(hyc_error_help(error) != NULL);                            \
    hyc_error_free(error);                                           \
    CHECK(hyc_error_kind(error) == HYC_BAD_HANDLE);                  \
    hyc_error_free(error);                                           \
  } while (0)

#define OK(call) CHECK((call) == HYC_OK)

static const uint32_t PROMPT[] = {1, 2, 3};

/* NULL, in each argument of each call that takes one. */
static void nulls(hyc_model *model, hyc_session *session) {
  hyc_model *no_model = NULL;
  hyc_session *no_session = NULL;
  hyc_generation *no_generation = NULL;
  hyc_batch *no_batch = NULL;
  hyc_event event;
  hyc_finish finish;
  uint64_t number = 0, sequence = 0;
  uint32_t token = 0;
  size_t count = 0;
  bool has = false;
  float value = 0;

  memset(&event, 0, sizeof event);
  FAILS(HYC_BAD_INPUT, hyc_model_load(NULL, 3, NULL, &no_model, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_load("x", 1, NULL, NULL, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_load("no such file", 12, NULL, &no_model, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_from_static(NULL, 64, NULL, &no_model, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_from_static(NULL, 0, NULL, &no_model, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_linked(NULL, 1, NULL, 0, NULL, 0, NULL, &no_model, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_linked((const uint8_t *)"", 0, NULL, 1, NULL, 0, NULL, &no_model, &error));
  CHECK(no_model == NULL);
  hyc_model_free(NULL);
  CHECK(hyc_model_vocab(NULL) == 0 && hyc_model_max_context(NULL) == 0 && hyc_model_max_batch(NULL) == 0);
  CHECK(hyc_model_name(NULL) == NULL);
  FAILS(HYC_BAD_HANDLE, hyc_model_encode(NULL, "a", 1, false, &token, 1, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_encode(model, NULL, 1, false, &token, 1, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_encode(model, "\xff", 1, false, &token, 1, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_encode(model, "a", 1, false, NULL, 9, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_encode(model, "a", 1, false, &token, 1, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_model_decode(NULL, PROMPT, 3, NULL, 0, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_decode(model, NULL, 3, NULL, 0, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_decode(model, PROMPT, 3, NULL, 0, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_model_has_tokenizer(NULL, &has, &error));
  FAILS(HYC_BAD_INPUT, hyc_model_has_tokenizer(model, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_session_bytes(NULL, NULL, &number, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_bytes(model, NULL, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_session_new(NULL, NULL, &no_session, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_new(model, NULL, NULL, &error));
  hyc_session_free(NULL);
  FAILS(HYC_BAD_HANDLE, hyc_session_add_sequence(NULL, &sequence, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_add_sequence(session, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_session_remove_sequence(NULL, 1, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_remove_sequence(session, 99, &error));
  FAILS(HYC_BAD_HANDLE, hyc_session_fork(NULL, 1, &sequence, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_fork(session, 99, &sequence, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_fork(session, 1, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_session_truncate(NULL, 1, 0, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_truncate(session, 99, 0, &error));
  FAILS(HYC_BAD_HANDLE, hyc_session_tokens(NULL, 1, &token, 1, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_tokens(session, 99, &token, 1, &count, &error));
  FAILS(HYC_BAD_HANDLE, hyc_session_feed(NULL, 1, PROMPT, 3, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_feed(session, 99, PROMPT, 3, &error));
  FAILS(HYC_BAD_HANDLE, hyc_session_step(NULL, &number, &token, 1, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_step(session, &number, &token, 0, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_step(session, NULL, NULL, 99, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_session_output(NULL, 1, "logits", 6, &value, 1, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_output(session, 99, "logits", 6, &value, 1, &count, &error));
  FAILS(HYC_BAD_HANDLE, hyc_generate(NULL, PROMPT, 3, NULL, &no_generation, &error));
  FAILS(HYC_BAD_INPUT, hyc_generate(session, NULL, 3, NULL, &no_generation, &error));
  FAILS(HYC_BAD_INPUT, hyc_generate(session, PROMPT, 0, NULL, &no_generation, &error));
  FAILS(HYC_BAD_INPUT, hyc_generate(session, PROMPT, 3, NULL, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_generate_in(NULL, 1, PROMPT, 3, NULL, &no_generation, &error));
  FAILS(HYC_BAD_INPUT, hyc_generate_in(session, 99, PROMPT, 3, NULL, &no_generation, &error));
  FAILS(HYC_BAD_INPUT, hyc_generate_in(session, 1, PROMPT, 3, NULL, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_generation_next(NULL, &event, &error));
  FAILS(HYC_BAD_HANDLE, hyc_generation_run(NULL, NULL, NULL, &error));
  CHECK(hyc_generation_cancel(NULL) == HYC_BAD_HANDLE);
  FAILS(HYC_BAD_HANDLE, hyc_generation_tokens(NULL, &token, 1, &count, &error));
  FAILS(HYC_BAD_HANDLE, hyc_generation_text(NULL, NULL, 0, &count, &error));
  FAILS(HYC_BAD_HANDLE, hyc_generation_result(NULL, &finish, &number, &error));
  hyc_generation_free(NULL);
  FAILS(HYC_BAD_HANDLE, hyc_batch_new(NULL, &no_batch, &error));
  FAILS(HYC_BAD_INPUT, hyc_batch_new(session, NULL, &error));
  FAILS(HYC_BAD_HANDLE, hyc_batch_add(NULL, PROMPT, 3, NULL, &count, &error));
  FAILS(HYC_BAD_HANDLE, hyc_batch_next(NULL, &event, &error));
  FAILS(HYC_BAD_HANDLE, hyc_batch_cancel(NULL, 0, &error));
  FAILS(HYC_BAD_HANDLE, hyc_batch_result(NULL, 0, NULL, 0, &count, &finish, &error));
  hyc_batch_free(NULL);
  CHECK(hyc_options_set_max_new_tokens(NULL, 1) == HYC_BAD_HANDLE);
  CHECK(hyc_options_set_seed(NULL, 1) == HYC_BAD_HANDLE);
  CHECK(hyc_options_set_sampling(NULL, 1, 0, 1, 0) == HYC_BAD_HANDLE);
  CHECK(hyc_options_add_stop(NULL, "a", 1) == HYC_BAD_HANDLE);
  CHECK(hyc_options_add_stop_token(NULL, 1) == HYC_BAD_HANDLE);
  CHECK(hyc_options_set_ignore_eos(NULL, true) == HYC_BAD_HANDLE);
  CHECK(hyc_options_set_show_special(NULL, true) == HYC_BAD_HANDLE);
  CHECK(hyc_load_options_set_verify(NULL, 0) == HYC_BAD_HANDLE);
  CHECK(hyc_load_options_set_copied(NULL, true) == HYC_BAD_HANDLE);
  CHECK(hyc_load_options_set_random_weights(NULL, 1) == HYC_BAD_HANDLE);
  CHECK(hyc_session_options_set_threads(NULL, 1) == HYC_BAD_HANDLE);
  CHECK(hyc_session_options_set_max_sequences(NULL, 1) == HYC_BAD_HANDLE);
  CHECK(hyc_session_options_set_max_tokens(NULL, 1) == HYC_BAD_HANDLE);
  hyc_options_free(NULL);
  hyc_load_options_free(NULL);
  hyc_session_options_free(NULL);
  CHECK(hyc_error_kind(NULL) == HYC_BAD_HANDLE && hyc_error_help(NULL) == NULL);
  CHECK(strcmp(hyc_error_message(NULL), "no error") == 0);
  hyc_error_free(NULL);
  /* Whoever wants no error gets the status alone. */
  CHECK(hyc_generate(NULL, PROMPT, 3, NULL, &no_generation, NULL) == HYC_BAD_HANDLE);
}

/* Options that are out of range. */
static void options(hyc_session *session) {
  hyc_options *options = hyc_options_new();
  hyc_load_options *load = hyc_load_options_new();
  hyc_generation *generation = NULL;
  CHECK(hyc_options_set_sampling(options, -1, 0, 1, 0) == HYC_BAD_INPUT);
  CHECK(hyc_options_add_stop(options, NULL, 1) == HYC_BAD_INPUT);
  CHECK(hyc_load_options_set_verify(load, 3) == HYC_BAD_INPUT);
  OK(hyc_load_options_set_verify(load, 1));
  hyc_load_options_free(load);
  CHECK(hyc_load_options_set_verify(load, 1) == HYC_BAD_HANDLE);
  hyc_options_free(options);
  /* Freed, and of another kind. */
  FAILS(HYC_BAD_HANDLE, hyc_generate(session, PROMPT, 3, options, &generation, &error));
  FAILS(HYC_BAD_HANDLE, hyc_generate(session, PROMPT, 3, (const hyc_options *)session, &generation, &error));
}

/* An event without its size, and one of an earlier version, behind which nothing is written. */
static void events(hyc_session *session) {
  hyc_generation *generation = NULL;
  union {
    hyc_event event;
    unsigned char bytes[sizeof(hyc_event) + 64];
  } place;
  hyc_error *error = NULL;
  size_t at, size = offsetof(hyc_event, finish) + sizeof(uint32_t);
  OK(hyc_generate(session, PROMPT, 3, NULL, &generation, &error));
  memset(&place, 0xaa, sizeof place);
  place.event.size = 8;
  FAILS(HYC_BAD_INPUT, hyc_generation_next(generation, &place.event, &error));
  FAILS(HYC_BAD_INPUT, hyc_generation_next(generation, NULL, &error));
  place.event.size = size;
  OK(hyc_generation_next(generation, &place.event, &error));
  CHECK(place.event.kind == HYC_EVENT_PREFILL && place.event.total == 3 && place.event.size == size);
  for (at = size; at < sizeof place; at++) CHECK(place.bytes[at] == 0xaa);
  hyc_generation_free(generation);
  FAILS(HYC_BAD_HANDLE, hyc_generation_next(generation, &place.event, &error));
}

static hyc_session *shared_session;
static hyc_generation *shared_generation;

static int32_t call_again(const hyc_event *event, void *user) {
  uint64_t sequence = 0;
  (void)event;
  /* From inside of the callback the session is free: nothing of it is held between two events. */
  OK(hyc_session_add_sequence(shared_session, &sequence, NULL));
  OK(hyc_session_remove_sequence(shared_session, sequence, NULL));
  *(int *)user += 1;
  return *(int *)user == 3;
}

static void *cancels(void *user) {
  (void)user;
  OK(hyc_generation_cancel(shared_generation));
  return NULL;
}

static void *runs(void *user) {
  hyc_status *status = (hyc_status *)user;
  do {
    *status = hyc_generation_run(shared_generation, NULL, NULL, NULL);
  } while (*status == HYC_BUSY);
  return NULL;
}

/* A callback that stops; a cancel from another thread; a session that two threads are in is busy, or not yet. */
static void threads(hyc_session *session) {
  hyc_error *error = NULL;
  hyc_options *options = hyc_options_new();
  hyc_status status = HYC_OK;
  pthread_t thread;
  int calls = 0;
  int busy = 0;
  uint64_t sequence = 0;
  shared_session = session;
  OK(hyc_options_set_max_new_tokens(options, 100000));
  OK(hyc_options_set_ignore_eos(options, true));
  OK(hyc_generate(session, PROMPT, 3, options, &shared_generation, &error));
  CHECK(hyc_generation_run(shared_generation, call_again, &calls, &error) == HYC_CANCELLED && calls == 3);
  CHECK(pthread_create(&thread, NULL, runs, &status) == 0);
  /* It runs for thousands of tokens: sooner or later it is inside. */
  while (!busy) {
    hyc_status is = hyc_session_add_sequence(session, &sequence, NULL);
    busy = is == HYC_BUSY;
    CHECK(busy || is == HYC_OK);
    while (!busy && (is = hyc_session_remove_sequence(session, sequence, NULL)) == HYC_BUSY) {
    }
  }
  cancels(NULL);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(status == HYC_CANCELLED);
  hyc_generation_free(shared_generation);
  hyc_options_free(options);
}

/* A forked child has none of the session's threads: an error, and no waiting for them. */
static void forks(hyc_session *session) {
  hyc_error *error = NULL;
  hyc_generation *generation = NULL;
  hyc_event event;
  int status = 0;
  pid_t child;
  OK(hyc_generate(session, PROMPT, 3, NULL, &generation, &error));
  event.size = sizeof event;
  child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    FAILS(HYC_UNSUPPORTED, hyc_generation_next(generation, &event, &error));
    _exit(0);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  OK(hyc_generation_next(generation, &event, &error));
  hyc_generation_free(generation);
}

/* What is shared stays as long as somebody needs it, in whatever order it is freed. */
static void order(const char *path) {
  hyc_error *error = NULL;
  hyc_model *model = NULL;
  hyc_session *session = NULL;
  hyc_generation *generation = NULL;
  hyc_event event;
  OK(hyc_model_load(path, strlen(path), NULL, &model, &error));
  OK(hyc_session_new(model, NULL, &session, &error));
  OK(hyc_generate(session, PROMPT, 3, NULL, &generation, &error));
  hyc_model_free(model);
  hyc_session_free(session);
  FAILS(HYC_BAD_HANDLE, hyc_session_new(model, NULL, &session, &error));
  event.size = sizeof event;
  OK(hyc_generation_next(generation, &event, &error));
  hyc_generation_free(generation);
  hyc_model_free(model);
}

/* The low-level calls: feed, step, logits, fork, truncate. */
static void steps(hyc_model *model, hyc_session *session) {
  hyc_error *error = NULL;
  uint64_t sequence = 0, fork = 0, sequences[64];
  uint32_t tokens[64];
  size_t count = 0, vocab = (size_t)hyc_model_vocab(model);
  float *logits = (float *)malloc(vocab * sizeof(float));
  size_t best = 0, at;
  CHECK(hyc_model_max_batch(model) <= 64);
  OK(hyc_session_add_sequence(session, &sequence, &error));
  CHECK(hyc_session_step(session, sequences, tokens, 64, &count, &error) == HYC_END && count == 0);
  OK(hyc_session_feed(session, sequence, PROMPT, 3, &error));
  OK(hyc_session_step(session, sequences, tokens, 64, &count, &error));
  CHECK(count == 1 && sequences[0] == sequence);
  CHECK(hyc_session_output(session, sequence, "logits", 6, NULL, 0, &count, &error) == HYC_SHORT);
  CHECK(count == vocab);
  OK(hyc_session_output(session, sequence, "logits", 6, logits, vocab, &count, &error));
  for (at = 1; at < vocab; at++) best = logits[at] > logits[best] ? at : best;
  CHECK(best == tokens[0]);
  OK(hyc_session_output(session, sequence, "hidden", 6, logits, vocab, &count, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_output(session, sequence, "nothing", 7, logits, vocab, &count, &error));
  OK(hyc_session_fork(session, sequence, &fork, &error));
  OK(hyc_session_truncate(session, fork, 2, &error));
  OK(hyc_session_tokens(session, fork, tokens, 64, &count, &error));
  CHECK(count == 2 && tokens[1] == PROMPT[1]);
  OK(hyc_session_remove_sequence(session, fork, &error));
  FAILS(HYC_BAD_INPUT, hyc_session_remove_sequence(session, fork, &error));
  OK(hyc_session_remove_sequence(session, sequence, &error));
  free(logits);
}

int main(int argc, char **argv) {
  const char *path = argc > 1 ? argv[1] : "";
  hyc_error *error = NULL;
  hyc_model *model = NULL;
  hyc_session *session = NULL;
  CHECK(strcmp(second_version(), hyc_version()) == 0);
  OK(hyc_model_load(path, strlen(path), NULL, &model, &error));
  OK(hyc_session_new(model, NULL, &session, &error));
  nulls(model, session);
  options(session);
  events(session);
  steps(model, session);
  threads(session);
  forks(session);
  order(path);
  hyc_session_free(session);
  hyc_session_free(session);
  hyc_model_free(model);
  printf("all is told\n");
  return 0;
}
