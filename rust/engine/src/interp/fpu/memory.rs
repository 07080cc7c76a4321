//! The memory operand of a natively executed instruction: which of its bytes are accessed.
//!
//! An operand is a row of elements, of which a mask may leave out some.  Elements left out are
//! neither read nor written and can't fault (SDM vol. 2, 2.8.4); an unmasked operand is one
//! element of its whole size.

use super::image::ZMM_BYTES;
use super::stub::OPERAND_BYTES;
use crate::fault::Fault;
use crate::fpustate::MXCSR_MM;
use crate::interp::operand::Place;
use crate::mmu::walk::Access;
use crate::vcpu::Vcpu;
use iced_x86::{
    EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

/// Which elements are accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Select {
    All,
    /// Element j if opmask bit j, or j + elements, … below `lanes` is set.
    Opmask {
        k: usize,
        lanes: usize,
    },
    /// As many elements as opmask bits below `lanes` are set (compress, expand).
    Packed {
        k: usize,
        lanes: usize,
    },
    /// Element j if the sign bit of element j of a vector register is set.
    Signs {
        vector: usize,
    },
}

/// How an instruction uses its memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// In bytes, as the address is checked; at most `OPERAND_BYTES`.
    size: usize,
    element: usize,
    pub read: bool,
    pub write: bool,
    /// The linear address must be a multiple of this; 1: any.
    alignment: u64,
    /// MXCSR.MM makes the alignment no matter.
    mm_relaxes: bool,
    select: Select,
    /// All of it must be writable, whatever is written.
    checked_whole: bool,
}

impl Operand {
    /// None if `insn` has no memory operand; #UD if it is of a kind that isn't executed natively.
    pub fn of(insn: &Instruction) -> Result<Option<Operand>, Fault> {
        let Some(index) = (0..insn.op_count()).find(|&i| insn.op_kind(i) == OpKind::Memory) else {
            return Ok(None);
        };
        let size = insn.memory_size().size();
        if size == 0 || size > OPERAND_BYTES {
            return Err(Fault::UD);
        }
        use OpAccess::{CondRead, CondWrite, Read, ReadCondWrite, ReadWrite, Write};
        let access = InstructionInfoFactory::new().info(insn).op_access(index);
        let (element, select) = selection(insn, size);
        Ok(Some(Operand {
            size,
            element,
            read: matches!(access, Read | CondRead | ReadWrite | ReadCondWrite),
            write: matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite),
            alignment: alignment(insn, size),
            mm_relaxes: insn.encoding() == EncodingKind::Legacy && !is_aligned_move(insn),
            select,
            checked_whole: is_extraction(insn.mnemonic()),
        }))
    }

    /// One bit for each element that is accessed.
    fn accessed(&self, v: &Vcpu) -> u64 {
        let count = self.size / self.element;
        let below = |n: usize| {
            if n >= 64 { u64::MAX } else { (1 << n) - 1 }
        };
        match self.select {
            Select::All => 1,
            Select::Opmask { k, lanes } => {
                let mask = v.cpu.fpu.opmask(k) & below(lanes);
                (0..lanes).fold(0, |bits, lane| bits | (mask >> lane & 1) << (lane % count))
            }
            Select::Packed { k, lanes } => {
                below((v.cpu.fpu.opmask(k) & below(lanes)).count_ones() as usize)
            }
            Select::Signs { vector } => {
                let value = v.cpu.fpu.vector(vector);
                let sign = |i: usize| (value[(i + 1) * self.element - 1] >> 7) as u64;
                (0..count).fold(0, |bits, i| bits | sign(i) << i)
            }
        }
    }

    /// Calls `access` with each run of accessed bytes (offset, length).
    fn runs(
        &self,
        accessed: u64,
        mut access: impl FnMut(usize, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut bits = accessed;
        let mut at = 0;
        while bits != 0 {
            let skip = bits.trailing_zeros() as usize;
            let run = (bits >> skip).trailing_ones() as usize;
            access((at + skip) * self.element, run * self.element)?;
            at += skip + run;
            bits = bits.checked_shr((skip + run) as u32).unwrap_or(0);
        }
        Ok(())
    }

    /// Checks the address and reads what is to be read; raises what a write to come would raise.
    pub fn prepare(
        &self,
        v: &mut Vcpu,
        place: Place,
        out: &mut [u8; OPERAND_BYTES],
    ) -> Result<(), Fault> {
        let accessed = self.accessed(v);
        // As the host does, which is what translated code meets.
        if accessed != 0 {
            self.check_alignment(v, place)?;
        }
        if self.write && self.checked_whole {
            probe(v, place, 0, self.size)?;
        } else if self.write {
            self.runs(accessed, |at, n| probe(v, place, at, n))?;
        }
        if self.read {
            self.runs(accessed, |at, n| read(v, place, at, &mut out[at..at + n]))?;
        }
        Ok(())
    }

    /// Writes the accessed elements; `prepare` has made sure that they can be.
    pub fn store(
        &self,
        v: &mut Vcpu,
        place: Place,
        data: &[u8; OPERAND_BYTES],
    ) -> Result<(), Fault> {
        let accessed = self.accessed(v);
        self.runs(accessed, |at, n| write(v, place, at, &data[at..at + n]))
    }

    /// #GP(0) for a misaligned operand where alignment is demanded.
    fn check_alignment(&self, v: &Vcpu, place: Place) -> Result<(), Fault> {
        let relaxed = self.mm_relaxes && v.cpu.fpu.mxcsr() & MXCSR_MM != 0;
        if self.alignment > 1 && !relaxed {
            let linear = v.linear(place.segment, place.offset, 1, false);
            if linear.is_ok_and(|l| l & (self.alignment - 1) != 0) {
                return Err(Fault::GP0);
            }
        }
        Ok(())
    }
}

