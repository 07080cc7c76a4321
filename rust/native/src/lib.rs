//! ring3._native: the engine's face in Python (PyO3), and nothing else.
//!
//! `src/ring3/_native.pyi` documents what Python sees.

mod device;
mod encode;
mod image;
mod registers;
mod snapshot;
mod sound;
mod vcpu;
mod video;
mod vm;

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Why `Vcpu.run` came back.
#[pyclass(frozen, module = "ring3._native")]
struct Exit;

#[pymethods]
impl Exit {
    #[classattr]
    const HALT: i32 = engine::exit::Exit::Halt as i32;
    #[classattr]
    const KICKED: i32 = engine::exit::Exit::Kicked as i32;
    #[classattr]
    const SHUTDOWN: i32 = engine::exit::Exit::Shutdown as i32;
    #[classattr]
    const ERROR: i32 = engine::exit::Exit::Error as i32;
}

#[pyfunction]
fn cpu_models(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, description) in engine::cpuid::models() {
        dict.set_item(name, description)?;
    }
    Ok(dict)
}

#[pyfunction]
fn host_features(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, present) in engine::cpuid::host_features() {
        dict.set_item(name, present)?;
    }
    Ok(dict)
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    engine::vcpu::begin_tsc_hz();
    module.add_class::<vm::Vm>()?;
    module.add_class::<vcpu::Vcpu>()?;
    module.add_class::<video::VideoMemory>()?;
    module.add_class::<image::RamImage>()?;
    module.add_class::<Exit>()?;
    module.add_class::<encode::Frame>()?;
    module.add_class::<encode::PixelFormat>()?;
    module.add_function(wrap_pyfunction!(sound::play_fm, module)?)?;
    module.add_function(wrap_pyfunction!(cpu_models, module)?)?;
    module.add_function(wrap_pyfunction!(host_features, module)?)
}
