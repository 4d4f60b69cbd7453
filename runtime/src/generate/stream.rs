//! A continuation as an asynchronous stream, of any executor.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use async_channel::Receiver;
use futures_core::Stream;

use super::{CancelToken, Event, GenerateOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::session::Session;
use crate::tokenizer::Tokenizer;

/// Events that are computed ahead of whoever takes them.
const AHEAD: usize = 16;

/// The events of a continuation, computed on a thread of its own that has the session meanwhile. Dropping the stream
/// ends it between two steps.
///
/// ```
/// # use std::sync::Arc;
/// # use hyc_handmade::{Parts, Plain};
/// # use hyc_runtime::{Event, GenerateOptions, Session, SessionOptions, Tokenizer};
/// # fn main() -> hyc_runtime::Result<()> {
/// # struct Park(std::thread::Thread);
/// # impl std::task::Wake for Park {
/// #     fn wake(self: Arc<Self>) { self.0.unpark() }
/// # }
/// # fn block_on<F: Future>(future: F) -> F::Output {
/// #     let waker = std::task::Waker::from(Arc::new(Park(std::thread::current())));
/// #     let mut future = std::pin::pin!(future);
/// #     loop {
/// #         match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
/// #             std::task::Poll::Ready(value) => return value,
/// #             std::task::Poll::Pending => std::thread::park(),
/// #         }
/// #     }
/// # }
/// # let model = Parts::new().with_tokenizer().load()?;
/// # let tokenizer = Arc::new(Tokenizer::of(&model)?);
/// # let session = Session::with_kernels(model, Box::new(Plain), &SessionOptions::default())?;
/// let options = GenerateOptions { max_new_tokens: 3, ..GenerateOptions::default() };
/// let mut stream = session.into_stream(tokenizer, vec![1, 2, 3], options)?;
/// let mut tokens = Vec::new();
/// // `StreamExt::next` of the crate futures is the same.
/// while let Some(event) = block_on(std::future::poll_fn(|context| stream.poll_event(context))) {
///     if let Event::Token(token) = event? {
///         tokens.push(token);
///     }
/// }
/// assert_eq!(tokens.len(), 3);
/// let session = stream.into_session()?;
/// assert_eq!(session.free_pages(), session.memory().room.pages);
/// # Ok(())
/// # }
/// ```
pub struct EventStream {
    events: Pin<Box<Receiver<Result<Event>>>>,
    cancel: CancelToken,
    thread: Option<JoinHandle<Session>>,
}

impl Session {
    /// Continues `prompt` in a sequence of its own, as a stream. What is wrong with it is the first event. Errors: no thread.
    pub fn into_stream(
        mut self,
        tokenizer: Arc<Tokenizer>,
        prompt: Vec<u32>,
        options: GenerateOptions,
    ) -> Result<EventStream> {
        let (sender, events) = async_channel::bounded(AHEAD);
        let cancel = CancelToken::new();
        let cancelled = cancel.clone();
        let run = move || {
            match self.generate(tokenizer, &prompt, &options) {
                Err(error) => drop(sender.send_blocking(Err(error))),
                Ok(generation) => {
                    for event in generation.cancelled_by(&cancelled) {
                        // Nobody takes events any more.
                        if sender.send_blocking(event).is_err() {
                            break;
                        }
                    }
                }
            }
            drop(sender);
            self
        };
        let thread = std::thread::Builder::new().name("hyc-stream".to_string()).spawn(run);
        let thread =
            thread.map_err(|e| Error::new(ErrorKind::Resource, format!("cannot start a thread: {e}")))?;
        Ok(EventStream { events: Box::pin(events), cancel, thread: Some(thread) })
    }
}

impl EventStream {
    /// What ends it from elsewhere: an event is the error `Cancelled` then.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// The next event, as [`Stream::poll_next`] gives it.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        self.events.as_mut().poll_next(context)
    }

    /// Ends it, and gives the session back: waits for the step in hand. Errors: the thread has panicked.
    pub fn into_session(mut self) -> Result<Session> {
        self.stop();
        let ended = self.thread.take().map(JoinHandle::join);
        ended
            .and_then(Result::ok)
            .ok_or_else(|| Error::new(ErrorKind::Device, "the stream's thread has panicked"))
    }

    fn stop(&mut self) {
        self.cancel.cancel();
        self.events.close();
    }
}

impl Stream for EventStream {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        self.poll_event(context)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.stop();
    }
}
