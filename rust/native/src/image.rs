//! `RamImage`: guest RAM and video memory at one moment.

use engine::backing::{Extent, Frozen, Image};
use engine::mapping::Mapping;
use engine::pages;
use pyo3::exceptions::{PyBufferError, PyOSError, PyValueError};
use pyo3::prelude::*;
use std::collections::HashMap;
use std::ffi::c_int;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

/// Offset into RAM, bytes, descriptor, offset into the file.
pub type ExtentRecord = (u64, u64, i32, u64);

/// As `engine::pages::Packed`.
type PackedRecord = (Vec<(u64, u64, u64)>, Vec<(u64, u64)>);

#[pyclass(frozen, module = "ring3._native")]
pub struct RamImage {
    image: Image,
    mapping: OnceLock<Mapping>,
}

impl RamImage {
    pub fn new(image: Image) -> RamImage {
        RamImage {
            image,
            mapping: OnceLock::new(),
        }
    }

    fn mapped(&self) -> std::io::Result<&Mapping> {
        if let Some(mapping) = self.mapping.get() {
            return Ok(mapping);
        }
        let mapping = self.image.map()?;
        Ok(self.mapping.get_or_init(|| mapping))
    }

    fn memory(&self) -> std::io::Result<&[u8]> {
        let start = self.mapped()?.start();
        // SAFETY: all of the mapping, which is only read and lives as long as `self`.
        Ok(unsafe { std::slice::from_raw_parts(start, self.image.bytes as usize) })
    }
}

#[pymethods]
impl RamImage {
    #[getter]
    fn size_bytes(&self) -> u64 {
        self.image.bytes
    }

    #[getter]
    fn extents(&self) -> Vec<ExtentRecord> {
        let record = |e: &Extent| (e.start, e.bytes, e.file.fd(), e.offset);
        self.image.extents.iter().map(record).collect()
    }

    fn changed_since(&self, py: Python<'_>, older: &RamImage) -> PyResult<Vec<(u64, u64)>> {
        let ranges = self.image.changed_since(&older.image);
        let (new, old) = (self.memory()?, older.memory()?);
        let changed = py.detach(|| pages::differing(new, old, &ranges));
        Ok(changed.iter().map(|r| (r.start, r.end)).collect())
    }

    fn pack(&self, py: Python<'_>, ranges: Vec<(u64, u64)>) -> PyResult<PackedRecord> {
        let memory = self.memory()?;
        let ranges: Vec<_> = ranges.iter().map(|&(start, end)| start..end).collect();
        let packed = py.detach(|| pages::pack(memory, &ranges));
        let pieces = packed.pieces.iter().map(|piece| (piece.start, piece.end));
        Ok((packed.extents, pieces.collect()))
    }

    /// # Safety
    /// Python's promise: `view` is to be filled in.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut pyo3::ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let image = slf.get();
        let mapping = image.mapped().map_err(|error| {
            PyBufferError::new_err(format!("the image cannot be mapped: {error}"))
        })?;
        let (start, bytes) = (mapping.start().cast(), image.image.bytes as isize);
        // SAFETY: the mapping lives as long as the image, which the view keeps; it is read only.
        let filled =
            unsafe { pyo3::ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, bytes, 1, flags) };
        if filled == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}

/// Extents out of records; each descriptor is duplicated once.
pub fn extents_of(records: &[ExtentRecord]) -> PyResult<Vec<Extent>> {
    let mut files: HashMap<i32, Arc<Frozen>> = HashMap::new();
    let mut extents = Vec::new();
    for &(start, bytes, fd, offset) in records {
        let file = match files.get(&fd) {
            Some(file) => file.clone(),
            None if fd < 0 => return Err(PyValueError::new_err("a descriptor below 0")),
            None => {
                // SAFETY: the caller keeps it open while this runs.
                let own = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned();
                let file = Arc::new(own.and_then(Frozen::foreign).map_err(PyOSError::new_err)?);
                files.insert(fd, file.clone());
                file
            }
        };
        extents.push(Extent::new(start, bytes, file, offset));
    }
    Ok(extents)
}
