/* hyc.h: runs compiled models. Made from runtime/capi by its tests.
 *
 * Handles (hyc_model, hyc_session, ...) are opaque. Each is freed by its own function, once; using one that was freed, or
 * one of another kind, is HYC_BAD_HANDLE, and nothing worse.
 *
 * A call answers a status. Where error is not NULL, a failure leaves an error there, which the caller frees with
 * hyc_error_free, and everything else NULL. Results are written where the status is HYC_OK or HYC_SHORT.
 *
 * Texts come in as pointer and length, UTF-8; no zero need end them. What goes out is borrowed as long as its call says.
 * Pointers are NULL, which is an error where the call needs one, or valid for as many values as are said. Any thread may
 * make any call; a session, a generation and a batch run one call at a time, a second one meanwhile is HYC_BUSY.
 *
 * Numbers of statuses, kinds and options keep their meaning in later versions; hyc_event grows at its end.
 */

#ifndef HYC_H
#define HYC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 What a call answers. Numbers are never given another meaning; there may be more of them in a later version.
 */
enum hyc_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /*
   Done.
   */
  HYC_OK = 0,
  /*
   There is nothing more.
   */
  HYC_END = 1,
  /*
   What the caller gave: a prompt, an option, a token, a path.
   */
  HYC_BAD_INPUT = 2,
  /*
   The artefact: truncated, damaged, of another version or build.
   */
  HYC_BAD_ARTEFACT = 3,
  /*
   This machine lacks what the code needs.
   */
  HYC_UNSUPPORTED = 4,
  /*
   Memory, pages, threads, files.
   */
  HYC_RESOURCE = 5,
  /*
   A kernel failed on its device: the process must start again.
   */
  HYC_DEVICE = 6,
  /*
   Somebody asked to stop.
   */
  HYC_CANCELLED = 7,
  /*
   The model computed something that is no number.
   */
  HYC_BAD_NUMBERS = 8,
  /*
   A handle that is NULL, was freed, or is of another kind.
   */
  HYC_BAD_HANDLE = 9,
  /*
   Another thread is inside a call with the same session.
   */
  HYC_BUSY = 10,
  /*
   A bug of hyc: what was in hand is of no use any more, and is to be freed.
   */
  HYC_BUG = 11,
  /*
   The buffer is too small; how much is needed was written to where the count goes.
   */
  HYC_SHORT = 12,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum hyc_status hyc_status;
#else
typedef uint32_t hyc_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 Why a continuation ended.
 */
enum hyc_finish
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /*
   It has as many tokens as were asked for.
   */
  HYC_FINISH_LENGTH = 0,
  /*
   A stop text or an end token came.
   */
  HYC_FINISH_STOP = 1,
  /*
   The context is full.
   */
  HYC_FINISH_CONTEXT = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum hyc_finish hyc_finish;
#else
typedef uint32_t hyc_finish;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 What happens in a continuation. There may be more kinds in a later version: leave those alone.
 */
enum hyc_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /*
   So many of the prompt's tokens are through: done of total.
   */
  HYC_EVENT_PREFILL = 0,
  /*
   A token was chosen: token.
   */
  HYC_EVENT_TOKEN = 1,
  /*
   Text that is certain now: text, text_len.
   */
  HYC_EVENT_TEXT = 2,
  /*
   It is through: finish. The last event.
   */
  HYC_EVENT_END = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum hyc_event_kind hyc_event_kind;
#else
typedef uint32_t hyc_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 Prompts that are continued together; freed by hyc_batch_free.
 */
typedef struct hyc_batch hyc_batch;

/*
 Why a call failed; freed by hyc_error_free.
 */
typedef struct hyc_error hyc_error;

/*
 A continuation of a prompt; freed by hyc_generation_free.
 */
typedef struct hyc_generation hyc_generation;

/*
 How a model is loaded; freed by hyc_load_options_free.
 */
typedef struct hyc_load_options hyc_load_options;

/*
 A loaded model; any thread may use it. Freed by hyc_model_free, and kept by its sessions as long as they live.
 */
typedef struct hyc_model hyc_model;

/*
 How a prompt is continued; freed by hyc_options_free.
 */
typedef struct hyc_options hyc_options;

/*
 A session: a model with caches and threads. It may go from thread to thread, and runs one call at a time: a second one
 meanwhile is HYC_BUSY. Freed by hyc_session_free; generations and batches keep it as long as they live.
 */
typedef struct hyc_session hyc_session;

/*
 How a session is set up; freed by hyc_session_options_free.
 */
typedef struct hyc_session_options hyc_session_options;

/*
 An event. Set size to sizeof(hyc_event) before each call: a later version has more fields at the end, and writes those
 alone that fit.
 */
