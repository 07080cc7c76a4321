//! `VideoMemory`: a VGA's memory, its window, and pictures of it.

use crate::vm::Vcpus;
use engine::dirty::LogId;
use engine::memory::Memory;
use engine::pixels::{self, Area, COLORS, Font, Format, Picture, Vram};
use engine::vga::{Registers, WINDOW_BYTES, Window};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use std::sync::Arc;
use std::time::Duration;

/// How long `collect` waits for vCPUs that a device holds up.
const PATIENCE: Duration = Duration::from_millis(20);
/// No screen is larger (pixels across and down).
const MAX_SIDE: u32 = 16384;

/// The attributes of a Python picture (`ring3/devices/video/picture.py`).
#[derive(FromPyObject)]
struct Fields<'py> {
    format: u32,
    width: u32,
    height: u32,
    start: u32,
    pitch: u32,
    address_mask: u32,
    address_shift: u32,
    wrap_bit: u32,
    row_scan_bits: u32,
    row_lines: u32,
    double_scan: bool,
    preset_row: u32,
    line_compare: u32,
    pan: u32,
    byte_pan: u32,
    split_unpanned: bool,
    double_dots: bool,
    cell_width: u32,
    fonts: (u32, u32),
    cursor: Option<u32>,
    cursor_lines: (u32, u32),
    blink: bool,
    blink_hides: bool,
    underline: u32,
    line_graphics: bool,
    palette: Bound<'py, PyBytes>,
}

impl Fields<'_> {
    fn picture(self) -> PyResult<Picture> {
        if self.width > MAX_SIDE || self.height > MAX_SIDE {
            return Err(PyValueError::new_err(format!(
                "a picture of {}×{}: at most {MAX_SIDE}×{MAX_SIDE}",
                self.width, self.height
            )));
        }
        let mut palette = [0; COLORS];
        let colors = self.palette.as_bytes().chunks_exact(4);
        for (entry, color) in palette.iter_mut().zip(colors) {
            *entry = u32::from_le_bytes([color[0], color[1], color[2], color[3]]);
        }
        Ok(Picture {
            format: Format::from_number(self.format),
            width: self.width,
            height: self.height,
            start: self.start,
            pitch: self.pitch,
            address_mask: self.address_mask,
            address_shift: self.address_shift,
            wrap_bit: self.wrap_bit & 31,
            row_scan_bits: self.row_scan_bits,
            row_lines: self.row_lines,
            double_scan: self.double_scan,
            preset_row: self.preset_row,
            line_compare: self.line_compare,
            pan: self.pan,
            byte_pan: self.byte_pan,
            split_unpanned: self.split_unpanned,
            double_dots: self.double_dots,
            cell_width: self.cell_width,
            fonts: [self.fonts.0, self.fonts.1],
            cursor: self.cursor,
            cursor_lines: self.cursor_lines,
            blink: self.blink,
            blink_hides: self.blink_hides,
            underline: self.underline,
            line_graphics: self.line_graphics,
            palette,
        })
    }
}

/// The registers that fit, the rest zero.
fn registers<const N: usize>(values: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    for (register, value) in all.iter_mut().zip(values) {
        *register = *value;
    }
    all
}

/// Columns, rows, codes, cells with a glyph, cells with two colours.
type FoundText<'py> = (u32, u32, Bound<'py, PyBytes>, usize, usize);

#[pyclass(frozen, module = "ring3._native")]
pub struct VideoMemory {
    vm: Arc<engine::vcpu::Vm>,
    vcpus: Arc<Vcpus>,
    /// Behind the first byte of RAM.
    offset: u64,
    bytes: u64,
    window: Arc<Window>,
    log: LogId,
}

impl Drop for VideoMemory {
    fn drop(&mut self) {
        self.memory().close_log(self.log);
    }
}

impl VideoMemory {
    /// `bytes`: whole pages.
    pub fn new(
        vm: Arc<engine::vcpu::Vm>,
        vcpus: Arc<Vcpus>,
        bytes: u64,
    ) -> std::io::Result<VideoMemory> {
        let offset = vm.memory.add_extra(bytes)?;
        let log = vm.memory.open_log(offset..offset + bytes)?;
        let attend = {
            let vcpus = vcpus.clone();
            Box::new(move || vcpus.attend())
        };
        let window = Window::new(vm.memory.clone(), offset, bytes as u32, attend);
        Ok(VideoMemory {
            vm,
            vcpus,
            offset,
            bytes,
            window: Arc::new(window),
            log,
        })
    }

    fn memory(&self) -> &Memory {
        &self.vm.memory
    }

    fn vram(&self) -> Vram {
        // SAFETY: page aligned, as long as guest memory, which `self` keeps.
        unsafe { Vram::new(self.memory().ram_at(self.offset), self.bytes as usize) }
    }

    fn check(&self, offset: u64, length: u64) -> PyResult<()> {
        if offset <= self.bytes && length <= self.bytes - offset {
            return Ok(());
        }
        Err(PyValueError::new_err(format!(
            "{length:#x} bytes from {offset:#x}: video memory has {:#x}",
            self.bytes
        )))
    }

    fn store(&self, offset: u64, data: &[u8]) {
        if self.memory().write_extra(self.offset + offset, data) {
            self.vcpus.attend();
        }
    }

