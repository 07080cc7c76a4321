//! The faults that come before an FPU or SIMD instruction does anything (SDM vol. 2, 2.4 and
//! tables 2-18 ff.; vol. 1, 8.7): #UD, #NM, #MF, in this order.

use crate::cpuid::{Leaf, Model};
use crate::fault::{Fault, vector};
use crate::fpustate::{MXCSR_COMMON, MXCSR_MM};
use crate::host::component;
use crate::state::{cr0, cr4};
use crate::vcpu::Vcpu;
use iced_x86::{CpuidFeature, EncodingKind, Instruction, OpKind, Register};
use std::sync::atomic::Ordering;

/// Which unit an instruction belongs to, and so which control bits enable it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    X87,
    Mmx,
    /// Legacy-encoded with XMM registers; `mmx`: MMX registers too.
    Sse {
        mmx: bool,
    },
    Avx,
    /// EVEX-encoded, or VEX-encoded on opmask registers.
    Avx512,
}

/// What a waiting x87 or MMX instruction does about pending exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    None,
    /// IGNNE# is asserted: carry on although exceptions are pending.
    Ignored,
    /// FERR# is asserted: the instruction waits for an interrupt, that is, starts again.
    Frozen,
}

/// None: an instruction that none of the units executes.
pub fn unit(insn: &Instruction) -> Option<Unit> {
    let registers = || {
        (0..insn.op_count())
            .filter(|&i| insn.op_kind(i) == OpKind::Register)
            .map(|i| insn.op_register(i))
    };
    let mmx = registers().any(Register::is_mm) || is_mmx(insn);
    let vector = registers().any(|r| r.is_vector_register()) || converts_from_vector(insn);
    match insn.encoding() {
        EncodingKind::EVEX => Some(Unit::Avx512),
        EncodingKind::VEX if registers().any(Register::is_k) => Some(Unit::Avx512),
        EncodingKind::VEX if vector => Some(Unit::Avx),
        EncodingKind::Legacy if is_x87(insn) => Some(Unit::X87),
        EncodingKind::Legacy if vector => Some(Unit::Sse { mmx }),
        EncodingKind::Legacy if mmx => Some(Unit::Mmx),
        _ => None,
    }
}

fn is_x87(insn: &Instruction) -> bool {
    use CpuidFeature::{FPU, FPU287, FPU387};
    let mut features = insn.cpuid_features().iter();
    features.any(|f| matches!(f, FPU | FPU287 | FPU387))
}

/// MMX instructions that may show no MMX register.
fn is_mmx(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic::{Cvtpi2pd, Cvtpi2ps, Emms};
    matches!(insn.mnemonic(), Cvtpi2ps | Cvtpi2pd | Emms)
}

/// SIMD instructions that, with a memory operand, show no vector register.
fn converts_from_vector(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic::*;
    matches!(
        insn.mnemonic(),
        Cvtpd2pi
            | Cvtps2pi
            | Cvttpd2pi
            | Cvttps2pi
            | Cvtsd2si
            | Cvtss2si
            | Cvttsd2si
            | Cvttss2si
            | Vcvtsd2si
            | Vcvtss2si
            | Vcvttsd2si
            | Vcvttss2si
    )
}

/// #UD unless the guest's CPUID has every feature that `insn` needs.
pub fn available(v: &Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let has = |f: &CpuidFeature| match cpuid_bit(*f) {
        Bit::Always => true,
        Bit::Never => false,
        Bit::At(leaf, register, bit) => register(&model_leaf(&v.model, leaf)) >> bit & 1 != 0,
    };
    if insn.cpuid_features().iter().all(has) {
        Ok(())
    } else {
        Err(Fault::UD)
    }
}

/// A leaf of the model's CPUID; subleaf in bits 63:32.
fn model_leaf(model: &Model, leaf: u64) -> Leaf {
    model.leaf(leaf as u32, (leaf >> 32) as u32)
}

/// Where models differ in what the units do.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// The bits of MXCSR that may be set.
    pub mxcsr_mask: u32,
    /// FDP is recorded for unmasked exceptions only (CPUID FDP_EXCPTN_ONLY).
    pub fdp_for_exceptions: bool,
    /// FCS and FDS are recorded (not CPUID ZERO_FCS_FDS).
    pub selectors: bool,
}

impl Traits {
    pub fn of(model: &Model) -> Traits {
        let structured = model.leaf(7, 0).ebx;
        let misaligned_sse = model.leaf(0x8000_0001, 0).ecx >> 7 & 1 != 0;
        Traits {
            mxcsr_mask: MXCSR_COMMON | if misaligned_sse { MXCSR_MM } else { 0 },
            fdp_for_exceptions: structured >> 6 & 1 != 0,
            selectors: structured >> 13 & 1 == 0,
        }
    }
}

/// Whether the guest's CPU knows the compacted XSAVE format.
pub fn offers_compaction(v: &Vcpu) -> bool {
    model_leaf(&v.model, 1 << 32 | 0xD).eax >> 1 & 1 != 0
}

