//! The generic copier: a guest instruction as 64-bit host code for the same operation, with its
//! general registers renamed and its memory operand replaced (Intel SDM vol. 2, chapter 2; AMD APM
//! vol. 3 and 6 for XOP and 3DNow!).
//!
//! Theory.  An instruction is {legacy prefixes, REX/VEX/EVEX/XOP payload, opcode map, opcode, ModRM,
//! SIB, displacement, immediate}.  Guest and host share all of it but the register bits, the memory
//! operand and, for 16- and 32-bit guests, a few encodings that 64-bit mode took away.  So the raw
//! bytes are split, those fields are rewritten, and the rest is put back unread: one path serves
//! every user-mode extension that the host has.  What iced's tables say about each `Code` (where
//! its registers stand, how it accesses them, whether it may be copied at all) is gathered once, in
//! a table of [`Shape`]s.
//!
//! Registers.
//!
//! | guest | host |
//! |---|---|
//! | RAX RCX RDX RBX RBP RSI RDI, R12–R15 | the same |
//! | RSP | R8 |
//! | R8–R11 | memory, at `[rsp + home + 8*i]`: named directly where ModRM.r/m can, else in a scratch |
//! | AH CH DH BH | the same, or rotated into a scratch where the host encoding needs a REX prefix |
//!
//! Scratch are those of R9, R10 and R11 that neither the memory operand nor `Plan::keep` uses.  No
//! added instruction writes flags.
//!
//! Invariants.
//! 1. Guest-visible state changes only in and after the copied instruction itself, and what follows
//!    it (stores to homes, high-byte write-back) can't fault: a fault is always precise.
//! 2. For 16- and 32-bit guests host registers hold zero-extended values, before and after.
//! 3. A register written through a scratch is loaded whole before, unless the instruction is known to
//!    overwrite all 64 bits: a partial, conditional or undefined write acts as on the real register.
//!
//! Deliberately absent, so `NotCopyable`: stack, string, control-transfer, segment, system and
//! state-saving instructions, VSIB addressing, and those whose memory is addressed implicitly.
//! REP/REPNE where they have no meaning and the HLE hints are dropped, as hardware ignores them.

use std::sync::LazyLock;

use iced_x86::{
    Code as Opcode, CodeSize, CpuidFeature, EncodingKind, FlowControl, Instruction,
    InstructionInfoFactory, InstructionInfoOptions, MandatoryPrefix, Mnemonic, OpAccess,
    OpCodeInfo, OpCodeOperandKind, OpCodeTableKind, OpKind, Register,
};

use super::emit::{Asm, Code, Gpr, Mem, R8, R9, R10, R11, RAX, RSP, Rm, W8, W16, W32, W64, Width};

/// Whether the copier can serve an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Its whole effect is on registers, flags, SIMD or x87 state and at most one memory operand.
    Copyable,
    /// Copyable, but the memory operand is a bit string: BT BTS BTR BTC with a register bit offset
    /// reach beyond it.  The caller reduces the offset; see [`Plan::bit_offset`].
    BitString,
    /// Does nothing a guest can see: NOPs, prefetches, ENDBR.  No code is needed.
    NoEffect,
    /// Needs a rule of its own, or the interpreter.
    NotCopyable,
}

/// The state that an instruction needs enabled (CR0.EM/TS, CR4.OSFXSR, XCR0).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unit {
    Integer,
    X87,
    Mmx,
    Sse,
    Avx,
    Avx512,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    pub fn reads(self) -> bool {
        self != Access::Write
    }

    pub fn writes(self) -> bool {
        self != Access::Read
    }
}

/// The memory operand of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryOperand {
    /// In bytes.
    pub size: usize,
    pub access: Access,
    /// A mask chooses the elements accessed; the others don't fault (AVX maskmov, AVX-512 {k}).
    pub masked: bool,
}

/// How one instruction is to be copied.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Host place of the memory operand, if there is one.
    pub mem: Option<Mem>,
    /// For [`Class::BitString`] on memory: host register with the bit offset reduced to the operand's
    /// width, whose element `mem` then names.
    pub bit_offset: Option<Gpr>,
    /// Scratch registers, besides those in `mem`, that the copy must not change: bit n is Rn.
    pub keep: u16,
    /// Guest R8+i lives at `[rsp + home + 8*i]`.
    pub home: i32,
}

impl Plan {
    pub const fn new(home: i32) -> Plan {
        Plan {
            mem: None,
            bit_offset: None,
            keep: 0,
            home,
        }
    }

    pub const fn mem(self, mem: Mem) -> Plan {
        Plan {
            mem: Some(mem),
            ..self
        }
    }

    fn home(&self, guest: u8) -> Mem {
        Mem::base(RSP).disp(self.home + 8 * (guest as i32 - 8))
    }
}

/// Why an instruction could not be copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unencodable {
    NotCopyable,
    /// The plan lacks the memory operand, or the bit offset of a bit string.
    PlanIncomplete,
    NoScratch,
    /// The host instruction would be longer than 15 bytes.
    TooLong,
    /// The bytes are not those of the instruction.
    Malformed,
}

/// What the copier may do with this instruction.
pub fn classify(insn: &Instruction) -> Class {
    match Shape::of(insn.code()).class {
        Class::BitString if !has_memory(insn) => Class::Copyable,
        class => class,
    }
}

/// What must be enabled for this instruction.
pub fn unit(insn: &Instruction) -> Unit {
    Shape::of(insn.code()).unit
}

