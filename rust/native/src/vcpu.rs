//! `Vcpu`: one virtual CPU, and what it tells of itself.
//!
//! The engine's vCPU is behind a lock that whoever uses it holds, `live`, `run` and `wait` for as
//! long as they last.  What any thread may do at any time goes through the engine's `Shared`; the rest
//! raises RuntimeError while the lock is held, by another thread or by a device inside `run`.

use crate::device::locked;
use crate::registers;
use crate::snapshot;
use crate::vm::Vm;
use engine::apic::Message;
use engine::cpuid::Model;
use engine::exit::Exit;
use engine::memory::PAGE;
use engine::mmu::walk;
use engine::stats::Stats;
use engine::translate::window::Policy;
use engine::vcpu::{Backend, Shared};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

/// Bytes that `read_virtual` gives at most.
const READ_LIMIT: usize = 1 << 30;
/// The vector of an interrupt acknowledge cycle that nobody answers.
const OPEN_VECTOR: u8 = 0xFF;

/// How long counters that `stats` shows may be old while `live` is on and the guest halts now and then.
const PUBLISH_NS: u64 = 100_000_000;

type Callback = Mutex<Option<Arc<Py<PyAny>>>>;

#[pyclass(frozen, module = "ring3._native")]
pub struct Vcpu {
    engine: Mutex<engine::vcpu::Vcpu>,
    /// `live`, `run` or `wait` is on.
    occupied: AtomicBool,
    shared: Arc<Shared>,
    /// As of the last return of these, or of a halt in `live`.
    stats: Mutex<Stats>,
    vm: Py<Vm>,
    acknowledge: Callback,
    eoi: Callback,
    ferr: Callback,
}

fn busy() -> PyErr {
    PyRuntimeError::new_err("the vCPU is running: kick it, and ask when `run` is back")
}

impl Vcpu {
    fn engine(&self) -> PyResult<MutexGuard<'_, engine::vcpu::Vcpu>> {
        match self.engine.try_lock() {
            Ok(engine) => Ok(engine),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(busy()),
        }
    }

    /// A callable for the garbage collector to see, and what calls it with one value.
    fn notifier<V>(
        &self,
        py: Python<'_>,
        callable: Py<PyAny>,
    ) -> (Arc<Py<PyAny>>, impl Fn(V) + use<V>)
    where
        V: for<'py> IntoPyObject<'py>,
    {
        let callable = Arc::new(callable);
        let errors = self.vm.bind(py).get().errors.clone();
        let called = callable.clone();
        let call = move |value| {
            Python::attach(|py| {
                if let Err(error) = called.call1(py, (value,)) {
                    errors.report(py, error);
                }
            });
        };
        (callable, call)
    }

    /// Does what takes long with the GIL dropped, and publishes the counters.
    fn detached<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut engine::vcpu::Vcpu) -> T + Send,
    ) -> PyResult<T> {
        if self.occupied.swap(true, Ordering::AcqRel) {
            return Err(busy());
        }
        let result = py.detach(|| {
            // Whoever else has it gives it back soon.
            let mut engine = locked(&self.engine);
            let result = work(&mut engine);
            *locked(&self.stats) = engine.stats.clone();
            result
        });
        self.occupied.store(false, Ordering::Release);
        Ok(result)
    }
}

/// Runs guest code; a panic of the engine is its report of being wrong.
fn run(engine: &mut engine::vcpu::Vcpu) -> Exit {
    catch_unwind(AssertUnwindSafe(|| engine.run())).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        engine.error = Some(format!("the engine panicked: {text}"));
        Exit::Error
    })
}

