//! Events, the one public struct.

use std::ffi::c_char;
use std::mem::{offset_of, size_of};

use hyc_runtime::{Event, Finish};

use crate::error::Failure;

/// What happens in a continuation. There may be more kinds in a later version: leave those alone.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "C's names")]
pub enum hyc_event_kind {
    /// So many of the prompt's tokens are through: done of total.
    HYC_EVENT_PREFILL = 0,
    /// A token was chosen: token.
    HYC_EVENT_TOKEN = 1,
    /// Text that is certain now: text, text_len.
    HYC_EVENT_TEXT = 2,
    /// It is through: finish. The last event.
    HYC_EVENT_END = 3,
}

/// Why a continuation ended.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "C's names")]
pub enum hyc_finish {
    /// It has as many tokens as were asked for.
    HYC_FINISH_LENGTH = 0,
    /// A stop text or an end token came.
    HYC_FINISH_STOP = 1,
    /// The context is full.
    HYC_FINISH_CONTEXT = 2,
}

impl From<Finish> for hyc_finish {
    fn from(finish: Finish) -> hyc_finish {
        match finish {
            Finish::Length => hyc_finish::HYC_FINISH_LENGTH,
            Finish::Stop => hyc_finish::HYC_FINISH_STOP,
            Finish::Context => hyc_finish::HYC_FINISH_CONTEXT,
        }
    }
}

/// An event. Set size to sizeof(hyc_event) before each call: a later version has more fields at the end, and writes those
/// alone that fit.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types, reason = "C's names")]
pub struct hyc_event {
    /// Bytes of this struct, as the caller knows it.
    pub size: usize,
    /// What happened: hyc_event_kind.
    pub kind: u32,
    /// The token, or 0.
    pub token: u32,
    /// Text, UTF-8 and not ended by a zero; valid until the next call with the same generation or batch. NULL without any.
    pub text: *const c_char,
    /// Its bytes.
    pub text_len: usize,
    /// Tokens of the prompt that are through.
    pub done: u64,
    /// Tokens of the prompt.
    pub total: u64,
    /// Of a batch: which prompt it is of, in the order in which they were added.
    pub index: usize,
    /// Why it ended: hyc_finish.
    pub finish: u32,
}

/// The first version's size: no caller knows a smaller one.
const LEAST: usize = offset_of!(hyc_event, finish) + size_of::<u32>();

impl hyc_event {
    /// An event; its text goes to `kept`.
    pub fn of(event: Event, index: usize, kept: &mut String) -> hyc_event {
        let mut of = hyc_event::none(index);
        match event {
            Event::Prefill { done, total } => (of.done, of.total) = (done, total),
            Event::Token(token) => (of.kind, of.token) = (hyc_event_kind::HYC_EVENT_TOKEN as u32, token),
            Event::End(finish) => {
                of.kind = hyc_event_kind::HYC_EVENT_END as u32;
                of.finish = hyc_finish::from(finish) as u32;
            }
            Event::Text(text) => {
                *kept = text;
                of.kind = hyc_event_kind::HYC_EVENT_TEXT as u32;
                (of.text, of.text_len) = (kept.as_ptr().cast(), kept.len());
            }
        }
        of
    }

    /// Nothing but whose it is.
    pub fn none(index: usize) -> hyc_event {
        let (size, kind) = (size_of::<hyc_event>(), hyc_event_kind::HYC_EVENT_PREFILL as u32);
        hyc_event {
            size,
            kind,
            token: 0,
            text: std::ptr::null(),
            text_len: 0,
            done: 0,
            total: 0,
            index,
            finish: 0,
        }
    }

    /// Errors: no place for an event, or one whose size nobody has set.
    ///
    /// # Safety
    /// `to` is NULL or points to a struct that begins with its size.
    pub unsafe fn check(to: *const hyc_event) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        match to.is_null() || unsafe { (*to).size } < LEAST {
            true => Err(Failure::argument(
                "the event is NULL, or has no size",
                "set event.size to sizeof(hyc_event)",
            )),
            false => Ok(()),
        }
    }

    /// Writes as much of the event as the caller knows.
    ///
    /// # Safety
    /// [`hyc_event::check`] has seen `to`.
    pub unsafe fn write(mut self, to: *mut hyc_event) {
        // SAFETY: as many bytes as the caller says that there are, and as we have.
        unsafe {
            self.size = (*to).size;
            let bytes = self.size.min(size_of::<hyc_event>());
            std::ptr::copy_nonoverlapping((&raw const self).cast::<u8>(), to.cast::<u8>(), bytes);
        }
    }
}