/// The explicit memory operand, if the instruction accesses one.  For [`Class::BitString`] it is one
/// element of the string.
pub fn memory_operand(insn: &Instruction) -> Option<MemoryOperand> {
    let shape = Shape::of(insn.code());
    if !has_memory(insn) {
        return None;
    }
    Some(MemoryOperand {
        size: insn.memory_size().size(),
        access: shape.mem_access?,
        masked: shape.has(MASKED) || insn.op_mask() != Register::None,
    })
}

/// Size in bytes of the explicit memory operand; 0 without one.
pub fn memory_operand_size(insn: &Instruction) -> usize {
    memory_operand(insn).map_or(0, |operand| operand.size)
}

fn has_memory(insn: &Instruction) -> bool {
    (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory)
}

/// Appends host code for `insn`, which was decoded from `bytes`.
pub fn copy(
    insn: &Instruction,
    bytes: &[u8],
    plan: &Plan,
    out: &mut Asm,
) -> Result<(), Unencodable> {
    let shape = Shape::of(insn.code());
    match shape.class {
        Class::NotCopyable => return Err(Unencodable::NotCopyable),
        Class::NoEffect => return Ok(()),
        Class::Copyable | Class::BitString => {}
    }
    let long = insn.code_size() == CodeSize::Code64;
    let fields = Fields::split(shape, bytes, insn.code_size()).ok_or(Unencodable::Malformed)?;
    let bound = Bound::bind(shape, &fields, plan, long)?;
    let code = match shape.encoding {
        Encoding::Legacy => legacy(shape, &fields, &bound),
        Encoding::Vex | Encoding::Xop => vex(shape, &fields, &bound),
        Encoding::Evex => evex(shape, &fields, &bound),
    };
    if code.len() > MAX_INSTRUCTION_LEN {
        return Err(Unencodable::TooLong);
    }
    bound.before(shape, plan, out);
    out.put(code);
    bound.after(shape, plan, out);
    Ok(())
}

const MAX_INSTRUCTION_LEN: usize = 15;

// --- what the tables say about an opcode ---

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Legacy,
    Vex,
    Xop,
    Evex,
}

/// Places in an encoding that name a register.
const REG: usize = 0; // ModRM.reg
const RM: usize = 1; // ModRM.r/m, or the opcode's low bits
const VVVV: usize = 2;

/// What stands in such a place.
#[derive(Clone, Copy)]
struct Slot {
    kind: SlotKind,
    width: Width,
    reads: bool,
    writes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotKind {
    /// No register operand; ModRM.reg may extend the opcode.
    Empty,
    General,
    /// SIMD, mask or MMX: named as in the guest.
    Other,
}

const EMPTY: Slot = Slot {
    kind: SlotKind::Empty,
    width: W64,
    reads: false,
    writes: false,
};

// Flags of a shape.
const MODRM: u16 = 1 << 0;
/// ModRM.r/m is absent: the register is in the opcode's low three bits.
const OPCODE_REG: u16 = 1 << 1;
/// A0–A3: the address follows the opcode.
const MOFFS: u16 = 1 << 2;
const OPERAND16: u16 = 1 << 3;
/// 40–4F in 16- and 32-bit mode.
const SHORT_INC_DEC: u16 = 1 << 4;
/// An immediate names a SIMD register in its high four bits.
const IS4: u16 = 1 << 5;
const W_IGNORED: u16 = 1 << 6;
const W_SET: u16 = 1 << 7;
/// A general register in ModRM.r/m may be replaced by memory holding it.
const RM_AS_MEMORY: u16 = 1 << 8;
const MASKED: u16 = 1 << 9;
const ALIAS_82: u16 = 1 << 10;

/// Where an opcode's operands stand in its encoding.
struct Shape {
    class: Class,
    unit: Unit,
    encoding: Encoding,
    /// Legacy escape bytes: none, 0F, 0F 38 or 0F 3A.
    escape: &'static [u8],
    /// Mandatory 66h, F2h or F3h, or 0.
    mandatory: u8,
    flags: u16,
    slots: [Slot; 3],
    mem_access: Option<Access>,
}

static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    let mut info = InstructionInfoFactory::new();
    Opcode::values()
        .map(|opcode| Shape::new(opcode, &mut info))
        .collect()
});

const UNKNOWN: Shape = Shape {
    class: Class::NotCopyable,
    unit: Unit::Integer,
    encoding: Encoding::Legacy,
    escape: &[],
    mandatory: 0,
    flags: 0,
    slots: [EMPTY; 3],
    mem_access: None,
};