typedef struct {
  /*
   Bytes of this struct, as the caller knows it.
   */
  size_t size;
  /*
   What happened: hyc_event_kind.
   */
  uint32_t kind;
  /*
   The token, or 0.
   */
  uint32_t token;
  /*
   Text, UTF-8 and not ended by a zero; valid until the next call with the same generation or batch. NULL without any.
   */
  const char *text;
  /*
   Its bytes.
   */
  size_t text_len;
  /*
   Tokens of the prompt that are through.
   */
  uint64_t done;
  /*
   Tokens of the prompt.
   */
  uint64_t total;
  /*
   Of a batch: which prompt it is of, in the order in which they were added.
   */
  size_t index;
  /*
   Why it ended: hyc_finish.
   */
  uint32_t finish;
} hyc_event;

/*
 What hyc_generation_run calls for each event; what it returns other than 0 ends the run as HYC_CANCELLED.
 */
typedef int32_t (*hyc_on_event)(const hyc_event *event, void *user);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 The version of the library, as `1.2.3`; valid for ever.
 */
const char *hyc_version(void);

/*
 The status of the call that gave the error; HYC_BAD_HANDLE where it is none.
 */
hyc_status hyc_error_kind(const hyc_error *error);

/*
 What is wrong and where, UTF-8; valid until the error is freed. Never NULL.
 */
const char *hyc_error_message(const hyc_error *error);

/*
 What to do, UTF-8; valid until the error is freed. NULL where nothing is known.
 */
const char *hyc_error_help(const hyc_error *error);

/*
 Frees an error; NULL is none.
 */
void hyc_error_free(hyc_error *error);

/*
 Options to load with: as `hyc run` does.
 */
hyc_load_options *hyc_load_options_new(void);

/*
 Frees them; NULL is none.
 */
void hyc_load_options_free(hyc_load_options *options);

/*
 When weights are checked against their digests: 0 when they are first read, 1 all when the file is loaded, 2 never.
 */
hyc_status hyc_load_options_set_verify(hyc_load_options *options,
                                       uint32_t when);

/*
 Whether the file is copied to memory, so that whatever happens to it later does not matter; else it is mapped.
 */
hyc_status hyc_load_options_set_copied(hyc_load_options *options,
                                       bool copied);

/*
 For an artefact without weights: makes them up from a seed, to measure with.
 */
hyc_status hyc_load_options_set_random_weights(hyc_load_options *options, uint64_t seed);

/*
 Options of a session: all cores, and as many sequences and tokens as the model was compiled for.
 */
hyc_session_options *hyc_session_options_new(void);

/*
 Frees them; NULL is none.
 */
void hyc_session_options_free(hyc_session_options *options);

/*
 Threads; never more than cores.
 */
hyc_status hyc_session_options_set_threads(hyc_session_options *options, size_t threads);

/*
 Sequences at a time.
 */
hyc_status hyc_session_options_set_max_sequences(hyc_session_options *options, uint64_t sequences);

/*
 Tokens of all sequences together.
 */
hyc_status hyc_session_options_set_max_tokens(hyc_session_options *options, uint64_t tokens);

/*
 Options of a continuation: 256 new tokens at most, chosen as the model says.
 */
hyc_options *hyc_options_new(void);

/*
 Frees them; NULL is none.
 */
void hyc_options_free(hyc_options *options);

/*
 Most new tokens.
 */
hyc_status hyc_options_set_max_new_tokens(hyc_options *options, size_t tokens);

/*
 The seed of the choice.
 */
hyc_status hyc_options_set_seed(hyc_options *options, uint64_t seed);

/*
 How tokens are chosen, in place of the model's own way: the temperature (0: the likeliest token), of the top_k likeliest
 (0: all), those that make up top_p (1: all), and none below min_p of the likeliest (0: all).
 */
hyc_status hyc_options_set_sampling(hyc_options *options,
                                    float temperature,
                                    uint32_t top_k,
                                    float top_p,
                                    float min_p);

/*
 A text that ends the continuation, and is no part of it; may be called several times.
 */
hyc_status hyc_options_add_stop(hyc_options *options, const char *stop, size_t stop_len);

/*
 A token that ends the continuation, beside the model's own; may be called several times.
 */
hyc_status hyc_options_add_stop_token(hyc_options *options, uint32_t token);

/*
 Whether the model's own end tokens end nothing.
 */
hyc_status hyc_options_set_ignore_eos(hyc_options *options, bool ignore);

/*
 Whether special tokens are part of the text.
 */
hyc_status hyc_options_set_show_special(hyc_options *options, bool show);

/*
 Loads an artefact. Loading one is running a program: hyc compile wrote it, and whoever could change it since is trusted
 as this program is. Nobody writes to the file or shortens it while the model lives, unless it is copied.
 */
