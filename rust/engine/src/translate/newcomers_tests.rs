//! Code that is interpreted until it has run a few times.

use crate::interp::test_support::{CODE, DATA, Machine};
use crate::vcpu::Backend;
use iced_x86::code_asm::*;

fn machine(program: impl Fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Machine {
    let mut a = CodeAssembler::new(64).unwrap();
    program(&mut a).unwrap();
    a.hlt().unwrap();
    let mut m = Machine::long(&a.assemble(CODE).unwrap());
    m.v.backend = Backend::Translate;
    m.v.jit.welcome_newcomers();
    m
}

#[test]
fn what_runs_once_is_interpreted() {
    let mut m = machine(|a| {
        a.mov(eax, 1)?;
        a.add(eax, 2)
    });
    let _ = m.v.run();
    assert_eq!((m.v.cpu.gpr[0], m.v.stats.blocks), (3, 0));
}

#[test]
fn what_keeps_running_is_translated() {
    let mut m = machine(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 1000)?;
        a.set_label(&mut top)?;
        a.add(rax, rcx)?;
        a.dec(ecx)?;
        a.jne(top)
    });
    let _ = m.v.run();
    assert_eq!(m.v.cpu.gpr[0], 500_500);
    assert!(m.v.stats.blocks > 0);
    assert!(m.v.stats.interpreted < 50, "{}", m.v.stats.interpreted);
}

#[test]
fn code_that_is_written_before_it_has_run_often_runs_as_written() {
    let mut m = machine(|a| {
        let (mut top, mut patched) = (a.create_label(), a.create_label());
        a.xor(ebx, ebx)?;
        a.mov(ecx, 200)?;
        a.set_label(&mut top)?;
        a.lea(rsi, ptr(patched))?;
        a.mov(byte_ptr(rsi + 1), cl)?;
        a.set_label(&mut patched)?;
        a.db(&[0xB0, 0])?; //              mov al, imm8
        a.movzx(eax, al)?;
        a.add(rbx, rax)?;
        a.mov(qword_ptr(DATA as i32), rbx)?;
        a.dec(ecx)?;
        a.jne(top)
    });
    let _ = m.v.run();
    assert_eq!(m.v.cpu.gpr[3], 20_100);
}