impl Shape {
    fn of(opcode: Opcode) -> &'static Shape {
        SHAPES.get(opcode as usize).unwrap_or(&UNKNOWN)
    }

    #[inline]
    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn new(opcode: Opcode, info: &mut InstructionInfoFactory) -> Shape {
        let op = opcode.op_code();
        let encoding = match op.encoding() {
            EncodingKind::Legacy | EncodingKind::D3NOW => Encoding::Legacy,
            EncodingKind::VEX => Encoding::Vex,
            EncodingKind::XOP => Encoding::Xop,
            EncodingKind::EVEX => Encoding::Evex,
            _ => return UNKNOWN,
        };
        let mut shape = Shape {
            class: class_of(op),
            unit: unit_of(op),
            encoding,
            escape: match op.table() {
                OpCodeTableKind::Normal => &[],
                OpCodeTableKind::T0F38 => &[0x0F, 0x38],
                OpCodeTableKind::T0F3A => &[0x0F, 0x3A],
                _ => &[0x0F],
            },
            mandatory: match op.mandatory_prefix() {
                MandatoryPrefix::P66 => 0x66,
                MandatoryPrefix::PF2 => 0xF2,
                MandatoryPrefix::PF3 => 0xF3,
                MandatoryPrefix::None | MandatoryPrefix::PNP => 0,
            },
            flags: flags_of(op),
            slots: [EMPTY; 3],
            mem_access: None,
        };
        let accesses = accesses_of(op, info);
        for (&kind, access) in op.op_kinds().iter().zip(accesses) {
            shape.place(op, kind, access);
        }
        shape
    }

    /// Records one operand.
    fn place(&mut self, op: &OpCodeInfo, kind: OpCodeOperandKind, access: OpAccess) {
        let Some(place) = Place::of(kind) else {
            self.class = Class::NotCopyable;
            return;
        };
        let (slot, contents) = match place {
            Place::None => return,
            Place::Is4 => return self.flags |= IS4,
            Place::Moffs => {
                self.flags |= MOFFS;
                return self.mem_access = memory_access(access);
            }
            Place::Memory => {
                self.flags |= MODRM;
                self.set_memory(op, access);
                return;
            }
            Place::Opcode(width) => {
                self.flags |= OPCODE_REG;
                (RM, Some(width))
            }
            Place::Slot(slot, width) => {
                if slot != VVVV {
                    self.flags |= MODRM;
                }
                (slot, width)
            }
            Place::SlotOrMemory(width) => {
                self.flags |= MODRM;
                self.set_memory(op, access);
                if width.is_some_and(|width| memory_serves(op, width, access)) {
                    self.flags |= RM_AS_MEMORY;
                }
                (RM, width)
            }
        };
        self.slots[slot] = Slot {
            kind: contents.map_or(SlotKind::Other, |_| SlotKind::General),
            width: contents.unwrap_or(W64),
            reads: access != OpAccess::Write,
            writes: !matches!(
                access,
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
            ),
        };
    }

    fn set_memory(&mut self, op: &OpCodeInfo, access: OpAccess) {
        use Mnemonic::{Vmaskmovpd, Vmaskmovps, Vpmaskmovd, Vpmaskmovq};
        self.mem_access = memory_access(access);
        if matches!(
            op.mnemonic(),
            Vmaskmovpd | Vmaskmovps | Vpmaskmovd | Vpmaskmovq
        ) {
            self.flags |= MASKED;
        }
    }
}

/// Where an operand of a kind stands.
enum Place {
    /// Implied, or in bytes that are copied unread.
    None,
    Is4,
    Moffs,
    Memory,
    Opcode(Width),
    /// In a slot; a general register has a width.
    Slot(usize, Option<Width>),
    SlotOrMemory(Option<Width>),
}

impl Place {
    /// None: an operand that the copier can't serve.
    fn of(kind: OpCodeOperandKind) -> Option<Place> {
        use Place::{Opcode, Slot, SlotOrMemory};
        type K = OpCodeOperandKind;
        Some(match kind {
            K::None | K::al | K::cl | K::ax | K::dx | K::eax | K::rax => Place::None,
            K::st0 | K::sti_opcode => Place::None,
            K::imm4_m2z | K::imm8 | K::imm8_const_1 | K::imm8sex16 | K::imm8sex32 => Place::None,
            K::imm8sex64 | K::imm16 | K::imm32 | K::imm32sex64 | K::imm64 => Place::None,
            K::xmm_is4 | K::ymm_is4 | K::xmm_is5 | K::ymm_is5 => Place::Is4,
            K::mem_offs => Place::Moffs,
            K::mem => Place::Memory,
            K::r8_opcode => Opcode(W8),
            K::r16_opcode => Opcode(W16),
            K::r32_opcode => Opcode(W32),
            K::r64_opcode => Opcode(W64),
            K::r8_reg => Slot(REG, Some(W8)),
            K::r16_reg => Slot(REG, Some(W16)),
            K::r32_reg => Slot(REG, Some(W32)),
            K::r64_reg => Slot(REG, Some(W64)),
            K::r16_rm => Slot(RM, Some(W16)),
            K::r32_rm => Slot(RM, Some(W32)),
            K::r64_rm => Slot(RM, Some(W64)),
            K::r32_vvvv => Slot(VVVV, Some(W32)),
            K::r64_vvvv => Slot(VVVV, Some(W64)),
            K::r8_or_mem => SlotOrMemory(Some(W8)),
            K::r16_or_mem => SlotOrMemory(Some(W16)),
            K::r32_or_mem => SlotOrMemory(Some(W32)),
            K::r64_or_mem => SlotOrMemory(Some(W64)),
            K::k_reg | K::kp1_reg | K::mm_reg | K::xmm_reg | K::ymm_reg | K::zmm_reg => {
                Slot(REG, None)
            }
            K::k_rm | K::mm_rm | K::xmm_rm | K::ymm_rm | K::zmm_rm => Slot(RM, None),
            K::k_vvvv | K::xmm_vvvv | K::xmmp3_vvvv | K::ymm_vvvv | K::zmm_vvvv | K::zmmp3_vvvv => {
                Slot(VVVV, None)
            }
            K::mm_or_mem | K::xmm_or_mem | K::ymm_or_mem | K::zmm_or_mem | K::k_or_mem => {
                SlotOrMemory(None)
            }
            _ => return None,
        })
    }
}