hyc_status hyc_model_load(const char *path,
                          size_t path_len,
                          const hyc_load_options *options,
                          hyc_model **model,
                          hyc_error **error);

/*
 The same from memory that lives as long as the program, at a multiple of 64.
 */
hyc_status hyc_model_from_static(const uint8_t *bytes,
                                 size_t len,
                                 const hyc_load_options *options,
                                 hyc_model **model,
                                 hyc_error **error);

/*
 Loads a model of an object file of `hyc compile --emit obj --symbol NAME`, which this program was linked with: its
 symbols NAME_hyc_artefact and NAME_hyc_code with their sizes. weights: the path of the artefact that was compiled with
 it; NULL where the weights are in the object.
 */
hyc_status hyc_model_linked(const uint8_t *artefact,
                            size_t artefact_len,
                            const uint8_t *code,
                            size_t code_len,
                            const char *weights,
                            size_t weights_len,
                            const hyc_load_options *options,
                            hyc_model **model,
                            hyc_error **error);

/*
 Frees a model; its sessions keep what they need of it. NULL is none.
 */
void hyc_model_free(hyc_model *model);

/*
 Entries of the vocabulary; 0 where the handle is none.
 */
uint64_t hyc_model_vocab(const hyc_model *model);

/*
 Most tokens of a sequence; 0 where the handle is none.
 */
uint64_t hyc_model_max_context(const hyc_model *model);

/*
 Most sequences in a step; 0 where the handle is none.
 */
uint64_t hyc_model_max_batch(const hyc_model *model);

/*
 The model's name, UTF-8; valid until the model is freed. NULL where the handle is none.
 */
const char *hyc_model_name(const hyc_model *model);

/*
 Tokens of a text: as a prompt, with what the model wants at its beginning, or bare. tokens: room for capacity of them;
 count: how many there are. HYC_SHORT where they do not fit.
 */
hyc_status hyc_model_encode(const hyc_model *model,
                            const char *text,
                            size_t text_len,
                            bool bare,
                            uint32_t *tokens,
                            size_t capacity,
                            size_t *count,
                            hyc_error **error);

/*
 Text of tokens, without the special ones, UTF-8 and not ended by a zero. text: room for capacity bytes; len: how many
 there are. HYC_SHORT where they do not fit.
 */
hyc_status hyc_model_decode(const hyc_model *model,
                            const uint32_t *tokens,
                            size_t count,
                            char *text,
                            size_t capacity,
                            size_t *len,
                            hyc_error **error);

/*
 Whether the model has a tokenizer.
 */
hyc_status hyc_model_has_tokenizer(const hyc_model *model, bool *has, hyc_error **error);

/*
 Sets up a session: checks that its memory is free, and takes it.
 */
hyc_status hyc_session_new(const hyc_model *model,
                           const hyc_session_options *options,
                           hyc_session **session,
                           hyc_error **error);

/*
 The bytes that a session of these options would take, known before anything is allocated.
 */
hyc_status hyc_session_bytes(const hyc_model *model,
                             const hyc_session_options *options,
                             uint64_t *bytes,
                             hyc_error **error);

/*
 Frees a session, once its generations are freed too. NULL is none.
 */
void hyc_session_free(hyc_session *session);

/*
 A new, empty sequence.
 */
hyc_status hyc_session_add_sequence(hyc_session *session, uint64_t *sequence, hyc_error **error);

/*
 Removes a sequence; its pages are free again.
 */
hyc_status hyc_session_remove_sequence(hyc_session *session, uint64_t sequence, hyc_error **error);

/*
 A new sequence with all that another one has; what they share is there once.
 */
hyc_status hyc_session_fork(hyc_session *session, uint64_t sequence, uint64_t *fork, hyc_error **error);

/*
 Takes tokens back until len are left. A window's ring keeps its last tokens alone: where it does not reach back that
 far, the error says how far it does.
 */
hyc_status hyc_session_truncate(hyc_session *session,
                                uint64_t sequence,
                                uint64_t len,
                                hyc_error **error);

/*
 A sequence's tokens, those that wait for a step too. tokens: room for capacity of them; count: how many there are.
 HYC_SHORT where they do not fit.
 */
hyc_status hyc_session_tokens(hyc_session *session,
                              uint64_t sequence,
                              uint32_t *tokens,
                              size_t capacity,
                              size_t *count,
                              hyc_error **error);

/*
 Gives a sequence tokens, which wait for a step.
 */
hyc_status hyc_session_feed(hyc_session *session,
                            uint64_t sequence,
                            const uint32_t *tokens,
                            size_t count,
                            hyc_error **error);

