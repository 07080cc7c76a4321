//! Instructions that access some elements of memory only.

use super::*;

/// A vector register's worth of 32-bit lanes.
fn lanes32(values: &[u32]) -> [u8; 64] {
    let mut out = [0; 64];
    for (slot, v) in out.chunks_exact_mut(4).zip(values) {
        slot.copy_from_slice(&v.to_le_bytes());
    }
    out
}

fn lane32(v: &Vcpu, register: usize, i: usize) -> u32 {
    let b = v.cpu.fpu.vector(register);
    u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]])
}

const VPMASKMOVD_LOAD: &[u8] = &[0xC4, 0xE2, 0x6D, 0x8C, 0x0E]; // ymm1, ymm2, [rsi]
const VPMASKMOVD_STORE: &[u8] = &[0xC4, 0xE2, 0x6D, 0x8E, 0x0E]; // [rsi], ymm2, ymm1
const VPGATHERDD: &[u8] = &[0xC4, 0xE2, 0x55, 0x90, 0x0C, 0x96]; // ymm1, [rsi+ymm2*4], ymm5
const EVEX_VPGATHERDD: &[u8] = &[0x62, 0xF2, 0x7D, 0x49, 0x90, 0x0C, 0x96]; // zmm1{k1}, [rsi+zmm2*4]
const VPSCATTERDD: &[u8] = &[0x62, 0xF2, 0x7D, 0x49, 0xA0, 0x0C, 0x96]; // [rsi+zmm2*4]{k1}, zmm1
const VMOVDQU32_LOAD: &[u8] = &[0x62, 0xF1, 0x7E, 0xC9, 0x6F, 0x0E]; // zmm1{k1}{z}, [rsi]
const VMOVDQU32_STORE: &[u8] = &[0x62, 0xF1, 0x7E, 0x49, 0x7F, 0x0E]; // [rsi]{k1}, zmm1
const VPCOMPRESSD: &[u8] = &[0x62, 0xF2, 0x7D, 0x49, 0x8B, 0x0E]; // [rsi]{k1}, zmm1
const VADDPS_BROADCAST: &[u8] = &[0x62, 0xF1, 0x6C, 0x59, 0x58, 0x0E]; // zmm1{k1}, zmm2, [rsi]{1to16}
const MASKMOVDQU: &[u8] = &[0x66, 0x0F, 0xF7, 0xCA]; // xmm1, xmm2
const MASKMOVQ: &[u8] = &[0x0F, 0xF7, 0xCA]; // mm1, mm2

#[test]
fn masked_out_elements_do_not_fault() {
    if !has(component::AVX) {
        return;
    }
    let mut v = long_mode();
    v.cpu.gpr[gpr::RSI] = HOLE - 16;
    poke(&v, HOLE - 16, &[1; 16]);
    v.cpu.fpu.set_vector(2, &lanes32(&[1 << 31, 0, 0, 1 << 31]));
    assert_eq!(run(&mut v, VPMASKMOVD_LOAD), Ok(()));
    assert_eq!(
        [0, 1, 3, 4].map(|i| lane32(&v, 1, i)),
        [0x0101_0101, 0, 0x0101_0101, 0]
    );
    v.cpu.fpu.set_vector(1, &lanes32(&[9; 8]));
    assert_eq!(run(&mut v, VPMASKMOVD_STORE), Ok(()));
    assert_eq!(peek::<8>(&v, HOLE - 16), [9, 0, 0, 0, 1, 1, 1, 1]);
    v.cpu.fpu.set_vector(2, &lanes32(&[0, 0, 0, 0, 1 << 31]));
    assert_eq!(run(&mut v, VPMASKMOVD_STORE).unwrap_err().address, HOLE);
}

#[test]
fn opmasked_elements_do_not_fault() {
    if !has(component::AVX512) {
        return;
    }
    let mut v = long_mode();
    v.cpu.gpr[gpr::RSI] = HOLE - 8;
    poke(&v, HOLE - 8, &[2; 8]);
    v.cpu.fpu.set_opmask(1, 0b10);
    assert_eq!(run(&mut v, VMOVDQU32_LOAD), Ok(()));
    assert_eq!([lane32(&v, 1, 0), lane32(&v, 1, 1)], [0, 0x0202_0202]);
    v.cpu.fpu.set_vector(1, &lanes32(&[7; 16]));
    assert_eq!(run(&mut v, VMOVDQU32_STORE), Ok(()));
    assert_eq!(peek::<8>(&v, HOLE - 8), [2, 2, 2, 2, 7, 0, 0, 0]);
    v.cpu.fpu.set_opmask(1, 0b110);
    assert_eq!(run(&mut v, VMOVDQU32_LOAD).unwrap_err().address, HOLE);
    v.cpu.fpu.set_opmask(1, 0b1100_0000_0000_0000);
    assert_eq!(run(&mut v, VPCOMPRESSD), Ok(()));
    assert_eq!(peek::<8>(&v, HOLE - 8), [7, 0, 0, 0, 7, 0, 0, 0]);
    v.cpu.fpu.set_opmask(1, 0xFFFF_0000);
    v.cpu.gpr[gpr::RSI] = HOLE;
    assert_eq!(run(&mut v, VADDPS_BROADCAST), Ok(()));
    v.cpu.fpu.set_opmask(1, 1);
    assert_eq!(run(&mut v, VADDPS_BROADCAST).unwrap_err().address, HOLE);
}

