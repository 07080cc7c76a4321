//! Random guest instructions of every opcode that iced knows, for the copier's tests.

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, OpCodeOperandKind as Kind, OpKind,
    Register, RoundingControl,
};

/// xorshift64*: repeatable operands.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: u32) -> u32 {
        ((self.next() >> 33) % limit as u64) as u32
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

pub const IP: u64 = 0x40_1000;

/// A guest instruction with its bytes.
pub struct Guest {
    pub insn: Instruction,
    pub bytes: Vec<u8>,
}

/// Decodes the first instruction of `bytes`.
pub fn decode(bytes: &[u8], bits: u32) -> Option<Guest> {
    let mut decoder = Decoder::with_ip(bits, bytes, IP, DecoderOptions::NONE);
    let insn = decoder.decode();
    let bytes = bytes.get(..insn.len())?.to_vec();
    (!insn.is_invalid()).then_some(Guest { insn, bytes })
}

/// An instruction of this opcode, if the mode has it and these operands go together.
pub fn generate(
    code: Code,
    bits: u32,
    memory: Option<Register>,
    random: &mut Random,
) -> Option<Guest> {
    let op = code.op_code();
    let available = match bits {
        16 => op.mode16(),
        32 => op.mode32(),
        _ => op.mode64(),
    };
    if !available || !op.is_instruction() {
        return None;
    }
    let mut insn = Instruction::default();
    insn.set_code(code);
    for (i, &kind) in (0..).zip(op.op_kinds()) {
        operand(&mut insn, i, kind, bits, memory, random)?;
    }
    decorate(&mut insn, random);
    let mut encoder = Encoder::new(bits);
    encoder.encode(&insn, IP).ok()?;
    decode(&encoder.take_buffer(), bits).filter(|guest| guest.insn.code() == code)
}

/// Masks, broadcast, rounding and LOCK, where allowed.
fn decorate(insn: &mut Instruction, random: &mut Random) {
    let op = insn.op_code();
    let memory = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
    if op.can_use_op_mask_register() && (op.require_op_mask_register() || random.one_in(2)) {
        insn.set_op_mask(Register::K1 + random.below(7));
        insn.set_zeroing_masking(op.can_use_zeroing_masking() && random.one_in(2));
    }
    insn.set_is_broadcast(memory && op.can_broadcast() && random.one_in(2));
    if !memory && op.can_use_rounding_control() && random.one_in(2) {
        insn.set_rounding_control(RoundingControl::RoundUp);
    } else if !memory && op.can_suppress_all_exceptions() && random.one_in(2) {
        insn.set_suppress_all_exceptions(true);
    }
    insn.set_has_lock_prefix(
        op.can_use_lock_prefix() && insn.op_kind(0) == OpKind::Memory && random.one_in(2),
    );
}

fn operand(
    insn: &mut Instruction,
    i: u32,
    kind: Kind,
    bits: u32,
    memory: Option<Register>,
    random: &mut Random,
) -> Option<()> {
    let evex = insn.op_code().encoding() == iced_x86::EncodingKind::EVEX;
    let general = if bits == 64 { 16 } else { 8 };
    let simd = match (bits, evex) {
        (64, true) => 32,
        (64, false) => 16,
        _ => 8,
    };
    let either = random.one_in(2);
    let register = match kind {
        Kind::mem | Kind::mem_offs => return address(insn, i, kind, bits, memory, random),
        Kind::r8_or_mem
        | Kind::r16_or_mem
        | Kind::r32_or_mem
        | Kind::r64_or_mem
        | Kind::mm_or_mem
        | Kind::xmm_or_mem
        | Kind::ymm_or_mem
        | Kind::zmm_or_mem
        | Kind::k_or_mem
            if either =>
        {
            return address(insn, i, kind, bits, memory, random);
        }
        Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => {
            let count = if bits == 64 { 20 } else { 8 };
            Register::AL + random.below(count)
        }
        Kind::r16_or_mem | Kind::r16_reg | Kind::r16_rm | Kind::r16_opcode => {
            Register::AX + random.below(general)
        }
        Kind::r32_or_mem | Kind::r32_reg | Kind::r32_rm | Kind::r32_opcode | Kind::r32_vvvv => {
            Register::EAX + random.below(general)
        }
        Kind::r64_or_mem | Kind::r64_reg | Kind::r64_rm | Kind::r64_opcode | Kind::r64_vvvv => {
            Register::RAX + random.below(general)
        }
        Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => Register::MM0 + random.below(8),
        Kind::k_or_mem | Kind::k_reg | Kind::k_rm | Kind::k_vvvv => Register::K0 + random.below(8),
        Kind::kp1_reg => Register::K0 + random.below(4) * 2,
        Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv => {
            Register::XMM0 + random.below(simd)
        }
        Kind::xmm_is4 | Kind::xmm_is5 => Register::XMM0 + random.below(simd),
        Kind::xmmp3_vvvv => Register::XMM0 + random.below(simd / 4) * 4,
        Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv => {
            Register::YMM0 + random.below(simd)
        }
        Kind::ymm_is4 | Kind::ymm_is5 => Register::YMM0 + random.below(simd),
        Kind::zmm_or_mem | Kind::zmm_reg | Kind::zmm_rm | Kind::zmm_vvvv => {
            Register::ZMM0 + random.below(simd)
        }
        Kind::zmmp3_vvvv => Register::ZMM0 + random.below(simd / 4) * 4,
        Kind::al => Register::AL,
        Kind::cl => Register::CL,
        Kind::ax => Register::AX,
        Kind::dx => Register::DX,
        Kind::eax => Register::EAX,
        Kind::rax => Register::RAX,
        Kind::st0 => Register::ST0,
        Kind::sti_opcode => Register::ST0 + random.below(8),
        _ => return immediate(insn, i, kind, random),
    };
    insn.set_op_register(i, register);
    Some(())
}

