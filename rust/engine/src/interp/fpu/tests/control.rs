//! Faults, in the order in which the SDM has them.

use super::*;

const ADDPS_MEMORY: &[u8] = &[0x0F, 0x58, 0x06]; // addps xmm0, [rsi]
const MOVUPS_LOAD: &[u8] = &[0x0F, 0x10, 0x06]; // movups xmm0, [rsi]
const MOVUPS_STORE: &[u8] = &[0x0F, 0x11, 0x06]; // movups [rsi], xmm0
const DIVPS: &[u8] = &[0x0F, 0x5E, 0xC1]; // divps xmm0, xmm1
const VADDPS: &[u8] = &[0xC5, 0xE8, 0x58, 0xCB]; // vaddps xmm1, xmm2, xmm3
const FLD1: &[u8] = &[0xD9, 0xE8];
const FLD_M32: &[u8] = &[0xD9, 0x06];
const FST_M32: &[u8] = &[0xD9, 0x16];
const FNSTSW_AX: &[u8] = &[0xDF, 0xE0];
const FNCLEX: &[u8] = &[0xDB, 0xE2];
const WAIT: &[u8] = &[0x9B];
const EMMS: &[u8] = &[0x0F, 0x77];
const LDMXCSR: &[u8] = &[0x0F, 0xAE, 0x16];

const MF: Fault = Fault::new(vector::MF);
const XM: Fault = Fault::new(vector::XM);

#[test]
fn sse_needs_osfxsr_and_no_emulation() {
    let mut v = long_mode();
    v.cpu.cr4 &= !cr4::OSFXSR;
    assert_eq!(run(&mut v, MOVUPS_LOAD), Err(Fault::UD));
    let mut v = long_mode();
    v.cpu.cr0 |= cr0::EM | cr0::TS;
    assert_eq!(run(&mut v, MOVUPS_LOAD), Err(Fault::UD));
}

#[test]
fn task_switched_raises_nm_for_every_unit_before_memory_faults() {
    let mut v = long_mode();
    v.cpu.cr0 |= cr0::TS;
    v.cpu.gpr[gpr::RSI] = HOLE;
    for code in [MOVUPS_LOAD, FLD_M32, EMMS, WAIT, FNSTSW_AX] {
        assert_eq!(run(&mut v, code), Err(Fault::NM), "{code:02x?}");
    }
}

#[test]
fn emulation_makes_x87_nm_and_mmx_ud() {
    let mut v = long_mode();
    v.cpu.cr0 |= cr0::EM;
    assert_eq!(run(&mut v, FLD1), Err(Fault::NM));
    assert_eq!(run(&mut v, EMMS), Err(Fault::UD));
    assert_eq!(run(&mut v, WAIT), Ok(()));
}

#[test]
fn avx_needs_the_os_to_enable_it() {
    let mut v = long_mode();
    v.cpu.cr4 &= !cr4::OSXSAVE;
    assert_eq!(run(&mut v, VADDPS), Err(Fault::UD));
    let mut v = long_mode();
    v.cpu.xcr0 = component::X87 | component::SSE;
    assert_eq!(run(&mut v, VADDPS), Err(Fault::UD));
}

#[test]
fn vex_is_undefined_in_real_mode() {
    let mut v = protected_mode();
    v.cpu.cr0 &= !cr0::PE;
    v.cpu.seg[seg::CS].attributes &= !attr::DB;
    assert_eq!(run(&mut v, VADDPS), Err(Fault::UD));
}

#[test]
fn legacy_sse_operands_are_aligned_or_gp() {
    let mut v = long_mode();
    v.cpu.gpr[gpr::RSI] = HOLE + 4;
    assert_eq!(run(&mut v, ADDPS_MEMORY), Err(Fault::GP0));
    v.cpu.gpr[gpr::RSI] = DATA + 4;
    assert_eq!(run(&mut v, MOVUPS_LOAD), Ok(()));
}

#[test]
fn mxcsr_mm_lets_misaligned_operands_pass_but_not_aligned_moves() {
    let mut v = long_mode();
    if v.native.traits.mxcsr_mask & fpustate::MXCSR_MM == 0 {
        return;
    }
    v.cpu.fpu.set_mxcsr(0x1F80 | fpustate::MXCSR_MM);
    v.cpu.gpr[gpr::RSI] = DATA + 4;
    assert_eq!(run(&mut v, ADDPS_MEMORY), Ok(()));
    let movaps_load = &[0x0F, 0x28, 0x06];
    assert_eq!(run(&mut v, movaps_load), Err(Fault::GP0));
}

