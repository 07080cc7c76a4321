//! ring3._native: the engine's face in Python (PyO3), and nothing else.

use pyo3::prelude::*;

#[pymodule]
fn _native(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
