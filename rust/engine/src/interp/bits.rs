//! Bit instructions: bit strings, scans, counts, byte swaps, BMI1, BMI2, ADX, CRC32
//! (SDM vol. 1, 7.3.7 and chapters 5.1.16 and 5.19).
//!
//! What the host's processor lacks is #UD, as the guest's then lacks it too.

use super::host::{self, Binary};
use super::operand::{Place, mask, sign_extend};
use crate::fault::Fault;
use crate::state::gpr;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// BT BTS BTR BTC BSF BSR BSWAP and the extensions without a VEX prefix.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    match insn.mnemonic() {
        Mnemonic::Bt => bit_string(v, insn, host::bt),
        Mnemonic::Bts => bit_string(v, insn, host::bts),
        Mnemonic::Btr => bit_string(v, insn, host::btr),
        Mnemonic::Btc => bit_string(v, insn, host::btc),
        Mnemonic::Bsf => scan(v, insn, host::bsf),
        Mnemonic::Bsr => scan(v, insn, host::bsr),
        Mnemonic::Tzcnt if is_x86_feature_detected!("bmi1") => scan(v, insn, host::tzcnt),
        Mnemonic::Lzcnt if is_x86_feature_detected!("lzcnt") => scan(v, insn, host::lzcnt),
        Mnemonic::Popcnt if is_x86_feature_detected!("popcnt") => scan(v, insn, host::popcnt),
        Mnemonic::Adcx if is_x86_feature_detected!("adx") => add_carry(v, insn, host::adcx),
        Mnemonic::Adox if is_x86_feature_detected!("adx") => add_carry(v, insn, host::adox),
        Mnemonic::Crc32 if is_x86_feature_detected!("sse4.2") => crc32(v, insn),
        Mnemonic::Bswap => {
            let size = v.size_of(insn, 0);
            let register = insn.op_register(0);
            v.set_reg(register, host::bswap(size, v.reg(register)));
            Ok(())
        }
        Mnemonic::Movbe => {
            let size = v.size_of(insn, 0);
            let value = v.read_operand(insn, 1)?.swap_bytes() >> (64 - 8 * size as u32);
            v.write_operand(insn, 0, value)
        }
        _ => Err(Fault::UD),
    }
}

/// BMI1 and BMI2, which need a VEX prefix and so don't exist in real and V86 mode.
pub(super) fn execute_vex(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    if v.cpu.real_or_v86() || !is_x86_feature_detected!("bmi1") {
        return Err(Fault::UD);
    }
    match insn.mnemonic() {
        Mnemonic::Andn => return three_operand(v, insn, host::andn),
        Mnemonic::Bextr => return three_operand(v, insn, host::bextr),
        Mnemonic::Blsi => return lowest_bit(v, insn, host::blsi),
        Mnemonic::Blsmsk => return lowest_bit(v, insn, host::blsmsk),
        Mnemonic::Blsr => return lowest_bit(v, insn, host::blsr),
        _ if !is_x86_feature_detected!("bmi2") => return Err(Fault::UD),
        _ => {}
    }
    match insn.mnemonic() {
        Mnemonic::Bzhi => three_operand(v, insn, host::bzhi),
        Mnemonic::Pdep => three_operand(v, insn, host::pdep),
        Mnemonic::Pext => three_operand(v, insn, host::pext),
        Mnemonic::Sarx => three_operand(v, insn, host::sarx),
        Mnemonic::Shlx => three_operand(v, insn, host::shlx),
        Mnemonic::Shrx => three_operand(v, insn, host::shrx),
        Mnemonic::Rorx => rotate_right(v, insn),
        Mnemonic::Mulx => multiply(v, insn),
        _ => Err(Fault::UD),
    }
}

/// BT and its like.
fn bit_string(v: &mut Vcpu, insn: &Instruction, operation: Binary) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let offset = v.read_operand(insn, 1)?;
    let bit = offset % (8 * size as u64);
    let before = v.cpu.rflags;
    let changes = |old| operation(size, old, bit, before);
    let only_tests = insn.mnemonic() == Mnemonic::Bt;
    let after = if insn.op_kind(0) == OpKind::Memory {
        let place = bit_place(v, insn, offset, size);
        if only_tests {
            changes(v.read(place.segment, place.offset, size)?).1
        } else {
            v.update_memory(place, size, insn.has_lock_prefix(), changes)?
        }
    } else if only_tests {
        changes(v.reg(insn.op_register(0))).1
    } else {
        v.update(insn, 0, changes)?
    };
    v.set_arithmetic(after);
    Ok(())
}

/// Where bit `offset` of a bit string is: one in a register may reach outside the memory operand,
/// to both sides.
fn bit_place(v: &Vcpu, insn: &Instruction, offset: u64, size: usize) -> Place {
    let mut place = v.place(insn);
    if insn.op_kind(1) == OpKind::Register {
        let words = sign_extend(offset, size) as i64 >> (8 * size as u64).trailing_zeros();
        let distance = (words as u64).wrapping_mul(size as u64);
        place.offset = place.offset.wrapping_add(distance) & mask(v.address_size(insn));
    }
    place
}

/// BSF, BSR and the counts.  The host decides about all 64 bits of the destination: a scan that
/// finds nothing leaves it alone.
fn scan(v: &mut Vcpu, insn: &Instruction, operation: Binary) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let source = v.read_operand(insn, 1)?;
    let destination = insn.op_register(0).full_register();
    let (value, after) = operation(size, v.reg(destination), source, v.cpu.rflags);
    v.set_reg(destination, value);
    v.set_arithmetic(after);
    Ok(())
}

/// ADCX and ADOX.
fn add_carry(v: &mut Vcpu, insn: &Instruction, operation: Binary) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let source = v.read_operand(insn, 1)?;
    let register = insn.op_register(0);
    let (value, after) = operation(size, v.reg(register), source, v.cpu.rflags);
    v.set_reg(register, value);
    v.set_arithmetic(after);
    Ok(())
}

fn crc32(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = v.size_of(insn, 1);
    let source = v.read_operand(insn, 1)?;
    let register = insn.op_register(0);
    v.set_reg(register, host::crc32(size, v.reg(register), source));
    Ok(())
}

fn three_operand(v: &mut Vcpu, insn: &Instruction, operation: Binary) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let first = v.read_operand(insn, 1)?;
    let second = v.read_operand(insn, 2)?;
    let (value, after) = operation(size, first, second, v.cpu.rflags);
    v.set_reg(insn.op_register(0), value);
    v.set_arithmetic(after);
    Ok(())
}

/// BLSI, BLSMSK and BLSR.
fn lowest_bit(v: &mut Vcpu, insn: &Instruction, operation: Binary) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let source = v.read_operand(insn, 1)?;
    let (value, after) = operation(size, 0, source, v.cpu.rflags);
    v.set_reg(insn.op_register(0), value);
    v.set_arithmetic(after);
    Ok(())
}

fn rotate_right(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let source = v.read_operand(insn, 1)?;
    let count = insn.immediate8() as u32;
    let value = if v.size_of(insn, 0) == 4 {
        (source as u32).rotate_right(count) as u64
    } else {
        source.rotate_right(count)
    };
    v.set_reg(insn.op_register(0), value);
    Ok(())
}

/// MULX: the high half is written last, so it wins where both go to one register.
fn multiply(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let source = v.read_operand(insn, 2)?;
    let product = (v.cpu.gpr[gpr::RDX] & mask(size)) as u128 * source as u128;
    v.set_reg(insn.op_register(1), product as u64);
    v.set_reg(insn.op_register(0), (product >> (8 * size as u32)) as u64);
    Ok(())
}
