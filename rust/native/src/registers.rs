//! A vCPU's registers by name, for `Vcpu.registers` and `Vcpu.set_registers`.

use engine::state::{CpuState, Segment, TableRegister, attr, cr0, seg};
use engine::vcpu::Vcpu;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// By the numbers that instructions use.
const GENERAL: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const DEBUG: [&str; 8] = ["dr0", "dr1", "dr2", "dr3", "dr4", "dr5", "dr6", "dr7"];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

pub fn get<'py>(py: Python<'py>, vcpu: &Vcpu) -> PyResult<Bound<'py, PyDict>> {
    let cpu = &*vcpu.cpu;
    let dict = PyDict::new(py);
    for (name, value) in GENERAL.iter().zip(cpu.gpr) {
        dict.set_item(name, value)?;
    }
    for (name, value) in DEBUG.iter().zip(cpu.dr) {
        dict.set_item(name, value)?;
    }
    for (name, value) in [
        ("rip", cpu.rip),
        ("rflags", cpu.rflags),
        ("cr0", cpu.cr0),
        ("cr2", cpu.cr2),
        ("cr3", cpu.cr3),
        ("cr4", cpu.cr4),
        ("cr8", vcpu.apic.cr8()),
        ("efer", cpu.efer),
        ("gdtr_base", cpu.gdtr.base),
        ("gdtr_limit", cpu.gdtr.limit as u64),
        ("idtr_base", cpu.idtr.base),
        ("idtr_limit", cpu.idtr.limit as u64),
    ] {
        dict.set_item(name, value)?;
    }
    let others = [("ldtr", cpu.ldtr), ("tr", cpu.tr)];
    for (name, s) in SEGMENTS.iter().copied().zip(cpu.seg).chain(others) {
        dict.set_item(name, s.selector)?;
        dict.set_item(format!("{name}_base"), s.base)?;
        dict.set_item(format!("{name}_limit"), s.limit)?;
        dict.set_item(format!("{name}_attributes"), s.attributes)?;
    }
    Ok(dict)
}

/// Sets the named ones as they stand; all of them, or none if one is wrong.
pub fn set(vcpu: &mut Vcpu, values: &Bound<'_, PyDict>) -> PyResult<()> {
    let mut cpu = vcpu.cpu.clone();
    let mut cr8 = None;
    for (name, value) in values {
        let name: String = name.extract()?;
        let value: u64 = value.extract()?;
        if name == "cr8" {
            cr8 = Some(value & 0xF);
        } else {
            set_one(&mut cpu, &name, value)?;
        }
    }
    cpu.cpl = privilege_level(&cpu);
    *vcpu.cpu = cpu;
    if let Some(cr8) = cr8 {
        vcpu.apic.set_cr8(cr8);
    }
    vcpu.flush_tlb_all();
    // Loads the PDPTEs if paging is PAE.
    vcpu.load_cr3(vcpu.cpu.cr3)
        .map_err(|_| PyValueError::new_err("cr3: points at PDPTEs with reserved bits set"))
}

/// Where the hidden parts leave it: SS's DPL, as processors keep it (SDM vol. 3, 5.5).
fn privilege_level(cpu: &CpuState) -> u8 {
    if cpu.cr0 & cr0::PE == 0 {
        0
    } else if cpu.v86() {
        3
    } else {
        cpu.seg[seg::SS].dpl()
    }
}

fn set_one(cpu: &mut CpuState, name: &str, value: u64) -> PyResult<()> {
    if let Some(i) = GENERAL.iter().position(|n| *n == name) {
        cpu.gpr[i] = value;
        return Ok(());
    }
    if let Some(i) = DEBUG.iter().position(|n| *n == name) {
        cpu.dr[i] = value;
        return Ok(());
    }
    match name {
        "rip" => cpu.rip = value,
        "rflags" => cpu.rflags = value,
        "cr0" => cpu.cr0 = value,
        "cr2" => cpu.cr2 = value,
        "cr3" => cpu.cr3 = value,
        "cr4" => cpu.cr4 = value,
        "efer" => cpu.efer = value,
        _ => return set_part(cpu, name, value),
    }
    Ok(())
}

fn set_part(cpu: &mut CpuState, name: &str, value: u64) -> PyResult<()> {
    let unknown = || PyValueError::new_err(format!("{name}: there is no such register"));
    let (register, part) = name.split_once('_').unwrap_or((name, "selector"));
    match register {
        "gdtr" => set_table(&mut cpu.gdtr, name, part, value),
        "idtr" => set_table(&mut cpu.idtr, name, part, value),
        "ldtr" => set_segment(&mut cpu.ldtr, name, part, value),
        "tr" => set_segment(&mut cpu.tr, name, part, value),
        _ => {
            let i = SEGMENTS.iter().position(|n| *n == register);
            set_segment(&mut cpu.seg[i.ok_or_else(unknown)?], name, part, value)
        }
    }
}

fn set_table(table: &mut TableRegister, name: &str, part: &str, value: u64) -> PyResult<()> {
    match part {
        "base" => table.base = value,
        "limit" => table.limit = narrow(name, value)?,
        _ => {
            return Err(PyValueError::new_err(format!(
                "{name}: there is no such register"
            )));
        }
    }
    Ok(())
}

fn set_segment(segment: &mut Segment, name: &str, part: &str, value: u64) -> PyResult<()> {
    match part {
        "selector" => segment.selector = narrow(name, value)?,
        "base" => segment.base = value,
        "limit" => segment.limit = narrow(name, value)?,
        "attributes" if value & !DEFINED_ATTRIBUTES == 0 => segment.attributes = value as u32,
        "attributes" => {
            return Err(PyValueError::new_err(format!(
                "{name}: {value:#x} has undefined bits (defined: {DEFINED_ATTRIBUTES:#x})"
            )));
        }
        _ => {
            return Err(PyValueError::new_err(format!(
                "{name}: there is no such register"
            )));
        }
    }
    Ok(())
}

const DEFINED_ATTRIBUTES: u64 =
    (0xFF | attr::AVL | attr::L | attr::DB | attr::G | attr::UNUSABLE) as u64;

fn narrow<T: TryFrom<u64>>(name: &str, value: u64) -> PyResult<T> {
    T::try_from(value).map_err(|_| PyValueError::new_err(format!("{name}: {value:#x} is too wide")))
}