fn memory_access(access: OpAccess) -> Option<Access> {
    match access {
        OpAccess::Read | OpAccess::CondRead => Some(Access::Read),
        OpAccess::Write | OpAccess::CondWrite => Some(Access::Write),
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => Some(Access::ReadWrite),
        OpAccess::None | OpAccess::NoMemAccess => None,
    }
}

/// Whether the r/m operand, a general register kept in memory, may be accessed there.  Not where a
/// memory operand means something else: bit strings, the implied LOCK of XCHG, EVEX.b.  And not for
/// writes below 64 bits: 32-bit ones clear the upper half, narrower ones defeat store forwarding.
fn memory_serves(op: &OpCodeInfo, width: Width, access: OpAccess) -> bool {
    let plain = !bit_string(op)
        && op.mnemonic() != Mnemonic::Xchg
        && matches!(op.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
    match memory_access(access) {
        Some(Access::Read) => plain && op.memory_size().size() <= width.bytes() as usize,
        Some(_) => plain && width == W64 && op.memory_size().size() == 8,
        None => false,
    }
}

fn bit_string(op: &OpCodeInfo) -> bool {
    use Mnemonic::{Bt, Btc, Btr, Bts};
    use OpCodeOperandKind::{r16_reg, r32_reg, r64_reg};
    matches!(op.mnemonic(), Bt | Bts | Btr | Btc)
        && matches!(op.op1_kind(), r16_reg | r32_reg | r64_reg)
}

/// How each operand is accessed, as for distinct registers and a memory r/m operand.
fn accesses_of(op: &OpCodeInfo, info: &mut InstructionInfoFactory) -> [OpAccess; 5] {
    let mut insn = Instruction::default();
    insn.set_code(op.code());
    let distinct = [
        Register::RAX,
        Register::RCX,
        Register::RDX,
        Register::RBX,
        Register::RBP,
    ];
    for (i, (&kind, reg)) in (0..).zip(op.op_kinds().iter().zip(distinct)) {
        let memory = matches!(
            Place::of(kind),
            Some(Place::Memory | Place::Moffs | Place::SlotOrMemory(_))
        );
        if memory {
            insn.set_op_kind(i, OpKind::Memory);
        } else if i < 4 {
            insn.set_op_register(i, reg);
        }
    }
    let options =
        InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
    let info = info.info_options(&insn, options);
    [0, 1, 2, 3, 4].map(|i| info.op_access(i))
}

fn flags_of(op: &OpCodeInfo) -> u16 {
    use Opcode::{Dec_r16, Dec_r32, Inc_r16, Inc_r32};
    let mut flags = 0;
    if one_byte(op) && op.op_code() == 0x82 {
        flags |= ALIAS_82;
    }
    if op.encoding() == EncodingKind::Legacy && op.operand_size() == 16 {
        flags |= OPERAND16;
    }
    if matches!(op.code(), Inc_r16 | Inc_r32 | Dec_r16 | Dec_r32) {
        flags |= SHORT_INC_DEC;
    }
    if op.is_wig() {
        flags |= W_IGNORED;
    }
    if op.w() == 1 {
        flags |= W_SET;
    }
    flags
}

fn class_of(op: &OpCodeInfo) -> Class {
    if no_effect(op) {
        return Class::NoEffect;
    }
    let special = op.is_privileged()
        || op.is_stack_instruction()
        || op.is_input_output()
        || op.is_save_restore()
        || op.fwait()
        || !op.is_instruction();
    let opcode = op.code();
    let sequential = opcode.flow_control() == FlowControl::Next;
    let known = opcode
        .cpuid_features()
        .iter()
        .all(|&feature| computes(feature));
    if special || !sequential || !known || needs_a_rule(op.mnemonic()) || !exists_in_long_mode(op) {
        Class::NotCopyable
    } else if bit_string(op) {
        Class::BitString
    } else {
        Class::Copyable
    }
}

/// Encodings of 16- and 32-bit mode that are gone, or have a replacement here.
fn exists_in_long_mode(op: &OpCodeInfo) -> bool {
    op.mode64() || one_byte(op) && matches!(op.op_code(), 0x40..=0x4F | 0x82)
}

/// Whether the opcode is in the one-byte map.
fn one_byte(op: &OpCodeInfo) -> bool {
    op.encoding() == EncodingKind::Legacy
        && op.table() == OpCodeTableKind::Normal
        && op.op_code_len() == 1
}

fn no_effect(op: &OpCodeInfo) -> bool {
    use Mnemonic::*;
    let hint = matches!(
        op.mnemonic(),
        Prefetch
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
            | Prefetchw
            | Prefetchwt1
            | Prefetchit0
            | Prefetchit1
            | Cldemote
            | Endbr32
            | Endbr64
    );
    op.encoding() == EncodingKind::Legacy && (hint || op.is_nop() || op.is_reserved_nop())
}

/// Unprivileged instructions of plain extensions that are nevertheless not copied.
fn needs_a_rule(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        // address arithmetic, not an access
        Lea
        // descriptor tables and segments
        | Arpl | Lar | Lsl | Verr | Verw | Sgdt | Sidt | Sldt | Str | Smsw | Lds | Les | Lfs | Lgs
        | Lss
        // flags that the monitor keeps
        | Cli | Sti | Cld | Std | Popf | Popfd | Popfq | Pushf | Pushfd | Pushfq
        // images whose layout depends on the mode, or with addresses in them
        | Fnstenv | Fldenv | Fnsave | Frstor
        // implicit memory
        | Xlatb | Maskmovq | Maskmovdqu | Vmaskmovdqu
        | Hlt | Salc
    )
}

