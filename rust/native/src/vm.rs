//! `Vm`: guest memory and the I/O map.

use crate::device::{Blocks, ErrorHandler, PythonDevice, PythonGateway, check_width, locked};
use crate::image::{ExtentRecord, RamImage, extents_of};
use crate::video::VideoMemory;
use engine::io::{IoMap, Overlap};
use engine::memory::{Memory, PAGE};
use engine::mmu::walk::PHYSICAL_BITS;
use engine::vcpu::Shared;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

const PORTS: u64 = 0x1_0000;
/// First guest-physical address that the CPU can't form.
const PHYSICAL_END: u64 = 1 << PHYSICAL_BITS;

/// A window of Python's, kept for the garbage collector.
struct Mapped {
    first: u64,
    count: u64,
    device: Arc<PythonDevice>,
}

/// The machine's vCPUs, told when the map, code in memory or dirty logs change.
#[derive(Default)]
pub struct Vcpus(Mutex<Vec<Weak<Shared>>>);

impl Vcpus {
    fn living(&self) -> Vec<Arc<Shared>> {
        locked(&self.0).iter().filter_map(Weak::upgrade).collect()
    }

    /// Makes them look at what changed before their next instructions.
    pub fn attend(&self) {
        for vcpu in self.living() {
            vcpu.attend();
        }
    }

    /// Has them attend, and waits until stores are told to the dirty logs of `generation`; false:
    /// not all came round within `patience`.
    pub fn wait_for_logs(&self, generation: u64, patience: Duration) -> bool {
        self.attend();
        let vcpus = self.living();
        vcpus
            .iter()
            .all(|vcpu| vcpu.wait_for_logs(generation, patience))
    }
}

#[pyclass(frozen, module = "ring3._native")]
pub struct Vm {
    pub engine: Arc<engine::vcpu::Vm>,
    pub errors: Arc<ErrorHandler>,
    ports: Mutex<Vec<Mapped>>,
    mmio: Mutex<Vec<Mapped>>,
    gateway: Mutex<Option<Arc<PythonGateway>>>,
    vcpus: Arc<Vcpus>,
}

impl Vm {
    pub fn add_vcpu(&self, shared: &Arc<Shared>) {
        let mut vcpus = locked(&self.vcpus.0);
        vcpus.retain(|vcpu| vcpu.strong_count() > 0);
        vcpus.push(Arc::downgrade(shared));
    }

    fn attend(&self) {
        self.vcpus.attend();
    }

    fn map_changed(&self) {
        self.engine.memory.map_changed();
        self.attend();
    }

    fn device(
        &self,
        read: Py<PyAny>,
        write: Py<PyAny>,
        blocks: Option<Blocks>,
        width: u8,
        lock: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Arc<PythonDevice>> {
        let errors = self.errors.clone();
        let device = PythonDevice::new(read, write, blocks, width, lock, errors)?;
        Ok(Arc::new(device))
    }

    fn store(&self, address: u64, data: &[u8]) {
        let io = &self.engine.io;
        if self
            .engine
            .memory
            .write(address, data, |page| io.page_has_mmio(page))
        {
            self.attend();
        }
    }
}

/// `first`…`first + count` lies below `end` and isn't empty.
fn check_range(what: &str, first: u64, count: u64, end: u64) -> PyResult<()> {
    if count > 0 && first < end && count <= end - first {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "{count:#x} {what} from {first:#x}: not within 0 to {:#x}",
        end - 1
    )))
}

pub fn check_pages(what: &str, base: u64, size: u64) -> PyResult<()> {
    check_range(what, base, size, PHYSICAL_END)?;
    if base.is_multiple_of(PAGE) && size.is_multiple_of(PAGE) {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "{size:#x} {what} from {base:#x}: not whole pages of {PAGE:#x}"
    )))
}

fn overlap(what: &str, first: u64, count: u64) -> impl FnOnce(Overlap) -> PyErr {
    let text = format!("{count:#x} {what} from {first:#x} overlap others that are mapped");
    |_| PyValueError::new_err(text)
}

/// Takes the window out of `list`; its callables are dropped by the caller, after the lock.
fn take(list: &Mutex<Vec<Mapped>>, first: u64, count: u64) -> Vec<Mapped> {
    locked(list)
        .extract_if(.., |m| m.first == first && m.count == count)
        .collect()
}

