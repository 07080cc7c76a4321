//! Devices written in Python, as the I/O map calls them on the vCPU's thread.
//!
//! Guest code runs with the GIL dropped; each access attaches again for the call.  A device that
//! raises is a bug of ours, never the guest's affair: it goes to the Vm's error handler, and the
//! access reads as all ones.

use engine::io::{CallRegisters, Device, Gateway, open_bus, read_elements, write_elements};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex};

/// Who hears of exceptions in devices: `Vm.set_io_error_handler`.
#[derive(Default)]
pub struct ErrorHandler(Mutex<Option<Py<PyAny>>>);

/// Ignores poisoning: what the locks of this crate guard is valid at every step.
pub fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl ErrorHandler {
    pub fn set(&self, handler: Option<Py<PyAny>>) {
        // The old handler is dropped after the lock: that may run Python code.
        let old = std::mem::replace(&mut *locked(&self.0), handler);
        drop(old);
    }

    /// Gives `error` to the handler; without one, or if that raises too, to `sys.unraisablehook`.
    pub fn report(&self, py: Python<'_>, error: PyErr) {
        let handler = locked(&self.0).as_ref().map(|h| h.clone_ref(py));
        let unheard = match handler {
            Some(handler) => handler.call1(py, (error.into_value(py),)).err(),
            None => Some(error),
        };
        if let Some(error) = unheard {
            error.write_unraisable(py, None);
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&*locked(&self.0))
    }
}

/// What a window may have for strings: read(offset, size, count) -> bytes and
/// write(offset, size, data), a call for each INS or OUTS with a count.
pub struct Blocks {
    pub read: Py<PyAny>,
    pub write: Py<PyAny>,
}

/// A lock of Python's that is held during calls; taken from here because a function around each call
/// would take as long as the call.
struct Lock {
    acquire: Py<PyAny>,
    release: Py<PyAny>,
}

impl Lock {
    fn of(lock: &Bound<'_, PyAny>) -> PyResult<Lock> {
        Ok(Lock {
            acquire: lock.getattr("acquire")?.unbind(),
            release: lock.getattr("release")?.unbind(),
        })
    }

    fn hold<T>(&self, py: Python<'_>, call: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        self.acquire.bind(py).call0()?;
        let result = call();
        self.release.bind(py).call0()?;
        result
    }
}

/// A pair of callables behind one window.
pub struct PythonDevice {
    read: Py<PyAny>,
    write: Py<PyAny>,
    blocks: Option<Blocks>,
    lock: Option<Lock>,
    /// Byte registers: the callables get no size.
    bytes: bool,
    errors: Arc<ErrorHandler>,
}

impl PythonDevice {
    /// `width` is that of the widest access the device takes, in bytes; `lock` has `acquire` and `release`.
    pub fn new(
        read: Py<PyAny>,
        write: Py<PyAny>,
        blocks: Option<Blocks>,
        width: u8,
        lock: Option<Bound<'_, PyAny>>,
        errors: Arc<ErrorHandler>,
    ) -> PyResult<PythonDevice> {
        Ok(PythonDevice {
            read,
            write,
            blocks,
            lock: lock.as_ref().map(Lock::of).transpose()?,
            bytes: width == 1,
            errors,
        })
    }

    /// Makes a call under the lock; None: it failed, which the error handler has heard.
    fn locked<T>(&self, py: Python<'_>, call: impl FnOnce() -> PyResult<T>) -> Option<T> {
        let result = match &self.lock {
            Some(lock) => lock.hold(py, call),
            None => call(),
        };
        result
            .inspect_err(|error| self.errors.report(py, error.clone_ref(py)))
            .ok()
    }

    fn call_read(&self, py: Python<'_>, offset: u64, size: u8) -> PyResult<u64> {
        let read = self.read.bind(py);
        let value = if self.bytes {
            read.call1((offset,))?
        } else {
            read.call1((offset, size))?
        };
        value.extract()
    }

    fn call_write(&self, py: Python<'_>, offset: u64, size: u8, value: u64) -> PyResult<()> {
        let write = self.write.bind(py);
        if self.bytes {
            write.call1((offset, value))?;
        } else {
            write.call1((offset, value, size))?;
        }
        Ok(())
    }

    fn call_read_block(
        &self,
        py: Python<'_>,
        blocks: &Blocks,
        offset: u64,
        size: u8,
        buffer: &mut [u8],
    ) -> PyResult<()> {
        let count = buffer.len() / size as usize;
        let data = blocks.read.bind(py).call1((offset, size, count))?;
        let bytes: &[u8] = data.extract()?;
        if bytes.len() != buffer.len() {
            let (want, got) = (buffer.len(), bytes.len());
            return Err(PyValueError::new_err(format!(
                "a block of {got} bytes where {want} were asked for"
            )));
        }
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(blocks) = &self.blocks {
            visit.call(&blocks.read)?;
            visit.call(&blocks.write)?;
        }
        if let Some(lock) = &self.lock {
            visit.call(&lock.acquire)?;
            visit.call(&lock.release)?;
        }
        visit.call(&self.read)?;
        visit.call(&self.write)
    }
}

impl Device for PythonDevice {
    fn read_string(&self, offset: u64, size: u8, buffer: &mut [u8]) {
        let Some(blocks) = &self.blocks else {
            return Python::attach(|_| read_elements(size, buffer, || self.read(offset, size)));
        };
        Python::attach(|py| {
            let read = || self.call_read_block(py, blocks, offset, size, buffer);
            if self.locked(py, read).is_none() {
                buffer.fill(0xFF);
            }
        });
    }

    fn write_string(&self, offset: u64, size: u8, data: &[u8]) {
        let Some(blocks) = &self.blocks else {
            return write_elements(size, data, |value| self.write(offset, size, value));
        };
        Python::attach(|py| {
            let data = PyBytes::new(py, data);
            self.locked(py, || blocks.write.bind(py).call1((offset, size, data)));
        });
    }

    fn read(&self, offset: u64, size: u8) -> u64 {
        Python::attach(|py| {
            let value = self.locked(py, || self.call_read(py, offset, size));
            value.unwrap_or(open_bus(size))
        })
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        Python::attach(|py| {
            self.locked(py, || self.call_write(py, offset, size, value));
        });
    }
}

/// A callable behind the gateway: takes seven registers and the privilege level, returns seven
/// registers or None.
pub struct PythonGateway {
    call: Py<PyAny>,
    errors: Arc<ErrorHandler>,
}

impl PythonGateway {
    pub fn new(call: Py<PyAny>, errors: Arc<ErrorHandler>) -> PythonGateway {
        PythonGateway { call, errors }
    }

    fn call(&self, py: Python<'_>, r: &CallRegisters, cpl: u8) -> PyResult<Option<CallRegisters>> {
        let result = self
            .call
            .bind(py)
            .call1((r[0], r[1], r[2], r[3], r[4], r[5], r[6], cpl))?;
        result.extract()
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.call)
    }
}

impl Gateway for PythonGateway {
    fn call(&self, registers: &mut CallRegisters, cpl: u8) -> bool {
        Python::attach(|py| match self.call(py, registers, cpl) {
            Ok(Some(result)) => {
                *registers = result;
                true
            }
            Ok(None) => false,
            Err(error) => {
                self.errors.report(py, error);
                false
            }
        })
    }
}

/// A width that windows may have.
pub fn check_width(width: u8, allowed: &[u8]) -> PyResult<()> {
    if allowed.contains(&width) {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "width: {width} bytes; give one of {allowed:?}"
    )))
}