/// Extensions whose instructions compute; the others control the processor.
fn computes(feature: CpuidFeature) -> bool {
    type F = CpuidFeature;
    matches!(
        feature,
        F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::X64
            | F::FPU
            | F::FPU287
            | F::FPU387
            | F::CMOV
            | F::CX8
            | F::CMPXCHG16B
            | F::MULTIBYTENOP
            | F::PAUSE
            | F::ADX
            | F::BMI1
            | F::BMI2
            | F::LZCNT
            | F::POPCNT
            | F::MOVBE
            | F::MOVDIRI
            | F::TBM
            | F::RDRAND
            | F::RDSEED
            | F::RAO_INT
            | F::CMPCCXADD
            | F::MMX
            | F::D3NOW
            | F::D3NOWEXT
            | F::SSE
            | F::SSE2
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::SSE4A
            | F::AES
            | F::VAES
            | F::PCLMULQDQ
            | F::VPCLMULQDQ
            | F::GFNI
            | F::SHA
            | F::SHA512
            | F::SM3
            | F::SM4
            | F::AVX
            | F::AVX2
            | F::F16C
            | F::FMA
            | F::FMA4
            | F::XOP
            | F::AVX_VNNI
            | F::AVX_VNNI_INT8
            | F::AVX_VNNI_INT16
            | F::AVX_IFMA
            | F::AVX_NE_CONVERT
            | F::AVX512F
            | F::AVX512BW
            | F::AVX512CD
            | F::AVX512DQ
            | F::AVX512ER
            | F::AVX512VL
            | F::AVX512_4FMAPS
            | F::AVX512_4VNNIW
            | F::AVX512_BF16
            | F::AVX512_BITALG
            | F::AVX512_FP16
            | F::AVX512_IFMA
            | F::AVX512_VBMI
            | F::AVX512_VBMI2
            | F::AVX512_VNNI
            | F::AVX512_VP2INTERSECT
            | F::AVX512_VPOPCNTDQ
    )
}

fn unit_of(op: &OpCodeInfo) -> Unit {
    type K = OpCodeOperandKind;
    let any = |test: fn(&K) -> bool| op.op_kinds().iter().any(test);
    let mask = any(|k| matches!(k, K::k_reg | K::kp1_reg | K::k_rm | K::k_vvvv | K::k_or_mem));
    let general = any(|k| matches!(k, K::r32_reg | K::r64_reg | K::r32_vvvv | K::r64_vvvv));
    let simd = any(|k| {
        matches!(
            k,
            K::xmm_reg
                | K::xmm_rm
                | K::xmm_vvvv
                | K::xmm_or_mem
                | K::ymm_reg
                | K::ymm_rm
                | K::ymm_or_mem
        )
    });
    let mmx = any(|k| matches!(k, K::mm_reg | K::mm_rm | K::mm_or_mem));
    let x87 = op.table() == OpCodeTableKind::Normal
        && matches!(op.op_code(), 0x9B | 0xD8..=0xDF | 0xD8C0..=0xDFFF);
    match op.encoding() {
        EncodingKind::EVEX => Unit::Avx512,
        EncodingKind::VEX | EncodingKind::XOP if mask => Unit::Avx512,
        EncodingKind::VEX | EncodingKind::XOP if general && !simd => Unit::Integer,
        EncodingKind::VEX | EncodingKind::XOP => Unit::Avx,
        _ if simd || matches!(op.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr) => Unit::Sse,
        _ if mmx || matches!(op.mnemonic(), Mnemonic::Emms | Mnemonic::Femms) => Unit::Mmx,
        _ if x87 => Unit::X87,
        _ => Unit::Integer,
    }
}

// --- an instruction's bytes ---

/// The fields of one encoded guest instruction.
struct Fields<'b> {
    lock: bool,
    /// REX byte, or 0.
    rex: u8,
    /// VEX and XOP: as the last two bytes of the three-byte form.  EVEX: P0, P1 and P2.
    payload: [u8; 3],
    opcode: u8,
    modrm: u8,
    /// Numbers in the slots, 5 bits under EVEX.
    numbers: [u8; 3],
    rm_is_memory: bool,
    /// Immediates and whatever else follows.
    tail: &'b [u8],
    /// Only registers 0–7 exist, whatever the encoding's higher bits say.
    low_registers: bool,
}

/// Reads bytes in order.
struct Cursor<'b>(&'b [u8]);

impl Cursor<'_> {
    #[inline]
    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    #[inline]
    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }
}

