//! Saved and restored state.

use super::*;

const FLD1: &[u8] = &[0xD9, 0xE8];
const FLDZ: &[u8] = &[0xD9, 0xEE];
const FSTP_M32: &[u8] = &[0xD9, 0x1E];
const FNSTENV: &[u8] = &[0xD9, 0x36];
const FLDENV: &[u8] = &[0xD9, 0x26];
const FNSAVE: &[u8] = &[0xDD, 0x36];
const FRSTOR: &[u8] = &[0xDD, 0x26];
const FNINIT: &[u8] = &[0xDB, 0xE3];
const FXSAVE: &[u8] = &[0x0F, 0xAE, 0x06];
const FXSAVE64: &[u8] = &[0x48, 0x0F, 0xAE, 0x06];
const FXRSTOR64: &[u8] = &[0x48, 0x0F, 0xAE, 0x0E];
const XSAVE: &[u8] = &[0x0F, 0xAE, 0x26];
const XSAVEC: &[u8] = &[0x0F, 0xC7, 0x26];
const XRSTOR: &[u8] = &[0x0F, 0xAE, 0x2E];
const VZEROUPPER: &[u8] = &[0xC5, 0xF8, 0x77];

fn word(v: &Vcpu, at: u64) -> u16 {
    u16::from_le_bytes(peek(v, at))
}

fn dword(v: &Vcpu, at: u64) -> u32 {
    u32::from_le_bytes(peek(v, at))
}

fn qword(v: &Vcpu, at: u64) -> u64 {
    u64::from_le_bytes(peek(v, at))
}

/// Runs XSAVE or its like for the components `bits`.
fn with_mask(v: &mut Vcpu, code: &[u8], bits: u64) -> Result<(), Fault> {
    v.cpu.gpr[gpr::RAX] = bits;
    v.cpu.gpr[gpr::RDX] = 0;
    run(v, code)
}

#[test]
fn fnstenv_tells_tags_and_the_last_instruction() {
    let mut v = protected_mode();
    run(&mut v, FLD1).unwrap();
    run(&mut v, FLDZ).unwrap();
    v.cpu.gpr[gpr::RSI] = DATA + 64;
    run(&mut v, FSTP_M32).unwrap();
    v.cpu.gpr[gpr::RSI] = DATA;
    run(&mut v, FNSTENV).unwrap();
    assert_eq!(dword(&v, DATA), 0xFFFF_037F);
    assert_eq!(dword(&v, DATA + 4), 0xFFFF_3800);
    assert_eq!(dword(&v, DATA + 8), 0xFFFF_3FFF);
    assert_eq!(dword(&v, DATA + 12), 0x7000);
    assert_eq!(dword(&v, DATA + 16), 0x11E << 16 | 8);
    assert_eq!(dword(&v, DATA + 20), DATA as u32 + 64);
    assert_eq!(dword(&v, DATA + 24), 0xFFFF_0008);
}

#[test]
fn fnstenv_in_real_mode_has_linear_pointers() {
    let mut v = protected_mode();
    v.cpu.cr0 &= !cr0::PE;
    v.cpu.seg[seg::CS].attributes &= !attr::DB;
    v.cpu.seg[seg::CS].selector = 0x1234;
    run(&mut v, FLD1).unwrap();
    v.cpu.gpr[gpr::RSI] = DATA;
    let fnstenv_si = &[0xD9, 0x34];
    run(&mut v, fnstenv_si).unwrap();
    // 12340h + 7000h
    assert_eq!([6, 8].map(|i| word(&v, DATA + i)), [0x9340, 0x1000 | 0x1E8]);
}

#[test]
fn fldenv_raises_summary_for_unmasked_exceptions() {
    let mut v = protected_mode();
    run(&mut v, FNSTENV).unwrap();
    poke(&v, DATA, &0x037Eu16.to_le_bytes());
    poke(&v, DATA + 4, &1u16.to_le_bytes());
    run(&mut v, FLDENV).unwrap();
    assert_eq!(v.cpu.fpu.fsw(), 0x8081);
    assert_eq!(run(&mut v, FLD1), Err(Fault::new(vector::MF)));
}

