//! Model-specific registers and the time-stamp counter.

use super::*;
use crate::cpuid::Model;
use crate::fault::Fault;
use crate::state::{cr4, gpr};

fn msr(number: u32, value: u64) -> (Machine, Result<(), Fault>) {
    let mut m = long64(|a| a.wrmsr());
    m.v.cpu.gpr[gpr::RCX] = number as u64;
    m.v.cpu.gpr[gpr::RAX] = value & 0xFFFF_FFFF;
    m.v.cpu.gpr[gpr::RDX] = value >> 32;
    let result = m.step();
    (m, result)
}

#[test]
fn unknown_msrs_are_gp_0() {
    assert_eq!(msr(0x1234_5678, 0).1, Err(Fault::GP0));
}

#[test]
fn addresses_in_msrs_must_be_canonical() {
    for number in [0xC000_0082, 0xC000_0100, 0xC000_0102, 0x176] {
        assert_eq!(msr(number, 0x8000_0000_0000).1, Err(Fault::GP0));
        assert_eq!(msr(number, 0xFFFF_8000_0000_0000).1, Ok(()));
    }
}

#[test]
fn memory_types_of_the_pat_are_checked() {
    assert_eq!(msr(0x277, 0x0007_0406_0007_0402).1, Err(Fault::GP0));
    let (m, result) = msr(0x277, 0x0007_0106_0007_0406);
    assert_eq!((result, m.v.cpu.msr.pat), (Ok(()), 0x0007_0106_0007_0406));
}

#[test]
fn rdtsc_is_kept_from_users_by_tsd() {
    let mut m = protected(|a| a.rdtsc());
    m.enter_user(false);
    m.step().unwrap();
    m.v.cpu.rip = CODE;
    m.v.cpu.cr4 |= cr4::TSD;
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn writing_the_tsc_shows_in_tsc_adjust() {
    let (mut m, result) = msr(0x10, 1 << 60);
    assert_eq!(result, Ok(()));
    assert!(m.v.tsc() >> 60 == 1);
    assert_eq!(m.v.read_msr(0x3B), Ok(m.v.cpu.tsc_offset));
}

#[test]
fn writing_tsc_adjust_moves_the_tsc_by_the_difference() {
    let (mut m, result) = msr(0x3B, 1000);
    assert_eq!(result, Ok(()));
    m.v.write_msr(0x3B, 5 << 40).unwrap();
    assert_eq!(m.v.cpu.tsc_offset, 5 << 40);
    assert_eq!(m.v.read_msr(0x3B), Ok(5 << 40));
}

#[test]
fn time_that_a_pause_takes_away_is_not_seen_in_tsc_adjust() {
    let (mut m, _) = msr(0x3B, 1000);
    m.v.skip_time(1 << 30);
    assert_eq!(m.v.read_msr(0x3B), Ok(1000));
}

#[test]
fn what_the_model_lacks_does_not_exist() {
    let mut m = protected(|a| {
        a.rdtsc()?;
        a.rdmsr()
    });
    m.v.model = Model::named("486").unwrap();
    assert_eq!(m.step(), Err(Fault::UD));
    m.v.cpu.rip = CODE + 2;
    assert_eq!(m.step(), Err(Fault::UD));
    m.v.model = Model::named("pentium").unwrap();
    assert!(m.v.read_msr(0x10).is_ok());
    assert_eq!(m.v.read_msr(0x277), Err(Fault::GP0));
    assert_eq!(m.v.read_msr(0xC000_0080), Err(Fault::GP0));
}