impl<'b> Fields<'b> {
    fn split(shape: &Shape, bytes: &'b [u8], size: CodeSize) -> Option<Fields<'b>> {
        let mut at = Cursor(bytes);
        let long = size == CodeSize::Code64;
        let mut fields = Fields {
            lock: false,
            rex: 0,
            payload: [0; 3],
            opcode: 0,
            modrm: 0,
            numbers: [0; 3],
            rm_is_memory: shape.has(MOFFS),
            tail: &[],
            low_registers: !long,
        };
        let address_prefix = fields.prefixes(&mut at, long)?;
        match shape.encoding {
            Encoding::Legacy => at.skip(shape.escape.len())?,
            Encoding::Vex | Encoding::Xop => fields.vex_payload(&mut at)?,
            Encoding::Evex => {
                at.skip(1)?;
                fields.payload = [at.next()?, at.next()?, at.next()?];
            }
        }
        fields.opcode = at.next()?;
        if shape.has(MODRM) {
            fields.modrm = at.next()?;
            fields.rm_is_memory = fields.modrm < 0xC0;
            if fields.rm_is_memory {
                let address16 = match size {
                    CodeSize::Code16 => !address_prefix,
                    CodeSize::Code32 => address_prefix,
                    _ => false,
                };
                skip_address(&mut at, fields.modrm, address16)?;
            }
        }
        fields.number_slots(shape);
        fields.tail = if shape.has(MOFFS) { &[] } else { at.0 };
        Some(fields)
    }

    /// Takes the legacy prefixes and REX; answers whether 67h was among them.
    #[inline]
    fn prefixes(&mut self, at: &mut Cursor, long: bool) -> Option<bool> {
        let mut address = false;
        loop {
            match *at.0.first()? {
                0x67 => address = true,
                0xF0 => self.lock = true,
                0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 | 0x66 | 0xF2 | 0xF3 => {}
                rex @ 0x40..=0x4F if long => {
                    self.rex = rex;
                    at.skip(1)?;
                    continue;
                }
                _ => return Some(address),
            }
            // A REX not next to the opcode is ignored.
            self.rex = 0;
            at.skip(1)?;
        }
    }

    fn vex_payload(&mut self, at: &mut Cursor) -> Option<()> {
        let first = at.next()?;
        let byte = at.next()?;
        self.payload = if first == 0xC5 {
            [byte & 0x80 | 0x61, byte & 0x7F, 0]
        } else {
            [byte, at.next()?, 0]
        };
        Some(())
    }

    /// Gathers the register numbers from wherever the encoding keeps them.
    #[inline]
    fn number_slots(&mut self, shape: &Shape) {
        let [p0, p1, p2] = self.payload;
        let (r, x, b, v) = match shape.encoding {
            Encoding::Legacy => (self.rex << 1 & 8, 0, self.rex << 3 & 8, 0),
            Encoding::Vex | Encoding::Xop => {
                let n = !p0;
                (n >> 4 & 8, 0, n >> 2 & 8, !p1 >> 3 & 15)
            }
            Encoding::Evex => {
                let n = !p0;
                let r = n >> 4 & 8 | n & 0x10;
                (
                    r,
                    n >> 2 & 0x10,
                    n >> 2 & 8,
                    !p1 >> 3 & 15 | !p2 << 1 & 0x10,
                )
            }
        };
        let rm = if shape.has(OPCODE_REG) {
            self.opcode
        } else {
            self.modrm
        };
        self.numbers = [r | self.modrm >> 3 & 7, x | b | rm & 7, v];
        if self.low_registers {
            self.numbers = self.numbers.map(|n| n & 7);
        }
        // A field that extends the opcode, and a general register, have fewer bits.
        for (number, slot) in self.numbers.iter_mut().zip(&shape.slots) {
            match slot.kind {
                SlotKind::Empty => *number &= 7,
                SlotKind::General => *number &= 15,
                SlotKind::Other => {}
            }
        }
    }
}

/// Passes over SIB and displacement.
#[inline]
fn skip_address(at: &mut Cursor, modrm: u8, address16: bool) -> Option<()> {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    if address16 {
        return match mode {
            0 if rm == 6 => at.skip(2),
            0 => Some(()),
            1 => at.skip(1),
            _ => at.skip(2),
        };
    }
    let base = if rm == 4 { at.next()? & 7 } else { rm };
    match mode {
        0 if base == 5 => at.skip(4),
        0 => Some(()),
        1 => at.skip(1),
        _ => at.skip(4),
    }
}

// --- guest registers to host registers ---

/// What an operand costs beyond its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detour {
    None,
    /// A guest register kept in memory, worked on in a scratch.
    Home {
        guest: u8,
    },
    /// AH, CH, DH or BH of the host register `parent`, worked on in a scratch.
    High {
        parent: Gpr,
    },
}

/// An instruction's operands, in host terms.
struct Bound {
    /// Numbers for the slots.
    numbers: [u8; 3],
    /// Memory for r/m.
    mem: Option<Mem>,
    detours: [Detour; 3],
    /// An address to be computed into its own base first, to free a register.
    fold: Option<(Gpr, Mem)>,
    /// REX is needed even if it has no bits: SPL, BPL, SIL, DIL.
    rex: bool,
}

/// The scratch registers not yet in use: bit n is Rn.
struct Scratch(u16);

impl Scratch {
    const ALL: u16 = 1 << R9.0 | 1 << R10.0 | 1 << R11.0;

    fn beside(mem: Option<Mem>, keep: u16) -> Scratch {
        let mut busy = keep;
        if let Some(mem) = mem {
            busy |= mem.base.map_or(0, |r| 1 << r.0);
            busy |= mem.index.map_or(0, |(r, _)| 1 << r.0);
        }
        Scratch(Scratch::ALL & !busy)
    }

    fn take(&mut self) -> Result<Gpr, Unencodable> {
        if self.0 == 0 {
            return Err(Unencodable::NoScratch);
        }
        let reg = Gpr(self.0.trailing_zeros() as u8);
        self.0 &= self.0 - 1;
        Ok(reg)
    }
}