#[test]
fn fldenv_turns_the_stack_not_the_registers() {
    let mut v = protected_mode();
    run(&mut v, FLD1).unwrap();
    run(&mut v, FNSTENV).unwrap();
    // TOP from 7 to 6: the one is ST1 now.
    poke(&v, DATA + 4, &0x3000u16.to_le_bytes());
    run(&mut v, FLDENV).unwrap();
    assert_eq!(v.cpu.fpu.st(1)[8..], [0xFF, 0x3F]);
}

#[test]
fn fnsave_and_frstor_round_trip_the_stack() {
    let mut v = protected_mode();
    run(&mut v, FLD1).unwrap();
    run(&mut v, FLDZ).unwrap();
    let before = v.cpu.fpu.clone();
    run(&mut v, FNSAVE).unwrap();
    assert_eq!((v.cpu.fpu.fsw(), v.cpu.fpu.0[legacy::TAGS]), (0, 0));
    assert_eq!(
        peek::<10>(&v, DATA + 38),
        [0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F]
    );
    run(&mut v, FNINIT).unwrap();
    run(&mut v, FRSTOR).unwrap();
    assert!(v.cpu.fpu.0[..legacy::MXCSR] == before.0[..legacy::MXCSR]);
    assert!(v.cpu.fpu.0[legacy::ST..legacy::XMM] == before.0[legacy::ST..legacy::XMM]);
}

#[test]
fn fxsave_round_trips_and_wants_alignment() {
    let mut v = long_mode();
    let mut random = Random(1);
    random.fill(&mut v.cpu.fpu.0[legacy::XMM..legacy::BYTES]);
    run(&mut v, FLD1).unwrap();
    let before = v.cpu.fpu.clone();
    run(&mut v, FXSAVE64).unwrap();
    assert_eq!(qword(&v, DATA + 8), 0x7000);
    assert_eq!(dword(&v, DATA + 24), 0x1F80);
    assert_eq!(dword(&v, DATA + 28), v.native.traits.mxcsr_mask);
    v.cpu.fpu = XsaveArea([0; XSAVE_BYTES]);
    run(&mut v, FXRSTOR64).unwrap();
    assert!(v.cpu.fpu.0[..legacy::MXCSR_MASK] == before.0[..legacy::MXCSR_MASK]);
    assert!(v.cpu.fpu.0[legacy::ST..legacy::BYTES] == before.0[legacy::ST..legacy::BYTES]);
    v.cpu.gpr[gpr::RSI] = DATA + 8;
    assert_eq!(run(&mut v, FXSAVE64), Err(Fault::GP0));
}

#[test]
fn fxsave_outside_64_bit_mode_leaves_high_registers_alone() {
    let mut v = protected_mode();
    v.cpu.fpu.set_vector(8, &[1; 64]);
    poke(&v, DATA + 288, &[0xEE; 16]);
    run(&mut v, FXSAVE).unwrap();
    assert_eq!(peek::<16>(&v, DATA + 288), [0xEE; 16]);
}

#[test]
fn fxrstor_rejects_reserved_mxcsr_bits() {
    let mut v = long_mode();
    run(&mut v, FXSAVE64).unwrap();
    poke(&v, DATA + 24, &[0xFF; 4]);
    assert_eq!(run(&mut v, FXRSTOR64), Err(Fault::GP0));
}

