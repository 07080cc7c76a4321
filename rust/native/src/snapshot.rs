//! A vCPU's state as a record of plain values, for `Vcpu.state` and `Vcpu.set_state`.
//!
//! Names are the SDM's.  The FPU's registers are kept by component (SDM vol. 1, 13.5), because hosts
//! differ in where XSAVE puts them.

use engine::apic::{self, Message, Vectors};
use engine::fpustate::{self, legacy};
use engine::snapshot::Snapshot;
use engine::state::{AMD_MSRS, CpuState, Msrs, Segment, TableRegister, XSAVE_BYTES, XsaveArea};
use engine::vcpu::tsc_hz;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// Interrupt messages that a record may hold.
const MESSAGES_MAX: usize = 4096;
/// Bytes of the legacy region of an FPU image.
const LEGACY_BYTES: usize = 512;

/// Selector, base, limit, attributes.
type SegmentRecord = (u16, u64, u32, u32);
/// Vector, delivery mode, destination, logical, level triggered.
type MessageRecord = (u8, u8, u32, bool, bool);

#[derive(FromPyObject, IntoPyObject)]
struct Record<'py> {
    #[pyo3(item)]
    gpr: [u64; 16],
    #[pyo3(item)]
    rip: u64,
    #[pyo3(item)]
    rflags: u64,
    /// ES CS SS DS FS GS LDTR TR.
    #[pyo3(item)]
    segments: [SegmentRecord; 8],
    #[pyo3(item)]
    gdtr: (u64, u16),
    #[pyo3(item)]
    idtr: (u64, u16),
    /// CR0 CR2 CR3 CR4.
    #[pyo3(item)]
    cr: [u64; 4],
    #[pyo3(item)]
    efer: u64,
    #[pyo3(item)]
    xcr0: u64,
    #[pyo3(item)]
    dr: [u64; 8],
    #[pyo3(item)]
    pdpte: [u64; 4],
    #[pyo3(item)]
    cpl: u8,
    #[pyo3(item)]
    shadow: u8,
    #[pyo3(item)]
    halted: bool,
    #[pyo3(item)]
    nmi_blocked: bool,
    #[pyo3(item)]
    nmi_pending: bool,
    #[pyo3(item)]
    shutdown: bool,
    #[pyo3(item)]
    pending_db: u64,
    #[pyo3(item)]
    tsc: u64,
    #[pyo3(item)]
    nmi: bool,
    #[pyo3(item)]
    init: bool,
    #[pyo3(item)]
    ferr: bool,
    #[pyo3(item)]
    messages: Vec<MessageRecord>,
    #[pyo3(item)]
    msrs: Bound<'py, PyDict>,
    #[pyo3(item)]
    fpu: Bound<'py, PyDict>,
    #[pyo3(item)]
    apic: Bound<'py, PyDict>,
}

#[derive(FromPyObject, IntoPyObject)]
struct MsrRecord {
    #[pyo3(item)]
    star: u64,
    #[pyo3(item)]
    lstar: u64,
    #[pyo3(item)]
    cstar: u64,
    #[pyo3(item)]
    fmask: u64,
    #[pyo3(item)]
    kernel_gs_base: u64,
    #[pyo3(item)]
    sysenter_cs: u64,
    #[pyo3(item)]
    sysenter_esp: u64,
    #[pyo3(item)]
    sysenter_eip: u64,
    #[pyo3(item)]
    pat: u64,
    #[pyo3(item)]
    tsc_aux: u64,
    #[pyo3(item)]
    tsc_adjust: u64,
    #[pyo3(item)]
    misc_enable: u64,
    #[pyo3(item)]
    spec_ctrl: u64,
    #[pyo3(item)]
    mtrr_def_type: u64,
    #[pyo3(item)]
    mtrr_fixed: [u64; 11],
    #[pyo3(item)]
    mtrr_variable: [u64; 16],
    #[pyo3(item)]
    mcg_status: u64,
    #[pyo3(item)]
    debugctl: u64,
    #[pyo3(item)]
    xss: u64,
    #[pyo3(item)]
    amd: [u64; AMD_MSRS.len()],
}

#[derive(FromPyObject, IntoPyObject)]
struct ApicRecord {
    #[pyo3(item)]
    base: u64,
    #[pyo3(item)]
    id: u32,
    #[pyo3(item)]
    tpr: u8,
    #[pyo3(item)]
    ldr: u32,
    #[pyo3(item)]
    dfr: u32,
    #[pyo3(item)]
    svr: u32,
    #[pyo3(item)]
    isr: [u64; 4],
    #[pyo3(item)]
    tmr: [u64; 4],
    #[pyo3(item)]
    irr: [u64; 4],
    #[pyo3(item)]
    esr: u32,
    #[pyo3(item)]
    errors: u32,
    #[pyo3(item)]
    icr: u64,
    #[pyo3(item)]
    lvt: [u32; 6],
    #[pyo3(item)]
    initial_count: u32,
    #[pyo3(item)]
    divide: u32,
    #[pyo3(item)]
    tsc_deadline: u64,
    #[pyo3(item)]
    extint: bool,
    #[pyo3(item)]
    lint0: bool,
    #[pyo3(item)]
    wait_for_sipi: bool,
    /// Nanoseconds.
    #[pyo3(item)]
    count_left_ns: Option<u64>,
}