impl Bound {
    fn bind(shape: &Shape, fields: &Fields, plan: &Plan, long: bool) -> Result<Bound, Unencodable> {
        let mut bound = Bound {
            numbers: fields.numbers,
            mem: None,
            detours: [Detour::None; 3],
            fold: None,
            rex: false,
        };
        if fields.rm_is_memory {
            bound.mem = Some(plan.mem.ok_or(Unencodable::PlanIncomplete)?);
        }
        let mut high = 0;
        for slot in [REG, RM, VVVV] {
            let general = shape.slots[slot].kind == SlotKind::General;
            if general && !(slot == RM && fields.rm_is_memory) {
                high |= bound.rename(shape, fields, plan, slot, long) << slot;
            }
        }
        if shape.class == Class::BitString && fields.rm_is_memory {
            bound.numbers[REG] = plan.bit_offset.ok_or(Unencodable::PlanIncomplete)?.0;
            bound.detours[REG] = Detour::None;
        }
        if high != 0 || bound.detours != [Detour::None; 3] {
            bound.assign_scratch(shape, plan, fields, high)?;
        }
        Ok(bound)
    }

    /// Gives a general register its host number or its detour; 1 if it is a high byte.
    #[inline]
    fn rename(
        &mut self,
        shape: &Shape,
        fields: &Fields,
        plan: &Plan,
        slot: usize,
        long: bool,
    ) -> u8 {
        let guest = self.numbers[slot];
        let byte = shape.slots[slot].width == W8;
        if byte && fields.rex == 0 && (4..8).contains(&guest) {
            return 1;
        }
        if guest == RSP.0 {
            self.numbers[slot] = R8.0;
        } else if long && (8..12).contains(&guest) {
            let elsewhere = [REG, VVVV].iter().any(|&other| {
                shape.slots[other].kind == SlotKind::General && fields.numbers[other] == guest
            });
            if slot == RM && shape.has(RM_AS_MEMORY) && !elsewhere {
                self.mem = Some(plan.home(guest));
            } else {
                self.detours[slot] = Detour::Home { guest };
            }
        } else if byte && (4..8).contains(&guest) {
            self.rex = true;
        }
        0
    }

    /// Finds a register for each detour; `high` has a bit for each slot with a high byte.
    fn assign_scratch(
        &mut self,
        shape: &Shape,
        plan: &Plan,
        fields: &Fields,
        high: u8,
    ) -> Result<(), Unencodable> {
        let homes = self.detours.iter().filter(|&&d| d != Detour::None).count() as u32;
        let bit_offset = plan.bit_offset.map_or(0, |r| 1 << r.0);
        let keep = plan.keep | bit_offset;
        let mut scratch = Scratch::beside(self.mem, keep);
        if homes > scratch.0.count_ones() {
            self.fold_address(keep);
            scratch = Scratch::beside(self.mem, keep);
        }
        for slot in [REG, RM, VVVV] {
            let detour = self.detours[slot];
            if detour == Detour::None {
                continue;
            }
            // One guest register in two places must be one host register too.
            let twin = (0..slot).find(|&earlier| self.detours[earlier] == detour);
            self.numbers[slot] = match twin {
                Some(earlier) => self.numbers[earlier],
                None => scratch.take()?.0,
            };
        }
        if high != 0 && self.needs_rex(shape, fields) {
            for slot in [REG, RM] {
                if high & 1 << slot != 0 {
                    let parent = Gpr(self.numbers[slot] - 4);
                    self.detours[slot] = Detour::High { parent };
                    self.numbers[slot] = scratch.take()?.0;
                }
            }
        }
        Ok(())
    }

    /// Whether the host encoding has a REX prefix, so that no high byte can be named.
    fn needs_rex(&self, shape: &Shape, fields: &Fields) -> bool {
        let used = |slot: usize| shape.slots[slot].kind == SlotKind::General;
        fields.rex != 0
            || self.mem.is_some_and(|mem| mem.rex_xb() != 0)
            || used(REG) && self.numbers[REG] >= 8
            || self.mem.is_none() && used(RM) && self.numbers[RM] >= 8
    }

    /// Plans an address of two scratch registers to become one.
    fn fold_address(&mut self, keep: u16) {
        let Some(mem) = self.mem else { return };
        let own = |reg: Gpr| (Scratch::ALL & !keep) >> reg.0 & 1 != 0;
        let parts = [mem.base, mem.index.map(|(reg, _)| reg)];
        if let (Some(reg), None) = (parts.into_iter().flatten().find(|&r| own(r)), mem.seg) {
            self.fold = Some((reg, mem));
            self.mem = Some(Mem::base(reg));
        }
    }

    /// Code that must precede the instruction.
    fn before(&self, shape: &Shape, plan: &Plan, out: &mut Asm) {
        if let Some((reg, mem)) = self.fold {
            out.lea(W64, reg, mem);
        }
        for slot in [REG, RM, VVVV] {
            let scratch = Gpr(self.numbers[slot]);
            match self.detours[slot] {
                Detour::None => {}
                Detour::Home { guest } => {
                    let same = |&other: &usize| self.detours[other] == self.detours[slot];
                    let first = !(0..slot).any(|other| same(&other));
                    let mut places = (0..3).filter(same).map(|other| &shape.slots[other]);
                    if first && places.any(|place| place.reads || place.width < W32) {
                        out.mov(W64, scratch, plan.home(guest));
                    }
                }
                Detour::High { parent } => out.rorx(W64, scratch, Rm::Reg(parent), 8),
            }
        }
    }

    /// Code that must follow the instruction.
    fn after(&self, shape: &Shape, plan: &Plan, out: &mut Asm) {
        for slot in [REG, RM, VVVV] {
            if !shape.slots[slot].writes {
                continue;
            }
            let scratch = Gpr(self.numbers[slot]);
            match self.detours[slot] {
                Detour::None => {}
                Detour::Home { guest } => out.mov(W64, plan.home(guest), scratch),
                Detour::High { parent } => {
                    out.rorx(W64, parent, Rm::Reg(parent), 8);
                    out.mov(W8, parent, scratch);
                    out.rorx(W64, parent, Rm::Reg(parent), 56);
                }
            }
        }
    }
}