#[test]
fn xsave_writes_requested_components_and_xrstor_initializes_the_others() {
    let mut v = long_mode();
    for n in 0..32 {
        v.cpu.fpu.set_vector(n, &[n as u8 + 1; 64]);
    }
    let before = v.cpu.fpu.vector(3);
    poke(&v, DATA, &[0; 4096]);
    with_mask(&mut v, XSAVE, u64::MAX).unwrap();
    let present = qword(&v, DATA + 512);
    assert_eq!(present & component::SSE, component::SSE);
    assert_eq!(present & !host::xcr0(), 0);
    assert_eq!(peek::<1>(&v, DATA + 576), [has(component::AVX) as u8]);
    v.cpu.fpu.set_vector(3, &[0; 64]);
    with_mask(&mut v, XRSTOR, u64::MAX).unwrap();
    assert_eq!(v.cpu.fpu.vector(3), before);
    poke(&v, DATA + 512, &component::X87.to_le_bytes());
    with_mask(&mut v, XRSTOR, component::SSE).unwrap();
    assert_eq!(v.cpu.fpu.vector(3)[..16], [0; 16]);
    assert_eq!(v.cpu.fpu.vector(3)[16..], before[16..]);
}

#[test]
fn xsavec_packs_components_in_use() {
    if !has(component::AVX512) {
        return;
    }
    let mut v = long_mode();
    v.cpu.fpu.set_opmask(2, 0x1234);
    with_mask(&mut v, XSAVEC, u64::MAX).unwrap();
    assert_eq!(qword(&v, DATA + 512), component::OPMASK);
    assert_eq!(qword(&v, DATA + 520), 1 << 63 | host::xcr0());
    // Behind AVX's 256 bytes.
    assert_eq!(qword(&v, DATA + 576 + 256 + 16), 0x1234);
    v.cpu.fpu.set_opmask(2, 0);
    v.cpu.fpu.set_opmask(3, 9);
    v.cpu.fpu.set_vector(1, &[5; 64]);
    with_mask(&mut v, XRSTOR, u64::MAX).unwrap();
    assert_eq!([v.cpu.fpu.opmask(2), v.cpu.fpu.opmask(3)], [0x1234, 0]);
    assert_eq!(v.cpu.fpu.vector(1), [0; 64]);
}

#[test]
fn xrstor_rejects_bad_headers() {
    let mut v = long_mode();
    with_mask(&mut v, XSAVE, u64::MAX).unwrap();
    for (at, value) in [(512, 1u64 << 62), (520, 1), (528, 1)] {
        let good = qword(&v, DATA + at);
        poke(&v, DATA + at, &value.to_le_bytes());
        assert_eq!(
            with_mask(&mut v, XRSTOR, 7),
            Err(Fault::GP0),
            "header at {at}"
        );
        poke(&v, DATA + at, &good.to_le_bytes());
    }
    assert_eq!(with_mask(&mut v, XRSTOR, 7), Ok(()));
    v.cpu.gpr[gpr::RSI] = DATA + 32;
    assert_eq!(with_mask(&mut v, XRSTOR, 7), Err(Fault::GP0));
}

#[test]
fn vzeroupper_clears_what_the_mode_has() {
    if !has(component::AVX) {
        return;
    }
    let mut v = protected_mode();
    v.cpu.fpu.set_vector(1, &[1; 64]);
    v.cpu.fpu.set_vector(9, &[1; 64]);
    run(&mut v, VZEROUPPER).unwrap();
    assert_eq!(
        v.cpu.fpu.vector(1)[..20],
        [[1; 16].as_slice(), &[0; 4]].concat()
    );
    assert_eq!(v.cpu.fpu.vector(9)[16], 1);
}

#[test]
fn the_hosts_own_state_survives_guest_instructions() {
    let mut v = long_mode();
    v.cpu.fpu.set_mxcsr(0x7F80);
    run(&mut v, FLD1).unwrap();
    let (mut mxcsr, mut fcw) = (0u32, 0u16);
    // SAFETY: stores two control registers.
    unsafe {
        std::arch::asm!("stmxcsr [{0}]", "fnstcw [{1}]", in(reg) &mut mxcsr, in(reg) &mut fcw);
    }
    assert_eq!((mxcsr & !0x3F, fcw), (0x1F80, 0x37F));
}