/// `$to` with the MSRs of `$from`, which names them alike.
macro_rules! msrs {
    ($to:ident, $from:expr) => {
        $to {
            star: $from.star,
            lstar: $from.lstar,
            cstar: $from.cstar,
            fmask: $from.fmask,
            kernel_gs_base: $from.kernel_gs_base,
            sysenter_cs: $from.sysenter_cs,
            sysenter_esp: $from.sysenter_esp,
            sysenter_eip: $from.sysenter_eip,
            pat: $from.pat,
            tsc_aux: $from.tsc_aux,
            tsc_adjust: $from.tsc_adjust,
            misc_enable: $from.misc_enable,
            spec_ctrl: $from.spec_ctrl,
            mtrr_def_type: $from.mtrr_def_type,
            mtrr_fixed: $from.mtrr_fixed,
            mtrr_variable: $from.mtrr_variable,
            mcg_status: $from.mcg_status,
            debugctl: $from.debugctl,
            xss: $from.xss,
            amd: $from.amd,
        }
    };
}

/// A component of the FPU's image that not every host has: name, offset (0: absent), bytes.
fn components() -> [(&'static str, usize, usize); 4] {
    let at = fpustate::layout();
    [
        ("avx", at.avx, 256),
        ("opmask", at.opmask, 64),
        ("zmm_hi256", at.zmm_hi256, 512),
        ("hi16_zmm", at.hi16_zmm, 1024),
    ]
}

fn scaled(value: u64, multiplier: u64, divisor: u64) -> u64 {
    let scaled = value as u128 * multiplier as u128 / divisor.max(1) as u128;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

const NS_PER_S: u64 = 1_000_000_000;

// --- out ---

pub fn get<'py>(py: Python<'py>, saved: &Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let cpu = &saved.cpu;
    let segment = |s: &Segment| (s.selector, s.base, s.limit, s.attributes);
    let [es, cs, ss, ds, fs, gs] = cpu.seg.each_ref().map(segment);
    let message = |m: &Message| {
        (
            m.vector,
            m.delivery_mode,
            m.destination,
            m.logical,
            m.level_triggered,
        )
    };
    let record = Record {
        gpr: cpu.gpr,
        rip: cpu.rip,
        rflags: cpu.rflags,
        segments: [es, cs, ss, ds, fs, gs, segment(&cpu.ldtr), segment(&cpu.tr)],
        gdtr: (cpu.gdtr.base, cpu.gdtr.limit),
        idtr: (cpu.idtr.base, cpu.idtr.limit),
        cr: [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4],
        efer: cpu.efer,
        xcr0: cpu.xcr0,
        dr: cpu.dr,
        pdpte: cpu.pdpte,
        cpl: cpu.cpl,
        shadow: cpu.shadow,
        halted: cpu.halted,
        nmi_blocked: cpu.nmi_blocked,
        nmi_pending: cpu.nmi_pending,
        shutdown: cpu.shutdown,
        pending_db: cpu.pending_db,
        tsc: saved.tsc,
        nmi: saved.nmi,
        init: saved.init,
        ferr: saved.ferr,
        messages: saved.messages.iter().map(message).collect(),
        msrs: msrs!(MsrRecord, cpu.msr).into_pyobject(py)?,
        fpu: fpu_out(py, &cpu.fpu)?,
        apic: apic_out(saved).into_pyobject(py)?,
    };
    record.into_pyobject(py)
}

fn fpu_out<'py>(py: Python<'py>, area: &XsaveArea) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("legacy", PyBytes::new(py, &area.0[..LEGACY_BYTES]))?;
    for (name, offset, bytes) in components() {
        let held = if offset == 0 { 0 } else { bytes };
        let part = PyBytes::new(py, &area.0[offset..offset + held]);
        dict.set_item(name, part)?;
    }
    Ok(dict)
}

