//! Rows of numbers that Python looks at without copying them.

use std::ffi::{c_int, c_void};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// A row of f32.
#[pyclass(frozen, module = "hyc")]
pub struct Floats {
    values: Vec<f32>,
    /// The buffer protocol's shape and strides, which live as long as the row.
    shape: [ffi::Py_ssize_t; 1],
    strides: [ffi::Py_ssize_t; 1],
}

impl Floats {
    /// A row.
    pub fn new(values: Vec<f32>) -> Floats {
        let shape = [values.len() as ffi::Py_ssize_t];
        Floats { values, shape, strides: [size_of::<f32>() as ffi::Py_ssize_t] }
    }
}

#[pymethods]
impl Floats {
    fn __len__(&self) -> usize {
        self.values.len()
    }

    /// The numbers as a list.
    fn tolist(&self) -> Vec<f32> {
        self.values.clone()
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() || flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
            return Err(PyBufferError::new_err("the row can only be read"));
        }
        let row = slf.get();
        // SAFETY: the interpreter's view, not NULL; what it is given lives in `row`, which the view keeps alive.
        unsafe {
            (*view).buf = row.values.as_ptr() as *mut c_void;
            (*view).len = size_of_val(row.values.as_slice()) as ffi::Py_ssize_t;
            (*view).readonly = 1;
            (*view).itemsize = size_of::<f32>() as ffi::Py_ssize_t;
            (*view).format = if flags & ffi::PyBUF_FORMAT == ffi::PyBUF_FORMAT {
                c"f".as_ptr().cast_mut()
            } else {
                std::ptr::null_mut()
            };
            (*view).ndim = 1;
            (*view).shape = row.shape.as_ptr().cast_mut();
            (*view).strides = row.strides.as_ptr().cast_mut();
            (*view).suboffsets = std::ptr::null_mut();
            (*view).internal = std::ptr::null_mut();
            (*view).obj = slf.clone().into_any().into_ptr();
        }
        Ok(())
    }
}