/// #UD or #NM as control registers have it for `unit`.
pub fn enabled(v: &Vcpu, unit: Unit) -> Result<(), Fault> {
    let cpu = &v.cpu;
    let (em, ts) = (cpu.cr0 & cr0::EM != 0, cpu.cr0 & cr0::TS != 0);
    match unit {
        Unit::X87 if em || ts => return Err(Fault::NM),
        Unit::Mmx if em => return Err(Fault::UD),
        Unit::Sse { .. } if em || cpu.cr4 & cr4::OSFXSR == 0 => return Err(Fault::UD),
        Unit::Avx => extended(v, component::SSE | component::AVX)?,
        Unit::Avx512 => extended(v, component::SSE | component::AVX | component::AVX512)?,
        _ => {}
    }
    if ts { Err(Fault::NM) } else { Ok(()) }
}

/// #UD in real and V86 mode and unless the OS enabled `components` in XCR0.
fn extended(v: &Vcpu, components: u64) -> Result<(), Fault> {
    let on = v.cpu.cr4 & cr4::OSXSAVE != 0 && v.cpu.xcr0 & components == components;
    if on && !v.cpu.real_or_v86() {
        Ok(())
    } else {
        Err(Fault::UD)
    }
}

/// #MF for pending x87 exceptions, or the MS-DOS compatible way with CR0.NE=0 (SDM vol. 1, 8.7.2
/// and appendix D): FERR# is asserted and the instruction waits until an interrupt comes, unless
/// IGNNE# lets it pass.
pub fn pending_x87(v: &mut Vcpu) -> Result<Pending, Fault> {
    if v.cpu.fpu.unmasked_exceptions() == 0 {
        return Ok(Pending::None);
    }
    if v.cpu.cr0 & cr0::NE != 0 {
        return Err(Fault::new(vector::MF));
    }
    if v.shared.ignne.load(Ordering::Acquire) {
        return Ok(Pending::Ignored);
    }
    v.set_ferr(true);
    v.next_rip = v.cpu.rip;
    Ok(Pending::Frozen)
}

/// A register of a CPUID leaf.
type Pick = fn(&Leaf) -> u32;

enum Bit {
    Always,
    Never,
    /// Leaf (subleaf in bits 63:32), register, bit.
    At(u64, Pick, u32),
}

const LEAF_7_1: u64 = 1 << 32 | 7;

/// Where CPUID tells of a feature (SDM vol. 2, CPUID).
fn cpuid_bit(feature: CpuidFeature) -> Bit {
    let eax: Pick = |l| l.eax;
    let ebx: Pick = |l| l.ebx;
    let ecx: Pick = |l| l.ecx;
    let edx: Pick = |l| l.edx;
    use CpuidFeature as F;
    let (leaf, register, bit) = match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => {
            return Bit::Always;
        }
        F::FPU | F::FPU287 | F::FPU387 => (1, edx, 0),
        F::CMOV => (1, edx, 15),
        F::MMX => (1, edx, 23),
        F::FXSR => (1, edx, 24),
        F::SSE => (1, edx, 25),
        F::SSE2 => (1, edx, 26),
        F::SSE3 => (1, ecx, 0),
        F::PCLMULQDQ => (1, ecx, 1),
        F::SSSE3 => (1, ecx, 9),
        F::FMA => (1, ecx, 12),
        F::SSE4_1 => (1, ecx, 19),
        F::SSE4_2 => (1, ecx, 20),
        F::AES => (1, ecx, 25),
        F::XSAVE => (1, ecx, 26),
        F::AVX => (1, ecx, 28),
        F::F16C => (1, ecx, 29),
        F::AVX2 => (7, ebx, 5),
        F::AVX512F => (7, ebx, 16),
        F::AVX512DQ => (7, ebx, 17),
        F::AVX512_IFMA => (7, ebx, 21),
        F::AVX512CD => (7, ebx, 28),
        F::SHA => (7, ebx, 29),
        F::AVX512BW => (7, ebx, 30),
        F::AVX512VL => (7, ebx, 31),
        F::AVX512_VBMI => (7, ecx, 1),
        F::AVX512_VBMI2 => (7, ecx, 6),
        F::GFNI => (7, ecx, 8),
        F::VAES => (7, ecx, 9),
        F::VPCLMULQDQ => (7, ecx, 10),
        F::AVX512_VNNI => (7, ecx, 11),
        F::AVX512_BITALG => (7, ecx, 12),
        F::AVX512_VPOPCNTDQ => (7, ecx, 14),
        F::AVX512_VP2INTERSECT => (7, edx, 8),
        F::AVX512_FP16 => (7, edx, 23),
        F::SHA512 => (LEAF_7_1, eax, 0),
        F::SM3 => (LEAF_7_1, eax, 1),
        F::SM4 => (LEAF_7_1, eax, 2),
        F::AVX_VNNI => (LEAF_7_1, eax, 4),
        F::AVX512_BF16 => (LEAF_7_1, eax, 5),
        F::AVX_IFMA => (LEAF_7_1, eax, 23),
        F::AVX_VNNI_INT8 => (LEAF_7_1, edx, 4),
        F::AVX_NE_CONVERT => (LEAF_7_1, edx, 5),
        F::AVX_VNNI_INT16 => (LEAF_7_1, edx, 10),
        F::XSAVEOPT => (1 << 32 | 0xD, eax, 0),
        F::XSAVEC => (1 << 32 | 0xD, eax, 1),
        F::SSE4A => (0x8000_0001, ecx, 6),
        _ => return Bit::Never,
    };
    Bit::At(leaf, register, bit)
}