/*
 Runs one step over all that waits, and chooses a token for each sequence that is through; it is not fed. sequences and
 tokens: room for capacity of them, and at least max_batch is asked for; count: how many were chosen. An error of one
 sequence is the call's, after all others have their tokens; HYC_END where nothing waits.
 */
hyc_status hyc_session_step(hyc_session *session,
                            uint64_t *sequences,
                            uint32_t *tokens,
                            size_t capacity,
                            size_t *count,
                            hyc_error **error);

/*
 An output of the model for a sequence's last token, of the last step: "logits" or "hidden". values: room for capacity
 numbers; count: how many there are. HYC_SHORT where they do not fit.
 */
hyc_status hyc_session_output(hyc_session *session,
                              uint64_t sequence,
                              const char *name,
                              size_t name_len,
                              float *values,
                              size_t capacity,
                              size_t *count,
                              hyc_error **error);

/*
 Continues a prompt in a sequence of its own, which leaves the session when the generation is freed. Nothing is computed
 yet.
 */
hyc_status hyc_generate(hyc_session *session,
                        const uint32_t *tokens,
                        size_t count,
                        const hyc_options *options,
                        hyc_generation **generation,
                        hyc_error **error);

/*
 Continues a sequence that stays: of tokens, all of its text, those that it does not hold yet are fed. Afterwards it
 holds all of them and all new ones but the last.
 */
hyc_status hyc_generate_in(hyc_session *session,
                           uint64_t sequence,
                           const uint32_t *tokens,
                           size_t count,
                           const hyc_options *options,
                           hyc_generation **generation,
                           hyc_error **error);

/*
 The next event, after the session's next step where one is needed; HYC_END at the end, and again whenever it is asked.
 After an error the generation may be asked again, or freed.
 */
hyc_status hyc_generation_next(hyc_generation *generation,
                               hyc_event *event,
                               hyc_error **error);

/*
 Runs to the end: a loop over hyc_generation_next.
 */
hyc_status hyc_generation_run(hyc_generation *generation,
                              hyc_on_event on_event,
                              void *user,
                              hyc_error **error);

/*
 Asks a generation to stop, from any thread, also while another one is inside hyc_generation_next: its next answer is
 HYC_CANCELLED.
 */
hyc_status hyc_generation_cancel(const hyc_generation *generation);

/*
 The new tokens so far. tokens: room for capacity of them; count: how many there are. HYC_SHORT where they do not fit.
 */
hyc_status hyc_generation_tokens(const hyc_generation *generation,
                                 uint32_t *tokens,
                                 size_t capacity,
                                 size_t *count,
                                 hyc_error **error);

/*
 The text so far, up to the stop text, UTF-8 and not ended by a zero. text: room for capacity bytes; len: how many there
 are. HYC_SHORT where they do not fit.
 */
hyc_status hyc_generation_text(const hyc_generation *generation,
                               char *text,
                               size_t capacity,
                               size_t *len,
                               hyc_error **error);

/*
 Why it ended, and the seed that repeats it; after HYC_END.
 */
hyc_status hyc_generation_result(const hyc_generation *generation,
                                 hyc_finish *finish,
                                 uint64_t *seed,
                                 hyc_error **error);

/*
 Frees a generation; NULL is none.
 */
void hyc_generation_free(hyc_generation *generation);

/*
 An empty batch.
 */
hyc_status hyc_batch_new(hyc_session *session, hyc_batch **batch, hyc_error **error);

/*
 Adds a prompt, before the first event. index: how its events are known.
 */
hyc_status hyc_batch_add(hyc_batch *batch,
                         const uint32_t *tokens,
                         size_t count,
                         const hyc_options *options,
                         size_t *index,
                         hyc_error **error);

/*
 The next event of any prompt, after a step for all where one is needed; HYC_END when all are through. A prompt's last
 event is HYC_EVENT_END, or an error, with event.index filled in; the others go on.
 */
hyc_status hyc_batch_next(hyc_batch *batch,
                          hyc_event *event,
                          hyc_error **error);

/*
 Asks the prompt of an index to stop, from any thread that is not inside hyc_batch_next: its next event is HYC_CANCELLED.
 */
hyc_status hyc_batch_cancel(hyc_batch *batch,
                            size_t index,
                            hyc_error **error);

/*
 A prompt's text, and why it ended, after its HYC_EVENT_END. text: room for capacity bytes; len: how many there are.
 HYC_SHORT where they do not fit.
 */
hyc_status hyc_batch_result(hyc_batch *batch,
                            size_t index,
                            char *text,
                            size_t capacity,
                            size_t *len,
                            hyc_finish *finish,
                            hyc_error **error);

/*
 Frees a batch; NULL is none.
 */
void hyc_batch_free(hyc_batch *batch);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HYC_H */
