//! Random encodings: whatever decodes is executed as the host executes the very same bytes.

use super::against_host::{random_image, visible};
use super::*;
use crate::interp::fpu::checks;
use crate::interp::fpu::stub::{Context, StubMemory};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

const ROUNDS: usize = 60_000;

/// Bytes that are likely an x87, MMX, SSE, VEX or EVEX instruction, with [RSI] where it has memory.
fn encoding(random: &mut Random) -> [u8; 15] {
    let mut bytes = [0; 15];
    random.fill(&mut bytes);
    let any = random.next();
    let modrm = if any >> 8 & 1 == 0 {
        0xC0 | bytes[14]
    } else {
        0x06 | bytes[14] & 0x38
    };
    let opcode_at = match any % 6 {
        0 => {
            bytes[0] = 0xD8 | bytes[0] & 7;
            0
        }
        1 => {
            bytes[0] = [0x66, 0xF2, 0xF3, 0x66][any as usize >> 9 & 3];
            bytes[1] = 0x0F;
            2
        }
        2 => {
            let map = if any >> 10 & 1 == 0 { 0x38 } else { 0x3A };
            bytes[..3].copy_from_slice(&[0x66, 0x0F, map]);
            3
        }
        3 => {
            bytes[0] = 0x0F;
            1
        }
        4 => {
            // X and B as for low registers, maps 1 to 3.
            bytes[0] = 0xC4;
            bytes[1] = bytes[1] & 0x80 | 0x60 | (1 + (any >> 16) as u8 % 3);
            3
        }
        _ => {
            bytes[0] = 0x62;
            bytes[1] = bytes[1] & 0x90 | 0x60 | (1 + (any >> 16) as u8 % 3);
            bytes[2] |= 0x04;
            4
        }
    };
    bytes[opcode_at + 1] = modrm;
    bytes
}

/// Whether both sides can run it: a computing instruction, memory at RSI alone, no RSI or RSP.
fn comparable(insn: &Instruction) -> bool {
    let is_pointer = |r: Register| matches!(r.full_register(), Register::RSI | Register::RSP);
    let operands = (0..insn.op_count()).all(|n| match insn.op_kind(n) {
        OpKind::Register => !is_pointer(insn.op_register(n)),
        OpKind::Memory => {
            insn.memory_base() == Register::RSI
                && insn.memory_index() == Register::None
                && insn.memory_displacement64() == 0
                && insn.memory_segment() == Register::DS
        }
        _ => insn.try_immediate(n).is_ok(),
    });
    use Mnemonic::{Fldenv, Fnsave, Fnstenv, Frstor};
    let environment = matches!(insn.mnemonic(), Fldenv | Fnsave | Fnstenv | Frstor);
    operands && checks::unit(insn).is_some() && !environment
}

#[test]
fn whatever_decodes_computes_as_the_host_does() {
    let mut v = long_mode();
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let mut stubs = StubMemory::new().expect("stubs");
    let mut done = 0;
    for _ in 0..ROUNDS {
        let bytes = encoding(&mut random);
        let insn = Decoder::with_ip(64, &bytes, 0x7000, DecoderOptions::NONE).decode();
        if insn.is_invalid() || !comparable(&insn) || checks::available(&v, &insn).is_err() {
            continue;
        }
        let mut image = random_image(&mut random);
        let mut context = Context::new(flags::FIXED | random.next() & flags::ARITHMETIC);
        random.fill(&mut context.operand);
        context.gpr = std::array::from_fn(|_| random.next());
        v.cpu.gpr = context.gpr;
        v.cpu.gpr[gpr::RSI] = DATA;
        v.cpu.fpu = image.clone();
        v.cpu.rflags = context.rflags;
        poke(&v, DATA, &context.operand);
        if run(&mut v, &bytes).is_err() {
            continue;
        }
        done += 1;
        let mut buffer = Buffer(context.operand);
        context.gpr[gpr::RSI] = &raw mut buffer as u64;
        if stubs.is_full() {
            stubs.clear();
        }
        let stub = stubs.add(&bytes[..insn.len()]).expect("room");
        let area = &raw mut image;
        // SAFETY: one computing instruction whose memory operand is `buffer`.
        let signal = unsafe { context.run(stub, area) };
        assert_eq!(signal, None);
        check(&v, &insn, &image, &context, &buffer.0);
    }
    assert!(done > ROUNDS / 20, "only {done} comparisons");
}

#[repr(align(64))]
struct Buffer([u8; 64]);

fn check(v: &Vcpu, insn: &Instruction, image: &XsaveArea, context: &Context, data: &[u8; 64]) {
    let (text, code) = (insn.mnemonic(), insn.code());
    assert!(
        visible(&v.cpu.fpu) == visible(image),
        "{text:?} {code:?}: registers"
    );
    assert_eq!(peek::<64>(v, DATA), *data, "{text:?} {code:?}: memory");
    for n in (0..16).filter(|n| ![gpr::RSI, gpr::RSP].contains(n)) {
        assert_eq!(
            v.cpu.gpr[n], context.gpr[n],
            "{text:?} {code:?}: register {n}"
        );
    }
    let arithmetic = |f: u64| f & flags::ARITHMETIC;
    assert_eq!(
        arithmetic(v.cpu.rflags),
        arithmetic(context.rflags),
        "{text:?} {code:?}: flags"
    );
}
