//! `Frame` and `PixelFormat`: the screen as consoles send it.  All work is done without the GIL.

use crate::device::locked;
use engine::encode::format::{Painter, PixelFormat as Format};
use engine::encode::{Area, frame, tight, zrle};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Mutex;

type Rect = (usize, usize, usize, usize);
type Copy = (usize, usize, usize, usize, usize, usize);

#[pyclass(frozen, module = "ring3._native")]
pub struct PixelFormat {
    painter: Painter,
}

#[pymethods]
impl PixelFormat {
    #[new]
    #[pyo3(signature = (bits, depth, big_endian, max, shift))]
    fn new(
        bits: u8,
        depth: u8,
        big_endian: bool,
        max: [u16; 3],
        shift: [u8; 3],
    ) -> PyResult<PixelFormat> {
        let format = Format {
            bits,
            depth,
            big_endian,
            max,
            shift,
        };
        match format.painter() {
            Some(painter) => Ok(PixelFormat { painter }),
            None => Err(PyValueError::new_err(format!(
                "no pixel format: {format:?}"
            ))),
        }
    }
}

#[pyclass(frozen, module = "ring3._native")]
pub struct Frame {
    frame: Mutex<frame::Frame>,
}

fn area((x, y, width, height): Rect) -> Area {
    Area {
        x,
        y,
        width,
        height,
    }
}

fn rect(area: Area) -> Rect {
    (area.x, area.y, area.width, area.height)
}

impl Frame {
    /// The area clipped to the frame.
    fn clip(frame: &frame::Frame, of: Rect) -> Area {
        area(of).within(frame.width(), frame.height())
    }
}

#[pymethods]
impl Frame {
    #[new]
    fn new(width: usize, height: usize) -> PyResult<Frame> {
        match frame::Frame::new(width, height) {
            Some(frame) => Ok(Frame {
                frame: Mutex::new(frame),
            }),
            None => Err(PyValueError::new_err(format!(
                "{width}x{height}: more than {} pixels",
                frame::MAX_SIDE
            ))),
        }
    }

    fn update(
        &self,
        py: Python<'_>,
        of: Rect,
        pixels: &Bound<'_, PyBytes>,
        find_scroll: bool,
    ) -> PyResult<(Option<Copy>, Vec<Rect>)> {
        let data = pixels.as_bytes();
        let area = area(of);
        let found = py.detach(|| locked(&self.frame).update(area, data, find_scroll));
        let Some((scroll, changed)) = found else {
            return Err(PyValueError::new_err(format!(
                "{} bytes are not the pixels of {of:?}, or that is not on the frame",
                data.len()
            )));
        };
        let copy = scroll.map(|s| (area.x, s.from, area.x, s.to, area.width, s.height));
        Ok((copy, changed.into_iter().map(rect).collect()))
    }

    fn raw<'py>(&self, py: Python<'py>, of: Rect, format: &PixelFormat) -> Bound<'py, PyBytes> {
        let data = py.detach(|| {
            let frame = locked(&self.frame);
            let mut out = Vec::new();
            frame.raw(Frame::clip(&frame, of), &format.painter, &mut out);
            out
        });
        PyBytes::new(py, &data)
    }

    fn zrle<'py>(&self, py: Python<'py>, of: Rect, format: &PixelFormat) -> Bound<'py, PyBytes> {
        let data = py.detach(|| {
            let frame = locked(&self.frame);
            let mut out = Vec::new();
            zrle::encode(&frame, Frame::clip(&frame, of), &format.painter, &mut out);
            out
        });
        PyBytes::new(py, &data)
    }

    #[expect(clippy::type_complexity, reason = "what Python sees")]
    fn tight<'py>(
        &self,
        py: Python<'py>,
        of: Rect,
        format: &PixelFormat,
    ) -> Vec<(Rect, Bound<'py, PyBytes>, Option<u8>, Bound<'py, PyBytes>)> {
        let pieces = py.detach(|| {
            let frame = locked(&self.frame);
            tight::encode(&frame, Frame::clip(&frame, of), &format.painter)
        });
        let give = |p: tight::Piece| {
            (
                rect(p.area),
                PyBytes::new(py, &p.head),
                p.stream,
                PyBytes::new(py, &p.body),
            )
        };
        pieces.into_iter().map(give).collect()
    }
}