#[pymethods]
impl Vm {
    #[new]
    fn new(ram_bytes: u64, low_ram_bytes: u64) -> PyResult<Vm> {
        let memory = Memory::new(ram_bytes, low_ram_bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput => PyValueError::new_err(format!(
                "RAM of {ram_bytes:#x} bytes, {low_ram_bytes:#x} of them low: \
                 sizes are multiples of {PAGE:#x}, low RAM ends at 4 GiB"
            )),
            _ => PyMemoryError::new_err(format!("{} MiB of RAM: {error}", ram_bytes >> 20)),
        })?;
        Ok(Vm {
            engine: Arc::new(engine::vcpu::Vm {
                memory: memory.into(),
                io: IoMap::default(),
            }),
            errors: Arc::default(),
            ports: Mutex::default(),
            mmio: Mutex::default(),
            gateway: Mutex::default(),
            vcpus: Arc::default(),
        })
    }

    #[getter]
    fn ram_bytes(&self) -> u64 {
        self.engine.memory.ram_bytes()
    }

    #[getter]
    fn low_ram_bytes(&self) -> u64 {
        self.engine.memory.low_bytes()
    }

    #[getter]
    fn total_bytes(&self) -> u64 {
        self.engine.memory.total_bytes()
    }

    fn freeze(&self, py: Python<'_>) -> PyResult<RamImage> {
        let image = py.detach(|| self.engine.memory.freeze())?;
        Ok(RamImage::new(image))
    }

    fn adopt(&self, py: Python<'_>, extents: Vec<ExtentRecord>) -> PyResult<()> {
        let extents = extents_of(&extents)?;
        py.detach(|| self.engine.memory.adopt(extents))
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidInput => {
                    PyValueError::new_err("extents are not whole pages in order, in RAM and file")
                }
                _ => error.into(),
            })
    }

    fn read_physical<'py>(
        &self,
        py: Python<'py>,
        address: u64,
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, length, |out| {
            let io = &self.engine.io;
            self.engine
                .memory
                .read(address, out, |page| io.page_has_mmio(page));
            Ok(())
        })
    }

    fn write_physical(&self, address: u64, data: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            self.store(address, bytes.as_bytes());
            return Ok(());
        }
        let buffer = PyBuffer::<u8>::get(data)?;
        self.store(address, &buffer.to_vec(data.py())?);
        Ok(())
    }

    /// `data` piece by piece into the regions (address, bytes), as far as both reach.
    fn scatter_physical(&self, regions: Vec<(u64, usize)>, data: &[u8]) {
        let mut rest = data;
        for (address, length) in regions {
            let Some((piece, after)) = rest.split_at_checked(length.min(rest.len())) else {
                return;
            };
            self.store(address & (PHYSICAL_END - 1), piece);
            rest = after;
        }
    }

    /// A file of the host from `offset` on into the regions (address, bytes); false: not all of it.
    fn fill_physical(
        &self,
        py: Python<'_>,
        regions: Vec<(u64, usize)>,
        fd: i32,
        offset: u64,
    ) -> bool {
        let on_the_bus = regions.iter().map(|&(at, n)| (at & (PHYSICAL_END - 1), n));
        let io = &self.engine.io;
        let memory = &self.engine.memory;
        let filled =
            py.detach(|| memory.fill(on_the_bus, fd, offset, |page| io.page_has_mmio(page)));
        if filled.noted {
            self.attend();
        }
        filled.whole
    }

    /// What the regions (address, bytes) hold, one after the other.
    fn gather_physical<'py>(
        &self,
        py: Python<'py>,
        regions: Vec<(u64, usize)>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let total = regions.iter().map(|(_, length)| length).sum();
        PyBytes::new_with(py, total, |out| {
            let io = &self.engine.io;
            let mut rest = out;
            for (address, length) in regions {
                let Some((piece, after)) = rest.split_at_mut_checked(length) else {
                    break;
                };
                let memory = &self.engine.memory;
                memory.read(address & (PHYSICAL_END - 1), piece, |page| {
                    io.page_has_mmio(page)
                });
                rest = after;
            }
            Ok(())
        })
    }

    fn search_ram(&self, py: Python<'_>, needle: &[u8], most: usize) -> Vec<u64> {
        let needle = needle.to_vec();
        py.detach(|| self.engine.memory.search(&needle, most))
    }

    #[pyo3(signature = (first, count, read, write, *, width = 1, blocks = None, lock = None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn map_ports(
        &self,
        first: u64,
        count: u64,
        read: Py<PyAny>,
        write: Py<PyAny>,
        width: u8,
        blocks: Option<(Py<PyAny>, Py<PyAny>)>,
        lock: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        check_range("ports", first, count, PORTS)?;
        check_width(width, &[1, 2, 4])?;
        let blocks = blocks.map(|(read, write)| Blocks { read, write });
        let device = self.device(read, write, blocks, width, lock)?;
        self.engine
            .io
            .map_ports(first as u16, count as u32, width, device.clone())
            .map_err(overlap("ports", first, count))?;
        locked(&self.ports).push(Mapped {
            first,
            count,
            device,
        });
        Ok(())
    }

    fn unmap_ports(&self, first: u64, count: u64) -> PyResult<()> {
        check_range("ports", first, count, PORTS)?;
        self.engine.io.unmap_ports(first as u16, count as u32);
        drop(take(&self.ports, first, count));
        Ok(())
    }

    fn set_gateway(&self, port: u16, magic: u32, call: Py<PyAny>) {
        let gateway = Arc::new(PythonGateway::new(call, self.errors.clone()));
        self.engine
            .io
            .set_gateway(port, magic, Some(gateway.clone()));
        let old = locked(&self.gateway).replace(gateway);
        drop(old);
    }

    #[pyo3(signature = (base, size, read, write, *, width = 4, lock = None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn map_mmio(
        &self,
        base: u64,
        size: u64,
        read: Py<PyAny>,
        write: Py<PyAny>,
        width: u8,
        lock: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        check_pages("bytes of MMIO", base, size)?;
        check_width(width, &[1, 2, 4, 8])?;
        let device = self.device(read, write, None, 0, lock)?;
        self.engine
            .io
            .map_mmio(base, size, width, device.clone())
            .map_err(overlap("bytes of MMIO", base, size))?;
        locked(&self.mmio).push(Mapped {
            first: base,
            count: size,
            device,
        });
        self.map_changed();
        Ok(())
    }

    fn unmap_mmio(&self, base: u64, size: u64) -> PyResult<()> {
        check_pages("bytes of MMIO", base, size)?;
        self.engine.io.unmap_mmio(base, size);
        drop(take(&self.mmio, base, size));
        self.map_changed();
        Ok(())
    }

    fn map_rom(&self, base: u64, data: &[u8]) -> PyResult<()> {
        check_pages("bytes of ROM", base, data.len() as u64)?;
        self.engine
            .memory
            .map_rom(base, data)
            .map_err(|error| PyMemoryError::new_err(format!("ROM at {base:#x}: {error}")))?;
        self.attend();
        Ok(())
    }

    /// For a flash chip: reads see its array, or the MMIO window at the same place.
    fn show_rom(&self, base: u64, shown: bool) {
        self.engine.memory.show_rom(base, shown);
        self.attend();
    }

    fn program_rom(&self, address: u64, data: &[u8]) {
        self.engine.memory.program_rom(address, data);
        self.attend();
    }

    fn set_shadow(&self, base: u64, size: u64, read: bool, write: bool) {
        self.engine.memory.set_shadow(base, size, read, write);
        self.attend();
    }

    fn set_a20(&self, enabled: bool) {
        self.engine.memory.set_a20(enabled);
        self.attend();
    }

    fn add_video_memory(&self, size: u64) -> PyResult<VideoMemory> {
        check_range("bytes of video memory", 0, size, u32::MAX as u64)?;
        VideoMemory::new(self.engine.clone(), self.vcpus.clone(), size).map_err(|error| {
            PyMemoryError::new_err(format!("video memory of {size:#x} bytes: {error}"))
        })
    }

    fn set_io_error_handler(&self, handler: Py<PyAny>) {
        self.errors.set(Some(handler));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.errors.traverse(&visit)?;
        if let Some(gateway) = &*locked(&self.gateway) {
            gateway.traverse(&visit)?;
        }
        for list in [&self.ports, &self.mmio] {
            for mapped in locked(list).iter() {
                mapped.device.traverse(&visit)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let ports = std::mem::take(&mut *locked(&self.ports));
        for m in &ports {
            self.engine.io.unmap_ports(m.first as u16, m.count as u32);
        }
        let mmio = std::mem::take(&mut *locked(&self.mmio));
        for m in &mmio {
            self.engine.io.unmap_mmio(m.first, m.count);
        }
        self.engine.io.set_gateway(0, 0, None);
        let gateway = locked(&self.gateway).take();
        drop(gateway);
        self.errors.set(None);
    }
}