// --- host encodings ---

/// Immediates and other trailing bytes.
#[inline]
fn tail(shape: &Shape, fields: &Fields, code: &mut Code) {
    let Some((&last, rest)) = fields.tail.split_last() else {
        return;
    };
    rest.iter().for_each(|&byte| code.byte(byte));
    // The top bit of a register number in an immediate is ignored outside 64-bit mode.
    let masked = shape.has(IS4) && fields.low_registers;
    code.byte(if masked { last & 0x7F } else { last });
}

#[inline]
fn modrm(bound: &Bound, disp8: bool, code: &mut Code) {
    let reg = bound.numbers[REG];
    match &bound.mem {
        Some(mem) => mem.modrm(reg, disp8, code),
        None => code.byte(0xC0 | (reg & 7) << 3 | bound.numbers[RM] & 7),
    }
}

fn legacy(shape: &Shape, fields: &Fields, bound: &Bound) -> Code {
    let mut code = Code::default();
    if let Some(mem) = &bound.mem {
        mem.prefixes(&mut code);
    }
    if fields.lock {
        code.byte(0xF0);
    }
    if shape.has(OPERAND16) {
        code.byte(0x66);
    }
    if shape.mandatory != 0 {
        code.byte(shape.mandatory);
    }
    let [reg, rm, _] = bound.numbers;
    let xb = bound.mem.as_ref().map_or(rm >> 3 & 1, Mem::rex_xb);
    let rex = fields.rex & 8 | (reg >> 3 & 1) << 2 | xb;
    if rex != 0 || bound.rex {
        code.byte(0x40 | rex);
    }
    shape.escape.iter().for_each(|&byte| code.byte(byte));
    if shape.has(SHORT_INC_DEC) {
        code.byte(0xFF);
        code.byte(0xC0 | fields.opcode & 8 | rm & 7);
    } else if shape.has(MOFFS) {
        // A0 A1 A2 A3 are the accumulator's 8A 8B 88 89.
        code.byte(0x88 | fields.opcode & 1 | (!fields.opcode & 2));
        if let Some(mem) = &bound.mem {
            mem.modrm(RAX.0, true, &mut code);
        }
    } else if shape.has(OPCODE_REG) {
        code.byte(fields.opcode & !7 | rm & 7);
    } else {
        // 82 is 80's alias, gone from 64-bit mode.
        let alias = shape.has(ALIAS_82);
        code.byte(if alias { 0x80 } else { fields.opcode });
        if shape.has(MODRM) {
            modrm(bound, true, &mut code);
        }
    }
    tail(shape, fields, &mut code);
    code
}

fn vex(shape: &Shape, fields: &Fields, bound: &Bound) -> Code {
    let mut code = Code::default();
    if let Some(mem) = &bound.mem {
        mem.prefixes(&mut code);
    }
    let [reg, rm, v] = bound.numbers;
    let xb = bound.mem.as_ref().map_or(rm >> 3 & 1, Mem::rex_xb);
    let rxb = (reg >> 3 & 1) << 2 | xb;
    let map = fields.payload[0] & 0x1F;
    let w = vex_w(shape, fields.payload[1]);
    let last = (!v & 15) << 3 | fields.payload[1] & 7;
    if shape.encoding == Encoding::Vex && xb == 0 && w == 0 && map == 1 {
        code.byte(0xC5);
        code.byte((!rxb & 4) << 5 | last);
    } else {
        code.byte(if shape.encoding == Encoding::Vex {
            0xC4
        } else {
            0x8F
        });
        code.byte((!rxb & 7) << 5 | map);
        code.byte(w | last);
    }
    code.byte(fields.opcode);
    if shape.has(MODRM) {
        modrm(bound, true, &mut code);
    }
    tail(shape, fields, &mut code);
    code
}

/// W in bit 7.  It chooses the operation, but for general registers outside 64-bit mode, where it is
/// ignored.
#[inline]
fn vex_w(shape: &Shape, payload: u8) -> u8 {
    if shape.has(W_IGNORED) {
        payload & 0x80
    } else {
        (shape.has(W_SET) as u8) << 7
    }
}

fn evex(shape: &Shape, fields: &Fields, bound: &Bound) -> Code {
    let mut code = Code::default();
    if let Some(mem) = &bound.mem {
        mem.prefixes(&mut code);
    }
    let [p0, p1, p2] = fields.payload;
    let [reg, rm, v] = bound.numbers;
    // In a register r/m, X is bit 4 of the number.
    let xb = match &bound.mem {
        Some(mem) => mem.rex_xb(),
        None => rm >> 3 & 2 | rm >> 3 & 1,
    };
    let rxb = (reg >> 3 & 1) << 2 | xb;
    code.byte(0x62);
    code.byte((!rxb & 7) << 5 | !reg & 0x10 | p0 & 0x0F);
    code.byte(vex_w(shape, p1) | (!v & 15) << 3 | p1 & 7);
    code.byte(p2 & 0xF7 | (!v & 0x10) >> 1);
    code.byte(fields.opcode);
    if shape.has(MODRM) {
        modrm(bound, false, &mut code);
    }
    tail(shape, fields, &mut code);
    code
}