fn apic_out(saved: &Snapshot) -> ApicRecord {
    let s = &saved.apic;
    ApicRecord {
        base: s.base,
        id: s.id,
        tpr: s.tpr,
        ldr: s.ldr,
        dfr: s.dfr,
        svr: s.svr,
        isr: s.isr.words(),
        tmr: s.tmr.words(),
        irr: s.irr.words(),
        esr: s.esr,
        errors: s.errors,
        icr: s.icr,
        lvt: s.lvt,
        initial_count: s.initial_count,
        divide: s.divide,
        tsc_deadline: s.tsc_deadline,
        extint: s.extint,
        lint0: s.lint0,
        wait_for_sipi: s.wait_for_sipi,
        count_left_ns: saved
            .count_left
            .map(|ticks| scaled(ticks, NS_PER_S, tsc_hz())),
    }
}

// --- in ---

pub fn set(record: &Bound<'_, PyDict>) -> PyResult<Snapshot> {
    let r: Record<'_> = record.extract()?;
    if r.cpl > 3 || r.shadow > 3 || r.messages.len() > MESSAGES_MAX {
        return Err(PyValueError::new_err("no state that a CPU can have"));
    }
    let segment = |(selector, base, limit, attributes): SegmentRecord| Segment {
        base,
        limit,
        attributes,
        selector,
    };
    let [es, cs, ss, ds, fs, gs, ldtr, tr] = r.segments.map(segment);
    let table = |(base, limit)| TableRegister { base, limit };
    let msrs: MsrRecord = r.msrs.extract()?;
    let [cr0, cr2, cr3, cr4] = r.cr;
    let mut cpu = CpuState {
        gpr: r.gpr,
        rip: r.rip,
        rflags: r.rflags,
        seg: [es, cs, ss, ds, fs, gs],
        ldtr,
        tr,
        gdtr: table(r.gdtr),
        idtr: table(r.idtr),
        cr0,
        cr2,
        cr3,
        cr4,
        efer: r.efer,
        xcr0: r.xcr0,
        dr: r.dr,
        pdpte: r.pdpte,
        msr: msrs!(Msrs, msrs),
        cpl: r.cpl,
        shadow: r.shadow,
        halted: r.halted,
        nmi_blocked: r.nmi_blocked,
        nmi_pending: r.nmi_pending,
        shutdown: r.shutdown,
        pending_db: r.pending_db,
        ..CpuState::reset(0)
    };
    fpu_in(&r.fpu, &mut cpu.fpu)?;
    let apic: ApicRecord = r.apic.extract()?;
    let message = |(vector, delivery_mode, destination, logical, level_triggered)| Message {
        vector,
        delivery_mode,
        destination,
        logical,
        level_triggered,
    };
    Ok(Snapshot {
        cpu,
        tsc: r.tsc,
        count_left: apic.count_left_ns.map(|ns| scaled(ns, tsc_hz(), NS_PER_S)),
        apic: apic_in(apic),
        nmi: r.nmi,
        init: r.init,
        ferr: r.ferr,
        messages: r.messages.into_iter().map(message).collect(),
    })
}

/// Components that the record lacks are as after reset; those that the host lacks are left out.
fn fpu_in(record: &Bound<'_, PyDict>, area: &mut XsaveArea) -> PyResult<()> {
    *area = XsaveArea([0; XSAVE_BYTES]);
    put(record, "legacy", &mut area.0[..LEGACY_BYTES])?;
    // The header: `fpustate::prepare` writes it.
    area.0[legacy::XSTATE_BV..legacy::HEADER_END].fill(0);
    for (name, offset, bytes) in components() {
        if offset != 0 {
            put(record, name, &mut area.0[offset..offset + bytes])?;
        }
    }
    Ok(())
}

fn put(record: &Bound<'_, PyDict>, name: &str, to: &mut [u8]) -> PyResult<()> {
    let wrong = || PyValueError::new_err(format!("fpu: {name} is missing or has the wrong size"));
    let item = record.get_item(name)?.ok_or_else(wrong)?;
    let bytes = item.cast::<PyBytes>()?.as_bytes();
    if bytes.len() == to.len() {
        to.copy_from_slice(bytes);
    } else if !bytes.is_empty() || name == "legacy" {
        return Err(wrong());
    }
    Ok(())
}

fn apic_in(s: ApicRecord) -> apic::State {
    apic::State {
        base: s.base,
        id: s.id,
        tpr: s.tpr,
        ldr: s.ldr,
        dfr: s.dfr,
        svr: s.svr,
        isr: Vectors::from_words(s.isr),
        tmr: Vectors::from_words(s.tmr),
        irr: Vectors::from_words(s.irr),
        esr: s.esr,
        errors: s.errors,
        icr: s.icr,
        lvt: s.lvt,
        initial_count: s.initial_count,
        divide: s.divide,
        count_end: None,
        tsc_deadline: s.tsc_deadline,
        extint: s.extint,
        lint0: s.lint0,
        wait_for_sipi: s.wait_for_sipi,
    }
}
