//! What callers give: pointers with lengths, and places for results.

use crate::error::{Failure, hyc_status};

/// `count` values. Errors: NULL with a count; more than an address space holds.
///
/// # Safety
/// `data` is NULL or points to `count` values that nobody changes during the call.
pub unsafe fn slice<'a, T>(data: *const T, count: usize, what: &str) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    let fits = count.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= isize::MAX as usize);
    if data.is_null() || !data.is_aligned() || !fits {
        return Err(Failure::argument(
            format!("{what} is no array of {count}"),
            "give a pointer and how many there are",
        ));
    }
    // SAFETY: the caller's promise; not NULL, aligned, and not longer than a slice may be.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

/// A text of `len` bytes. Errors: those of [`slice`]; no UTF-8.
///
/// # Safety
/// As for [`slice`].
pub unsafe fn text<'a>(data: *const std::ffi::c_char, len: usize, what: &str) -> Result<&'a str, Failure> {
    // SAFETY: passed on.
    let bytes = unsafe { slice(data.cast::<u8>(), len, what) }?;
    std::str::from_utf8(bytes).map_err(|e| {
        Failure::argument(format!("{what} is not UTF-8: byte {}", e.valid_up_to()), "encode it as UTF-8")
    })
}

/// Writes a result. Errors: there is no place for it.
///
/// # Safety
/// `to` is NULL or a place for a `T`.
pub unsafe fn put<T>(to: *mut T, value: T, what: &str) -> Result<(), Failure> {
    check_place(to, what)?;
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// Errors: no place for a result, asked before the work for it is done.
pub fn check_place<T>(to: *mut T, what: &str) -> Result<(), Failure> {
    match to.is_null() {
        true => Err(Failure::argument(format!("{what} is NULL"), "give a place for the result")),
        false => Ok(()),
    }
}

/// Copies `values` to a buffer and says how many they are; `HYC_SHORT` where they do not fit, and nothing is copied.
/// Errors: no place for the count; NULL for a buffer that holds something.
///
/// # Safety
/// `buffer` is NULL or has room for `capacity` values, `count` is NULL or a place.
pub unsafe fn fill<T: Copy>(
    values: &[T],
    buffer: *mut T,
    capacity: usize,
    count: *mut usize,
) -> Result<hyc_status, Failure> {
    // SAFETY: passed on.
    unsafe { put(count, values.len(), "count") }?;
    if values.len() > capacity {
        return Ok(hyc_status::HYC_SHORT);
    }
    if !values.is_empty() {
        check_place(buffer, "the buffer")?;
        // SAFETY: the caller's promise; a buffer of a caller does not overlap what is ours.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), buffer, values.len()) };
    }
    Ok(hyc_status::HYC_OK)
}
