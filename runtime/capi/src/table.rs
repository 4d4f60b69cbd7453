//! Handles: numbers that look like pointers, and are never followed. A number is given out once, so that one that was
//! freed, or is of another kind, is found out, however it is used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::failure::Failure;

/// The next handle of any kind. Multiples of 16 from one that no page is at.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

/// The live handles of a kind. What a call has taken out of it lives until that call is through, whoever frees it.
pub struct Table<T> {
    live: OnceLock<Mutex<HashMap<usize, Arc<T>>>>,
}

impl<T> Table<T> {
    /// An empty one.
    pub const fn new() -> Table<T> {
        Table { live: OnceLock::new() }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<usize, Arc<T>>> {
        // Nothing panics while it is locked.
        self.live.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new handle.
    pub fn put<H>(&self, value: T) -> *mut H {
        let handle = NEXT.fetch_add(16, Ordering::Relaxed);
        self.live().insert(handle, Arc::new(value));
        std::ptr::without_provenance_mut(handle)
    }

    /// What a handle stands for. Errors: NULL, a handle that was freed, one of another kind.
    pub fn get<H>(&self, handle: *const H, what: &str) -> Result<Arc<T>, Failure> {
        if handle.is_null() {
            return Err(Failure::handle(format!("{what} is NULL")));
        }
        let found = self.live().get(&handle.addr()).cloned();
        found.ok_or_else(|| {
            Failure::handle(format!("{what} is no live handle of its kind: it was freed, or is another one"))
        })
    }

    /// Gives a handle up; NULL and one that is none are left alone.
    pub fn take<H>(&self, handle: *mut H) -> Option<Arc<T>> {
        self.live().remove(&handle.addr())
    }
}