/// Whether an access is one of those that the bus carries whole, and #AC may stop.
fn scalar(size: usize) -> bool {
    matches!(size, 1 | 2 | 4 | 8)
}

fn read(v: &mut Vcpu, place: Place, at: usize, out: &mut [u8]) -> Result<(), Fault> {
    let offset = place.offset.wrapping_add(at as u64);
    if scalar(out.len()) {
        let value = v.read(place.segment, offset, out.len())?;
        out.copy_from_slice(&value.to_le_bytes()[..out.len()]);
        return Ok(());
    }
    v.read_bytes(place.segment, offset, out)
}

fn write(v: &mut Vcpu, place: Place, at: usize, data: &[u8]) -> Result<(), Fault> {
    let offset = place.offset.wrapping_add(at as u64);
    if scalar(data.len()) {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        return v.write(place.segment, offset, data.len(), u64::from_le_bytes(value));
    }
    v.write_bytes(place.segment, offset, data)
}

fn probe(v: &mut Vcpu, place: Place, at: usize, length: usize) -> Result<(), Fault> {
    let offset = place.offset.wrapping_add(at as u64);
    if scalar(length) {
        return v.probe_write(place.segment, offset, length);
    }
    let linear = v.linear(place.segment, offset, length, true)?;
    let access = Access::write(v.user());
    v.probe_linear(linear, length, access)
}

/// Element size in bytes, and which elements of the operand are accessed.
fn selection(insn: &Instruction, size: usize) -> (usize, Select) {
    use Mnemonic::*;
    let m = insn.mnemonic();
    if matches!(m, Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq) {
        let element = if matches!(m, Vmaskmovps | Vpmaskmovd) {
            4
        } else {
            8
        };
        let vector = vector_number(insn.op1_register());
        return (element, Select::Signs { vector });
    }
    let mask = insn.op_mask();
    if mask == Register::None || insn.encoding() != EncodingKind::EVEX || reads_all(insn) {
        return (size, Select::All);
    }
    let k = mask as usize - Register::K0 as usize;
    let element = masked_element(insn, size);
    let lanes = match broadcast_lanes(insn, element) {
        Some(lanes) => lanes,
        None => size / element,
    };
    if is_packing(m) {
        return (element, Select::Packed { k, lanes });
    }
    (element, Select::Opmask { k, lanes })
}

/// Bytes of memory that one opmask bit stands for.
fn masked_element(insn: &Instruction, size: usize) -> usize {
    let broadcast = size_if(insn, true);
    let element = if broadcast != 0 {
        broadcast
    } else {
        insn.memory_size().element_size()
    };
    if element == 0 {
        size
    } else {
        element.min(size)
    }
}

/// The operand's bytes if it were, or weren't, broadcast; 0 if it can't be.
fn size_if(insn: &Instruction, broadcast: bool) -> usize {
    let mut i = *insn;
    i.set_is_broadcast(broadcast);
    i.memory_size().size()
}

/// How many opmask bits share the operand's elements, if the operand is broadcast.
fn broadcast_lanes(insn: &Instruction, element: usize) -> Option<usize> {
    if insn.is_broadcast() {
        return Some(size_if(insn, false) / element);
    }
    use Mnemonic::*;
    let repeats = matches!(
        insn.mnemonic(),
        Vbroadcastss
            | Vbroadcastsd
            | Vbroadcastf32x2
            | Vbroadcastf32x4
            | Vbroadcastf32x8
            | Vbroadcastf64x2
            | Vbroadcastf64x4
            | Vbroadcasti32x2
            | Vbroadcasti32x4
            | Vbroadcasti32x8
            | Vbroadcasti64x2
            | Vbroadcasti64x4
            | Vpbroadcastb
            | Vpbroadcastw
            | Vpbroadcastd
            | Vpbroadcastq
    );
    repeats.then(|| insn.op0_register().size() / element)
}