#[test]
fn loads_and_stores_raise_page_faults() {
    let mut v = long_mode();
    v.cpu.gpr[gpr::RSI] = HOLE - 8;
    let fault = run(&mut v, MOVUPS_LOAD).unwrap_err();
    assert_eq!((fault.vector, fault.address), (vector::PF, HOLE));
    v.cpu.gpr[gpr::RSI] = READ_ONLY;
    let fault = run(&mut v, MOVUPS_STORE).unwrap_err();
    assert_eq!((fault.vector, fault.error_code), (vector::PF, Some(3)));
}

#[test]
fn unmasked_simd_exception_raises_xm_and_changes_mxcsr_flags_only() {
    let mut v = long_mode();
    v.cpu.fpu.set_mxcsr(0x1F80 & !(1 << 9)); // ZM
    let mut one = [0; 64];
    one[..4].copy_from_slice(&1f32.to_le_bytes());
    v.cpu.fpu.set_vector(0, &one);
    assert_eq!(run(&mut v, DIVPS), Err(XM));
    assert_eq!(v.cpu.fpu.vector(0), one);
    // ZE; and IE of the lanes that divide 0 by 0.
    assert_eq!(v.cpu.fpu.mxcsr() & 0x3F, 1 << 2 | 1);
}

#[test]
fn conversions_from_memory_to_mmx_registers_raise_xm() {
    let code: [&[u8]; 4] = [
        &[0x0F, 0x2C, 0x0E],       // cvttps2pi mm1, [rsi]
        &[0x0F, 0x2D, 0x0E],       // cvtps2pi mm1, [rsi]
        &[0x66, 0x0F, 0x2C, 0x0E], // cvttpd2pi mm1, [rsi]
        &[0x66, 0x0F, 0x2D, 0x0E], // cvtpd2pi mm1, [rsi]
    ];
    for code in code {
        let mut v = long_mode();
        v.cpu.fpu.set_mxcsr(0x1F80 & !(1 << 7)); // IM
        v.cpu.gpr[gpr::RSI] = DATA;
        v.vm.memory.write(DATA, &[0xFF; 16], |_| false); // NaNs
        assert_eq!(run(&mut v, code), Err(XM), "{code:02x?}");
        v.cpu.cr4 &= !cr4::OSFXSR;
        assert_eq!(run(&mut v, code), Err(Fault::UD), "{code:02x?}");
    }
}

#[test]
fn unmasked_simd_exception_is_ud_unless_the_os_takes_xm() {
    let mut v = long_mode();
    v.cpu.cr4 &= !cr4::OSXMMEXCPT;
    v.cpu.fpu.set_mxcsr(0);
    assert_eq!(run(&mut v, DIVPS), Err(Fault::UD));
}

#[test]
fn unmasked_underflow_is_raised_by_an_exact_denormal() {
    let mut v = long_mode();
    let mut values = [0; 64];
    values[..4].copy_from_slice(&f32::MIN_POSITIVE.to_le_bytes());
    v.cpu.fpu.set_vector(0, &values);
    values[..4].copy_from_slice(&0.5f32.to_le_bytes());
    v.cpu.fpu.set_vector(1, &values);
    v.cpu.fpu.set_mxcsr(0x1F80 & !(1 << 11)); // UM
    let mulps = &[0x0F, 0x59, 0xC1];
    assert_eq!(run(&mut v, mulps), Err(XM));
    assert_eq!(v.cpu.fpu.mxcsr() & 0x3F, 1 << 4);
}

#[test]
fn quiet_results_are_kept_with_exceptions_unmasked() {
    let mut v = long_mode();
    v.cpu.fpu.set_mxcsr(1 << 12); // PM alone masked
    let mut values = [0; 64];
    values[..4].copy_from_slice(&3f32.to_le_bytes());
    v.cpu.fpu.set_vector(0, &values);
    let addps = &[0x0F, 0x58, 0xC0];
    assert_eq!(run(&mut v, addps), Ok(()));
    assert_eq!(v.cpu.fpu.vector(0)[..4], 6f32.to_le_bytes());
    assert_eq!(v.cpu.fpu.mxcsr(), 1 << 12);
}

