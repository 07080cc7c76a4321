//! `play_fm`: the voices of an OPL3, as `ring3/devices/sound/opl3.py` keeps them.

use engine::fm::{OPERATORS, Operator, REGISTERS, Voices};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

/// More at once would be a mistake: 10 s.
const FRAMES_MAX: usize = 500_000;

/// The attributes of Python's voices; lists by operator.
#[derive(FromPyObject)]
struct Fields {
    frame: u64,
    noise: u32,
    phase: [u32; OPERATORS],
    attenuation: [u32; OPERATORS],
    stage: [u32; OPERATORS],
    output: [i32; OPERATORS],
    output_before: [i32; OPERATORS],
}

impl Fields {
    fn voices(&self) -> Voices {
        Voices {
            frame: self.frame,
            noise: self.noise,
            operators: std::array::from_fn(|n| {
                let output = [self.output[n], self.output_before[n]];
                Operator::new(self.phase[n], self.attenuation[n], self.stage[n], output)
            }),
        }
    }
}

fn store(target: &Bound<'_, PyAny>, voices: &Voices) -> PyResult<()> {
    let operators = &voices.operators;
    target.setattr("frame", voices.frame)?;
    target.setattr("noise", voices.noise)?;
    target.setattr("phase", operators.map(|one| one.phase))?;
    target.setattr("attenuation", operators.map(|one| one.attenuation))?;
    target.setattr("stage", operators.map(|one| one.stage as u32))?;
    target.setattr("output", operators.map(|one| one.output[0]))?;
    target.setattr("output_before", operators.map(|one| one.output[1]))
}

#[pyfunction]
pub fn play_fm<'py>(
    py: Python<'py>,
    registers: &Bound<'py, PyByteArray>,
    keys: u64,
    voices: &Bound<'py, PyAny>,
    frames: usize,
    gains: (f32, f32),
) -> PyResult<(Bound<'py, PyBytes>, bool)> {
    let registers: [u8; REGISTERS] = registers
        .to_vec()
        .try_into()
        .map_err(|_| PyValueError::new_err("an OPL3 has 512 registers"))?;
    if frames > FRAMES_MAX {
        return Err(PyValueError::new_err(format!("{frames} frames at once")));
    }
    let mut playing = voices.extract::<Fields>()?.voices();
    let mut samples = vec![[0; 2]; frames];
    let audible = playing.play(&registers, keys, gains, &mut samples);
    store(voices, &playing)?;
    let bytes: Vec<u8> = samples
        .as_flattened()
        .iter()
        .flat_map(|sample| sample.to_le_bytes())
        .collect();
    Ok((PyBytes::new(py, &bytes), audible))
}