#[pymethods]
impl Vcpu {
    #[new]
    #[pyo3(signature = (vm, *, index = 0, engine = "translate", cpu = "max", hypervisor = "ring3"))]
    fn new(
        py: Python<'_>,
        vm: Py<Vm>,
        index: u32,
        engine: &str,
        cpu: &str,
        hypervisor: &str,
    ) -> PyResult<Vcpu> {
        let backend = match engine {
            "translate" => Backend::Translate,
            "interp" => Backend::Interp,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "engine: {engine:?} is none; give translate or interp"
                )));
            }
        };
        let model = Model::named(cpu)
            .and_then(|model| model.under(hypervisor))
            .map_err(PyValueError::new_err)?;
        let mut vcpu = engine::vcpu::Vcpu::new(vm.get().engine.clone(), index, model, backend)
            .map_err(|error| PyMemoryError::new_err(format!("a virtual CPU: {error}")))?;
        vcpu.reset();
        let shared = vcpu.shared.clone();
        vm.bind(py).get().add_vcpu(&shared);
        Ok(Vcpu {
            engine: Mutex::new(vcpu),
            occupied: AtomicBool::new(false),
            shared,
            stats: Mutex::default(),
            vm,
            acknowledge: Mutex::default(),
            eoi: Mutex::default(),
            ferr: Mutex::default(),
        })
    }

    fn run(&self, py: Python<'_>) -> PyResult<i32> {
        self.detached(py, |engine| run(engine) as i32)
    }

    fn live(&self, py: Python<'_>) -> PyResult<i32> {
        self.detached(py, |engine| {
            let mut published_ns = 0;
            loop {
                let exit = run(engine);
                if exit != Exit::Halt {
                    return exit as i32;
                }
                engine.wait();
                let lived_ns = engine.stats.ns_running + engine.stats.ns_halted;
                if lived_ns - published_ns >= PUBLISH_NS {
                    published_ns = lived_ns;
                    *locked(&self.stats) = engine.stats.clone();
                }
            }
        })
    }

    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, |engine| engine.wait())
    }

    fn kick(&self) {
        self.shared.kick();
    }

    fn reset(&self) -> PyResult<()> {
        self.engine()?.reset();
        Ok(())
    }

    fn set_windows(&self, policy: &str) -> PyResult<()> {
        let policy = match policy {
            "never" => Policy::Never,
            "busy" => Policy::Busy,
            "always" => Policy::Always,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "windows: {policy:?} is none of never, busy, always"
                )));
            }
        };
        self.engine()?.set_windows(policy);
        Ok(())
    }

    fn set_intr(&self, level: bool) {
        self.shared.set_intr(level);
    }

    fn set_intr_acknowledge(&self, py: Python<'_>, acknowledge: Py<PyAny>) {
        let callable = Arc::new(acknowledge);
        let errors = self.vm.bind(py).get().errors.clone();
        let call = callable.clone();
        *locked(&self.shared.acknowledge) = Some(Arc::new(Box::new(move || {
            Python::attach(|py| {
                let vector = call.call0(py).and_then(|v| v.extract::<u8>(py));
                vector.unwrap_or_else(|error| {
                    errors.report(py, error);
                    OPEN_VECTOR
                })
            })
        })));
        let old = locked(&self.acknowledge).replace(callable);
        drop(old);
    }

    fn pulse_nmi(&self) {
        self.shared.pulse_nmi();
    }

    fn pulse_init(&self) {
        self.shared.pulse_init();
    }

    fn deliver_apic_interrupt(
        &self,
        vector: u8,
        delivery_mode: u8,
        destination: u32,
        logical: bool,
        level_triggered: bool,
    ) {
        self.shared.deliver(Message {
            vector,
            delivery_mode,
            destination,
            logical,
            level_triggered,
        });
    }

    fn write_local_apic(&self, offset: u64, value: u32) -> PyResult<()> {
        self.engine()?.apic_write(offset, 4, value.into());
        Ok(())
    }

    fn write_msr(&self, number: u32, value: u64) -> PyResult<()> {
        let written = self.engine()?.write_msr(number, value);
        written.map_err(|_| PyValueError::new_err(format!("MSR {number:#x}: {value:#x} is #GP")))
    }

    fn set_eoi_handler(&self, py: Python<'_>, handler: Py<PyAny>) {
        let (handler, call) = self.notifier(py, handler);
        *locked(&self.shared.eoi) = Some(Arc::new(Box::new(call)));
        let old = locked(&self.eoi).replace(handler);
        drop(old);
    }

    fn set_ferr_handler(&self, py: Python<'_>, handler: Py<PyAny>) {
        let (handler, call) = self.notifier(py, handler);
        *locked(&self.shared.ferr) = Some(Arc::new(Box::new(call)));
        let old = locked(&self.ferr).replace(handler);
        drop(old);
    }

    fn set_ignne(&self, level: bool) {
        self.shared.ignne.store(level, Ordering::Release);
        self.shared.attend();
    }

    fn tsc(&self) -> PyResult<u64> {
        Ok(self.engine()?.tsc())
    }

    fn skip_time(&self, ticks: u64) -> PyResult<()> {
        self.engine()?.skip_time(ticks);
        Ok(())
    }

    #[getter]
    fn tsc_hz(&self) -> u64 {
        engine::vcpu::tsc_hz()
    }

    #[pyo3(signature = (leaf, subleaf = 0))]
    fn cpuid(&self, leaf: u32, subleaf: u32) -> PyResult<(u32, u32, u32, u32)> {
        let leaf = self.engine()?.cpuid(leaf, subleaf);
        Ok((leaf.eax, leaf.ebx, leaf.ecx, leaf.edx))
    }

    fn registers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        registers::get(py, &*self.engine()?)
    }

    fn set_registers(&self, values: &Bound<'_, PyDict>) -> PyResult<()> {
        registers::set(&mut *self.engine()?, values)
    }

    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        snapshot::get(py, &self.engine()?.snapshot())
    }

    fn set_state(&self, record: &Bound<'_, PyDict>) -> PyResult<()> {
        let saved = snapshot::set(record)?;
        let restored = self.engine()?.restore(saved);
        restored.map_err(PyValueError::new_err)
    }

    fn read_virtual<'py>(
        &self,
        py: Python<'py>,
        address: u64,
        length: usize,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if length > READ_LIMIT {
            return Err(PyValueError::new_err(format!(
                "length: {length} bytes; at most {READ_LIMIT}"
            )));
        }
        let engine = self.engine()?;
        let mut out = Vec::new();
        while out.len() < length {
            let at = engine.wrap_linear(address.wrapping_add(out.len() as u64));
            let Some(page) = walk::peek(engine.cpu, &engine.vm.memory, at) else {
                return Ok(None);
            };
            let have = out.len();
            let n = ((PAGE - at % PAGE) as usize).min(length - have);
            out.resize(have + n, 0);
            let from = engine.vm.memory.gate(page) | (at % PAGE);
            engine.vm.memory.read(from, &mut out[have..], |page| {
                engine.vm.io.page_has_mmio(page)
            });
        }
        Ok(Some(PyBytes::new(py, &out)))
    }

    /// Counters; while `run` is on, as it found them.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = match self.engine() {
            Ok(engine) => engine.stats.clone(),
            Err(_) => locked(&self.stats).clone(),
        };
        let dict = PyDict::new(py);
        for (name, value) in stats.by_name() {
            dict.set_item(name, value)?;
        }
        let most = PyDict::new(py);
        for (mnemonic, count) in stats.interpreted_most(16) {
            most.set_item(mnemonic, count)?;
        }
        dict.set_item("interpreted_most", most)?;
        Ok(dict)
    }

    fn error(&self) -> PyResult<Option<String>> {
        Ok(self.engine()?.error.clone())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.vm)?;
        for callback in [&self.acknowledge, &self.eoi, &self.ferr] {
            if let Some(callable) = locked(callback).as_ref() {
                visit.call(&**callable)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let acknowledge = locked(&self.shared.acknowledge).take();
        let eoi = locked(&self.shared.eoi).take();
        let ferr = locked(&self.shared.ferr).take();
        let callables = [&self.acknowledge, &self.eoi, &self.ferr];
        let callables = callables.map(|callback| locked(callback).take());
        drop((acknowledge, eoi, ferr, callables));
    }
}