#[test]
fn a_faulting_gather_keeps_what_it_has_and_goes_on_from_there() {
    if !has(component::AVX) {
        return;
    }
    let mut v = long_mode();
    poke(&v, DATA, &[3; 16]);
    let to_hole = (HOLE - DATA) as u32 / 4;
    v.cpu
        .fpu
        .set_vector(2, &lanes32(&[0, 1, to_hole, 2, 0, 0, 0, 0]));
    v.cpu
        .fpu
        .set_vector(5, &lanes32(&[u32::MAX, 0, u32::MAX, u32::MAX]));
    v.cpu.fpu.set_vector(1, &lanes32(&[5; 16]));
    assert_eq!(run(&mut v, VPGATHERDD).unwrap_err().address, HOLE);
    assert_eq!([0, 1, 2].map(|i| lane32(&v, 1, i)), [0x0303_0303, 5, 5]);
    assert_eq!([0, 2, 3].map(|i| lane32(&v, 5, i)), [0, u32::MAX, u32::MAX]);
    v.cpu.fpu.set_vector(2, &lanes32(&[0, 1, 1, 2]));
    assert_eq!(run(&mut v, VPGATHERDD), Ok(()));
    assert_eq!(
        [1, 2, 3, 7].map(|i| lane32(&v, 1, i)),
        [5, 0x0303_0303, 0x0303_0303, 5]
    );
    assert_eq!(lane32(&v, 1, 8), 0);
    assert_eq!(v.cpu.fpu.vector(5), [0; 64]);
}

#[test]
fn gathers_and_scatters_by_opmask() {
    if !has(component::AVX512) {
        return;
    }
    let mut v = long_mode();
    poke(&v, DATA, &lanes32(&[10, 11, 12, 13]));
    let back = -1i32 as u32;
    v.cpu.gpr[gpr::RSI] = DATA + 4;
    v.cpu.fpu.set_vector(2, &lanes32(&[back, 2, 0, 1]));
    v.cpu.fpu.set_opmask(1, 0b1011);
    assert_eq!(run(&mut v, EVEX_VPGATHERDD), Ok(()));
    assert_eq!([0, 1, 2, 3].map(|i| lane32(&v, 1, i)), [10, 13, 0, 12]);
    assert_eq!(v.cpu.fpu.opmask(1), 0);
    v.cpu.fpu.set_opmask(1, 0b11);
    assert_eq!(run(&mut v, VPSCATTERDD), Ok(()));
    assert_eq!(peek::<16>(&v, DATA), lanes32(&[10, 11, 12, 13])[..16]);
    v.cpu.fpu.set_vector(1, &lanes32(&[77, 78]));
    v.cpu.fpu.set_opmask(1, 0b11);
    assert_eq!(run(&mut v, VPSCATTERDD), Ok(()));
    assert_eq!(peek::<16>(&v, DATA), lanes32(&[77, 11, 12, 78])[..16]);
}

#[test]
fn maskmov_stores_selected_bytes() {
    let mut v = long_mode();
    v.cpu.gpr[gpr::RDI] = HOLE - 2;
    poke(&v, HOLE - 2, &[1, 1]);
    v.cpu.fpu.set_vector(1, &lanes32(&[0x0706_0504]));
    v.cpu.fpu.set_vector(2, &lanes32(&[0x0000_8000]));
    assert_eq!(run(&mut v, MASKMOVDQU), Ok(()));
    assert_eq!(peek::<2>(&v, HOLE - 2), [1, 5]);
    v.cpu.fpu.set_vector(2, &lanes32(&[0x0080_0080]));
    assert_eq!(run(&mut v, MASKMOVDQU).unwrap_err().address, HOLE);
    assert_eq!(peek::<2>(&v, HOLE - 2), [1, 5]);
}

#[test]
fn maskmovq_enters_mmx_state() {
    let mut v = long_mode();
    v.cpu.gpr[gpr::RDI] = DATA;
    // TOP is 3: MM1 is ST6, MM2 is ST7.
    v.cpu.fpu.set_control_and_status(0x37F, 3 << 11);
    v.cpu
        .fpu
        .set_st(6, &[0x11, 0x22, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]);
    v.cpu
        .fpu
        .set_st(7, &[0, 0x80, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]);
    poke(&v, DATA, &[0; 2]);
    assert_eq!(run(&mut v, MASKMOVQ), Ok(()));
    assert_eq!(peek::<2>(&v, DATA), [0, 0x22]);
    assert_eq!(v.cpu.fpu.top(), 0);
    assert_eq!(v.cpu.fpu.st(1)[0], 0x11);
    assert_eq!(v.cpu.fpu.0[legacy::TAGS], 0xFF);
}