#[test]
fn unmasked_x87_exception_is_raised_by_the_next_waiting_instruction() {
    let mut v = long_mode();
    v.cpu.fpu.set_control_and_status(0x37F & !1, 0); // IM
    // The stack is empty: underflow.
    assert_eq!(run(&mut v, &[0xD9, 0xFA]), Ok(())); // fsqrt
    assert_eq!(run(&mut v, FNSTSW_AX), Ok(()));
    assert_eq!(v.cpu.gpr[gpr::RAX] & 0x80FF, 0x80C1);
    for code in [FLD1, WAIT, EMMS] {
        assert_eq!(run(&mut v, code), Err(MF), "{code:02x?}");
    }
    assert_eq!(run(&mut v, MOVUPS_LOAD), Ok(()));
    assert_eq!(run(&mut v, FNCLEX), Ok(()));
    assert_eq!(run(&mut v, WAIT), Ok(()));
}

#[test]
fn an_x87_store_that_faults_numerically_leaves_memory_alone() {
    let mut v = long_mode();
    v.cpu.fpu.set_control_and_status(0x37F & !1, 0);
    poke(&v, DATA, &[0xAA; 4]);
    assert_eq!(run(&mut v, FST_M32), Ok(()));
    assert_eq!(peek::<4>(&v, DATA), [0xAA; 4]);
    assert_eq!(run(&mut v, WAIT), Err(MF));
}

#[test]
fn without_ne_pending_exceptions_assert_ferr_and_hold_the_instruction() {
    let mut v = long_mode();
    v.cpu.cr0 &= !cr0::NE;
    v.cpu.fpu.set_control_and_status(0x37E, 1);
    assert_eq!(run(&mut v, FLD1), Ok(()));
    assert_eq!((v.ferr, v.next_rip), (true, v.cpu.rip));
    v.shared
        .ignne
        .store(true, std::sync::atomic::Ordering::Release);
    assert_eq!(run(&mut v, FLD1), Ok(()));
    assert_eq!(v.next_rip, v.cpu.rip + 2);
    assert_eq!(v.cpu.fpu.fsw() & 0xFF, 0x81);
    assert_eq!(run(&mut v, FNCLEX), Ok(()));
    assert!(!v.ferr);
}

#[test]
fn ldmxcsr_rejects_reserved_bits() {
    let mut v = long_mode();
    poke(&v, DATA, &0x4_1F80u32.to_le_bytes());
    assert_eq!(run(&mut v, LDMXCSR), Err(Fault::GP0));
    poke(&v, DATA, &0x9FC0u32.to_le_bytes());
    assert_eq!(run(&mut v, LDMXCSR), Ok(()));
    assert_eq!(v.cpu.fpu.mxcsr(), 0x9FC0);
}

#[test]
fn stack_pointer_as_an_operand_is_the_guests() {
    let mut v = long_mode();
    v.cpu.gpr[gpr::RSP] = 0x1234_5678_9ABC;
    v.cpu.gpr[gpr::RBX] = 7;
    let movq_xmm1_rsp = &[0x66, 0x48, 0x0F, 0x6E, 0xCC];
    assert_eq!(run(&mut v, movq_xmm1_rsp), Ok(()));
    assert_eq!(v.cpu.fpu.vector(1)[..8], 0x1234_5678_9ABCu64.to_le_bytes());
    let movd_esp_xmm1 = &[0x66, 0x0F, 0x7E, 0xCC];
    assert_eq!(run(&mut v, movd_esp_xmm1), Ok(()));
    assert_eq!(v.cpu.gpr[gpr::RSP], 0x5678_9ABC);
    assert_eq!(v.cpu.gpr[gpr::RBX], 7);
}

#[test]
fn instructions_of_other_families_are_never_run_on_the_host() {
    let mut v = long_mode();
    for code in [
        &[0xF4][..],
        &[0xCC],
        &[0x0F, 0x05],
        &[0xE4, 0x60],
        &[0x48, 0x89, 0xC8],
    ] {
        assert_eq!(run(&mut v, code), Err(Fault::UD), "{code:02x?}");
    }
}
