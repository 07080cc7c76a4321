//! Control registers and mode switches.

use super::*;
use crate::fault::Fault;
use crate::state::{Segment, attr, cr0, cr4, efer, gpr};
use iced_x86::code_asm::*;

/// What `mov cr, eax` raises in 32-bit protected mode.
fn mov_cr(cr: AsmRegisterCr, value: u64) -> Result<(), Fault> {
    let mut m = protected(|a| a.mov(cr, eax));
    m.v.cpu.gpr[gpr::RAX] = value;
    m.step()
}

#[test]
fn paging_needs_protection_and_no_write_through_needs_cache_disable() {
    assert_eq!(mov_cr(cr0, cr0::PG), Err(Fault::GP0));
    assert_eq!(mov_cr(cr0, cr0::PE | cr0::NW), Err(Fault::GP0));
    assert_eq!(mov_cr(cr0, cr0::PE | cr0::PG), Ok(()));
}

#[test]
fn pcids_need_long_mode() {
    assert_eq!(mov_cr(cr4, cr4::PCIDE), Err(Fault::GP0));
}

#[test]
fn control_registers_are_for_level_0() {
    let mut m = protected(|a| a.mov(cr0, eax));
    m.enter_user(false);
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn lmsw_sets_pe_but_cannot_clear_it() {
    let mut m = protected(|a| a.lmsw(ax));
    m.v.cpu.gpr[gpr::RAX] = cr0::TS;
    m.step().unwrap();
    assert_eq!(m.v.cpu.cr0 & 0xF, cr0::PE | cr0::TS);
}

#[test]
fn long_mode_cannot_leave_pae() {
    let mut m = long64(|a| a.mov(cr4, rax));
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn paging_cannot_end_in_64_bit_mode() {
    let mut m = long64(|a| a.mov(cr0, rax));
    m.v.cpu.gpr[gpr::RAX] = cr0::PE;
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn lme_cannot_change_while_paging() {
    let mut m = long64(|a| a.wrmsr());
    m.v.cpu.gpr[gpr::RCX] = 0xC000_0080;
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn hidden_features_have_no_cr4_bit() {
    assert_eq!(mov_cr(cr4, cr4::VME), Err(Fault::GP0));
    assert_eq!(mov_cr(cr4, 1 << 13), Err(Fault::GP0));
    assert_eq!(mov_cr(cr4, cr4::PSE | cr4::DE), Ok(()));
}

#[test]
fn one_program_goes_from_real_to_protected_to_long_mode_and_back() {
    let code = assemble(16, |a| {
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.db(&far_pointer16(sel::SPARE, 0x4100))?;
        a.nop()
    });
    let mut m = Machine::long(&code);
    m.tables(true);
    m.describe(sel::SPARE, descriptor(0, 0xF_FFFF, CODE_R, 0xC));
    let cpu = &mut *m.v.cpu;
    let page_tables = cpu.cr3;
    let data = attr::P | attr::S | attr::WRITABLE | attr::ACCESSED;
    (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer) = (cr0::ET, 0, 0, 0);
    cpu.seg = [Segment::real(0, data); 6];
    m.v.flush_tlb_all();
    let mut to_long = CodeAssembler::new(32).unwrap();
    let write = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.mov(eax, cr4::PAE as u32)?;
        a.mov(cr4, eax)?;
        a.mov(eax, page_tables as u32)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xC000_0080u32)?;
        a.rdmsr()?;
        a.or(eax, efer::LME as u32)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, cr0::PG as u32)?;
        a.mov(cr0, eax)?;
        a.db(&far_pointer32(JMP, sel::CODE, HANDLER))
    };
    write(&mut to_long).unwrap();
    m.store(0x4100, &to_long.assemble(0x4100).unwrap());
    for _ in 0..4 {
        m.step().unwrap();
    }
    assert_eq!((m.v.cpu.code_bits(), m.v.cpu.rip), (32, 0x4100));
    for _ in 0..11 {
        m.step().unwrap();
    }
    assert!(m.v.cpu.long_mode() && !m.v.cpu.code64());
    m.step().unwrap();
    assert!(m.v.cpu.code64());
    assert_eq!(m.v.cpu.rip, HANDLER);
}

#[test]
fn xsetbv_wants_x87_and_supported_bits() {
    let mut m = long64(|a| a.xsetbv());
    m.v.cpu.cr4 |= cr4::OSXSAVE;
    assert_eq!(m.step(), Err(Fault::GP0));
    m.v.cpu.gpr[gpr::RAX] = 5;
    assert_eq!(m.step(), Err(Fault::GP0));
    m.v.cpu.gpr[gpr::RAX] = 3;
    m.step().unwrap();
    assert_eq!(m.v.cpu.xcr0, 3);
}