    fn collect_ranges(&self) -> Vec<(u64, u64)> {
        let memory = self.memory();
        let runs = memory.collect_log(self.log);
        if !runs.is_empty()
            && !self
                .vcpus
                .wait_for_logs(memory.logs().generation(), PATIENCE)
        {
            // Stores may still come unseen: looked at again soon.
            for offset in runs
                .iter()
                .cloned()
                .flatten()
                .step_by(engine::memory::PAGE as usize)
            {
                memory.note_dirty(offset);
            }
        }
        let relative =
            |run: &std::ops::Range<u64>| (run.start - self.offset, run.end - self.offset);
        runs.iter().map(relative).collect()
    }
}

#[pymethods]
impl VideoMemory {
    #[getter]
    fn size_bytes(&self) -> u64 {
        self.bytes
    }

    #[getter]
    fn changed_fd(&self) -> i32 {
        self.memory().log_fd(self.log)
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        length: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.check(offset, length)?;
        PyBytes::new_with(py, length as usize, |out| {
            let source = self.memory().ram_at(self.offset + offset);
            // SAFETY: checked to lie inside video memory.
            unsafe { source.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> PyResult<()> {
        self.check(offset, data.len() as u64)?;
        self.store(offset, data);
        Ok(())
    }

    fn clear(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<()> {
        self.check(offset, length)?;
        py.detach(|| {
            let zeros = [0; 4096];
            let mut at = offset;
            while at < offset + length {
                let n = zeros.len().min((offset + length - at) as usize);
                self.store(at, &zeros[..n]);
                at += n as u64;
            }
        });
        Ok(())
    }

    // --- where the guest sees it ---

    fn map_window(&self, base: u64) -> PyResult<()> {
        let mapped = self
            .vm
            .io
            .map_mmio(base, WINDOW_BYTES, 8, self.window.clone());
        mapped.map_err(|_| {
            PyValueError::new_err(format!("the VGA's window at {base:#x} overlaps"))
        })?;
        self.vm.memory.map_changed();
        self.vcpus.attend();
        Ok(())
    }

    fn map_view(&self, base: u64, size: u64, offset: u64) -> PyResult<()> {
        self.check(offset, size)?;
        crate::vm::check_pages("bytes of video memory", base, size)?;
        self.memory().map_view(base, size, self.offset + offset);
        self.vcpus.attend();
        Ok(())
    }

    fn unmap_view(&self, base: u64) {
        self.memory().unmap_view(base);
        self.vcpus.attend();
    }

    fn set_registers(
        &self,
        misc_output: u8,
        sequencer: PyBackedBytes,
        graphics: PyBackedBytes,
        bank: u32,
    ) {
        self.window.set_registers(Registers {
            misc_output,
            sequencer: registers(&sequencer),
            graphics: registers(&graphics),
            bank,
        });
    }

    #[getter]
    fn latch(&self) -> u32 {
        self.window.latch()
    }

    #[setter]
    fn set_latch(&self, latch: u32) {
        self.window.set_latch(latch);
    }

    // --- changes ---

    fn signal(&self) {
        self.memory().tell_log(self.log);
    }

    fn collect(&self, py: Python<'_>) -> Vec<(u64, u64)> {
        py.detach(|| self.collect_ranges())
    }

    fn disarm(&self) {
        self.memory().disarm_log(self.log);
    }

    // --- what it shows ---

    fn pixels<'py>(
        &self,
        py: Python<'py>,
        picture: Fields<'py>,
        x: u32,
        y: u32,
        width: u32,
        height: u32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let picture = picture.picture()?;
        let inside = |first: u32, n: u32, all: u32| first <= all && n <= all - first;
        if !inside(x, width, picture.width) || !inside(y, height, picture.height) {
            return Err(PyValueError::new_err("the area is not inside the picture"));
        }
        let area = Area {
            x,
            y,
            width,
            height,
        };
        let vram = self.vram();
        PyBytes::new_with(py, width as usize * height as usize * 4, |out| {
            py.detach(|| pixels::render(vram, &picture, area, out));
            Ok(())
        })
    }

    fn cells<'py>(
        &self,
        py: Python<'py>,
        picture: Fields<'py>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (codes, attributes) = pixels::cells(self.vram(), &picture.picture()?);
        Ok((PyBytes::new(py, &codes), PyBytes::new(py, &attributes)))
    }

    fn font<'py>(
        &self,
        py: Python<'py>,
        picture: Fields<'py>,
        number: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let font = pixels::font(self.vram(), &picture.picture()?, number);
        Ok(PyBytes::new(py, &font))
    }

    fn find_text<'py>(
        &self,
        py: Python<'py>,
        picture: Fields<'py>,
        scale: (usize, usize),
        fonts: Vec<(usize, Bound<'py, PyBytes>, (usize, usize))>,
    ) -> PyResult<Option<FoundText<'py>>> {
        let picture = picture.picture()?;
        let owned: Vec<(usize, Vec<u8>, (usize, usize))> = fonts
            .iter()
            .map(|(height, glyphs, origin)| (*height, glyphs.as_bytes().to_vec(), *origin))
            .collect();
        let fonts: Vec<Font> = owned
            .iter()
            .map(|(height, glyphs, origin)| Font {
                height: *height,
                glyphs,
                origin: *origin,
            })
            .collect();
        let vram = self.vram();
        let found = py.detach(|| pixels::find_text(vram, &picture, scale, &fonts));
        Ok(found.map(|f| {
            let codes = PyBytes::new(py, &f.codes);
            (f.columns, f.rows, codes, f.drawn, f.plain)
        }))
    }
}