fn is_packing(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Vcompressps
            | Vcompresspd
            | Vpcompressb
            | Vpcompressw
            | Vpcompressd
            | Vpcompressq
            | Vexpandps
            | Vexpandpd
            | Vpexpandb
            | Vpexpandw
            | Vpexpandd
            | Vpexpandq
    )
}

/// Stores of exception class E6NF.
fn is_extraction(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Vextractf32x4
            | Vextractf32x8
            | Vextractf64x2
            | Vextractf64x4
            | Vextracti32x4
            | Vextracti32x8
            | Vextracti64x2
            | Vextracti64x4
    )
}

/// Instructions that read all of their operand whatever the mask: exception class E4NF and its
/// like (SDM vol. 2, 2.8.5), whose elements don't correspond to mask bits.
#[rustfmt::skip]
fn reads_all(insn: &Instruction) -> bool {
    use Mnemonic::*;
    let m = insn.mnemonic();
    let counts = matches!(
        m,
        Vpslld | Vpsllq | Vpsllw | Vpsrad | Vpsraq | Vpsraw | Vpsrld | Vpsrlq | Vpsrlw
    );
    counts && insn.op2_kind() == OpKind::Memory || matches!(
        m,
        Valignd | Valignq | Vdbpsadbw | Vcvtne2ps2bf16 | Vgf2p8affineinvqb | Vgf2p8affineqb
            | Vinsertf32x4 | Vinsertf32x8 | Vinsertf64x2 | Vinsertf64x4
            | Vinserti32x4 | Vinserti32x8 | Vinserti64x2 | Vinserti64x4
            | Vpackssdw | Vpacksswb | Vpackusdw | Vpackuswb | Vpalignr
            | Vpconflictd | Vpconflictq | Vpermb | Vpermd | Vpermq | Vpermw
            | Vpermi2b | Vpermi2d | Vpermi2pd | Vpermi2ps | Vpermi2q | Vpermi2w
            | Vpermt2b | Vpermt2d | Vpermt2pd | Vpermt2ps | Vpermt2q | Vpermt2w
            | Vpermilpd | Vpermilps | Vpermpd | Vpermps
            | Vpmaddubsw | Vpmaddwd | Vpmultishiftqb
            | Vpshufb | Vpshufd | Vpshufhw | Vpshuflw
            | Vpunpckhbw | Vpunpckhdq | Vpunpckhqdq | Vpunpckhwd
            | Vpunpcklbw | Vpunpckldq | Vpunpcklqdq | Vpunpcklwd
            | Vshuff32x4 | Vshuff64x2 | Vshufi32x4 | Vshufi64x2 | Vshufpd | Vshufps
            | Vunpckhpd | Vunpckhps | Vunpcklpd | Vunpcklps
            | Vmovddup | Vmovshdup | Vmovsldup
    )
}

/// Legacy SSE demands 16-byte operands aligned, but for the instructions made for unaligned ones and
/// SHA's (as AMD has it; Intel demands alignment of these too);
/// VEX and EVEX demand it of the instructions made for aligned ones only (SDM vol. 1, 14.9).
fn alignment(insn: &Instruction, size: usize) -> u64 {
    use Mnemonic::*;
    let demanded = match insn.encoding() {
        EncodingKind::Legacy => {
            size == 16
                && !matches!(
                    insn.mnemonic(),
                    Movups
                        | Movupd
                        | Movdqu
                        | Lddqu
                        | Pcmpestri
                        | Pcmpestrm
                        | Pcmpistri
                        | Pcmpistrm
                        | Pcmpestri64
                        | Pcmpestrm64
                        | Sha1msg1
                        | Sha1msg2
                        | Sha1nexte
                        | Sha1rnds4
                        | Sha256msg1
                        | Sha256msg2
                        | Sha256rnds2
                )
        }
        _ => is_aligned_move(insn),
    };
    if demanded { size as u64 } else { 1 }
}

fn is_aligned_move(insn: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        insn.mnemonic(),
        Movaps
            | Movapd
            | Movdqa
            | Movntps
            | Movntpd
            | Movntdq
            | Movntdqa
            | Vmovaps
            | Vmovapd
            | Vmovdqa
            | Vmovdqa32
            | Vmovdqa64
            | Vmovntps
            | Vmovntpd
            | Vmovntdq
            | Vmovntdqa
    )
}

/// Number of an XMM, YMM or ZMM register.
pub fn vector_number(register: Register) -> usize {
    (register.full_register() as usize).wrapping_sub(Register::ZMM0 as usize) % (ZMM_BYTES / 2)
}