fn immediate(insn: &mut Instruction, i: u32, kind: Kind, random: &mut Random) -> Option<()> {
    let value = random.next() as i8 as i32;
    let (kind, value) = match kind {
        Kind::imm4_m2z => (OpKind::Immediate8, value & 3),
        Kind::imm8_const_1 => (OpKind::Immediate8, 1),
        Kind::imm8 if insn.op_kind(1) == OpKind::Immediate8 => (OpKind::Immediate8_2nd, value),
        Kind::imm8 => (OpKind::Immediate8, value),
        Kind::imm8sex16 => (OpKind::Immediate8to16, value),
        Kind::imm8sex32 => (OpKind::Immediate8to32, value),
        Kind::imm8sex64 => (OpKind::Immediate8to64, value),
        Kind::imm16 => (OpKind::Immediate16, random.next() as i32),
        Kind::imm32 => (OpKind::Immediate32, random.next() as i32),
        Kind::imm32sex64 => (OpKind::Immediate32to64, random.next() as i32),
        Kind::imm64 => {
            insn.set_op_kind(i, OpKind::Immediate64);
            insn.set_immediate64(random.next());
            return Some(());
        }
        _ => return None,
    };
    insn.set_op_kind(i, kind);
    match kind {
        OpKind::Immediate8_2nd => insn.set_immediate8_2nd(value as u8),
        OpKind::Immediate8 => insn.set_immediate8(value as u8),
        OpKind::Immediate16 => insn.set_immediate16(value as u16),
        OpKind::Immediate32 => insn.set_immediate32(value as u32),
        OpKind::Immediate32to64 => insn.set_immediate32to64(value as i64),
        OpKind::Immediate8to16 => insn.set_immediate8to16(value as i16),
        OpKind::Immediate8to32 => insn.set_immediate8to32(value),
        _ => insn.set_immediate8to64(value as i64),
    }
    Some(())
}

/// A random address, or `[memory]` if that is given.
fn address(
    insn: &mut Instruction,
    i: u32,
    kind: Kind,
    bits: u32,
    memory: Option<Register>,
    random: &mut Random,
) -> Option<()> {
    insn.set_op_kind(i, OpKind::Memory);
    if let Some(base) = memory {
        if kind == Kind::mem_offs {
            return None;
        }
        insn.set_memory_base(base);
        return Some(());
    }
    let first = match bits {
        16 => Register::AX,
        32 => Register::EAX,
        _ => Register::RAX,
    };
    if kind == Kind::mem_offs {
        insn.set_memory_displ_size(bits / 8);
        insn.set_memory_displacement64(random.next() >> (64 - bits));
        return Some(());
    }
    if bits == 16 {
        let (base, index) = [
            (Register::BX, Register::SI),
            (Register::BP, Register::DI),
            (Register::SI, Register::None),
            (Register::BP, Register::None),
            (Register::None, Register::None),
        ][random.below(5) as usize];
        insn.set_memory_base(base);
        insn.set_memory_index(index);
    } else {
        let count = if bits == 64 { 16 } else { 8 };
        let index = random.below(count);
        if !random.one_in(6) {
            insn.set_memory_base(first + random.below(count));
        }
        if index != 4 && random.one_in(2) {
            insn.set_memory_index(first + index);
            insn.set_memory_index_scale(1 << random.below(4));
        }
    }
    let none = insn.memory_base() == Register::None;
    let (size, displacement) = match random.below(3) {
        _ if none => (bits / 8, random.next() as i16 as i64),
        0 => (0, 0),
        1 => (1, 0x40),
        _ => (bits / 8, random.next() as i16 as i64),
    };
    let mask = u64::MAX >> (64 - bits);
    insn.set_memory_displ_size(size);
    insn.set_memory_displacement64(displacement as u64 & mask);
    Some(())
}
