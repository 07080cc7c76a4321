//! The translator's assembler: 64-bit host instructions into a block-sized staging buffer
//! (Intel SDM vol. 2, chapter 2 "Instruction Format" and the opcode maps of appendix A).
//!
//! One instruction is built in a 16-byte word and stored at once, so emitting costs a few
//! nanoseconds and never allocates.  A block is emitted with [`Asm::start`] … [`Asm::finish`];
//! its bytes are position dependent (`rel32` to targets outside it), so the address at which it
//! will execute is given first.  Errors (buffer full, target out of reach) are sticky and reported
//! once, by `finish`: the rules stay free of error handling.
//!
//! Only the forms that the translator's own sequences need are here; guest instructions are copied
//! by `reencode`.  AH, CH, DH and BH can't be named.  `mov` never becomes `xor`, as flags are live.
//! Units: widths and positions in bytes, immediates and displacements as the CPU sees them.

/// A host general register, by its number in ModRM plus the REX bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gpr(pub u8);

pub const RAX: Gpr = Gpr(0);
pub const RCX: Gpr = Gpr(1);
pub const RDX: Gpr = Gpr(2);
pub const RBX: Gpr = Gpr(3);
pub const RSP: Gpr = Gpr(4);
pub const RBP: Gpr = Gpr(5);
pub const RSI: Gpr = Gpr(6);
pub const RDI: Gpr = Gpr(7);
pub const R8: Gpr = Gpr(8);
pub const R9: Gpr = Gpr(9);
pub const R10: Gpr = Gpr(10);
pub const R11: Gpr = Gpr(11);
pub const R12: Gpr = Gpr(12);
pub const R13: Gpr = Gpr(13);
pub const R14: Gpr = Gpr(14);
pub const R15: Gpr = Gpr(15);

/// A host SSE register, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Xmm(pub u8);

/// Operand width.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Width {
    W8,
    W16,
    W32,
    W64,
}
pub use Width::{W8, W16, W32, W64};

impl Width {
    pub const ALL: [Width; 4] = [W8, W16, W32, W64];

    #[inline]
    pub const fn bytes(self) -> u32 {
        1 << self as u32
    }

    #[inline]
    pub const fn from_bytes(bytes: usize) -> Option<Width> {
        match bytes {
            1 => Some(W8),
            2 => Some(W16),
            4 => Some(W32),
            8 => Some(W64),
            _ => None,
        }
    }
}

/// A segment whose base counts in 64-bit mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seg {
    Fs,
    Gs,
}

/// A host memory operand `seg:[base + index*scale + disp]`; without base and index, `[disp]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mem {
    pub base: Option<Gpr>,
    /// Register (not RSP) and scale 1, 2, 4 or 8.
    pub index: Option<(Gpr, u8)>,
    pub disp: i32,
    pub seg: Option<Seg>,
    /// The effective address is cut to 32 bits (67h) before the segment base is added.
    pub addr32: bool,
}

impl Mem {
    #[inline]
    pub const fn base(base: Gpr) -> Mem {
        Mem {
            base: Some(base),
            index: None,
            disp: 0,
            seg: None,
            addr32: false,
        }
    }

    #[inline]
    pub const fn absolute(disp: i32) -> Mem {
        Mem {
            base: None,
            index: None,
            disp,
            seg: None,
            addr32: false,
        }
    }

    #[inline]
    pub const fn index(self, index: Gpr, scale: u8) -> Mem {
        Mem {
            index: Some((index, scale)),
            ..self
        }
    }

    #[inline]
    pub const fn disp(self, disp: i32) -> Mem {
        Mem { disp, ..self }
    }

    #[inline]
    pub const fn seg(self, seg: Seg) -> Mem {
        Mem {
            seg: Some(seg),
            ..self
        }
    }

    #[inline]
    pub const fn addr32(self) -> Mem {
        Mem {
            addr32: true,
            ..self
        }
    }

    /// REX.X and REX.B of this operand, in their REX places.
    #[inline]
    pub(crate) fn rex_xb(&self) -> u8 {
        let x = self.index.map_or(0, |(r, _)| r.0 >> 3);
        let b = self.base.map_or(0, |r| r.0 >> 3);
        x << 1 | b
    }

    /// Segment and address-size prefixes.
    #[inline]
    pub(crate) fn prefixes(&self, code: &mut Code) {
        match self.seg {
            None => {}
            Some(Seg::Fs) => code.byte(0x64),
            Some(Seg::Gs) => code.byte(0x65),
        }
        if self.addr32 {
            code.byte(0x67);
        }
    }

    /// ModRM, SIB and displacement.  `disp8` says whether a one-byte displacement means bytes: it
    /// does not under EVEX, where it is scaled (SDM vol. 2, 2.7.5 "Compressed Displacement").
    #[inline]
    pub(crate) fn modrm(&self, reg: u8, disp8: bool, code: &mut Code) {
        let reg = (reg & 7) << 3;
        let Some(base) = self.base else {
            // No base: SIB with base 101 and mod 00, as plain [disp32] is RIP-relative.
            let sib = match self.index {
                Some((index, scale)) => sib(index, scale) | 0b101,
                None => 0b00_100_101,
            };
            code.byte(reg | 0b100);
            code.byte(sib);
            code.dword(self.disp as u32);
            return;
        };
        // RBP and R13 as base have no displacement-free form.
        let mode = if self.disp == 0 && base.0 & 7 != 5 {
            0x00
        } else if self.disp == 0 || disp8 && self.disp as i8 as i32 == self.disp {
            0x40
        } else {
            0x80
        };
        match self.index {
            Some((index, scale)) => {
                code.byte(mode | reg | 0b100);
                code.byte(sib(index, scale) | base.0 & 7);
            }
            // RSP and R12 as base need a SIB: their ModRM number is the escape to it.
            None if base.0 & 7 == 4 => {
                code.byte(mode | reg | 0b100);
                code.byte(0b00_100_100);
            }
            None => code.byte(mode | reg | base.0 & 7),
        }
        match mode {
            0x00 => {}
            0x40 => code.byte(self.disp as u8),
            _ => code.dword(self.disp as u32),
        }
    }
}

/// Scale and index fields of a SIB byte.
#[inline]
fn sib(index: Gpr, scale: u8) -> u8 {
    debug_assert!(index != RSP && scale.is_power_of_two() && scale <= 8);
    (scale.trailing_zeros() as u8 & 3) << 6 | (index.0 & 7) << 3
}

/// What ModRM.r/m can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rm {
    Reg(Gpr),
    Mem(Mem),
}

impl From<Gpr> for Rm {
    #[inline]
    fn from(reg: Gpr) -> Rm {
        Rm::Reg(reg)
    }
}

impl From<Mem> for Rm {
    #[inline]
    fn from(mem: Mem) -> Rm {
        Rm::Mem(mem)
    }
}

/// A source or destination of `mov`, `alu` and `test`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    Reg(Gpr),
    Mem(Mem),
    Imm(i64),
}

impl From<Gpr> for Operand {
    #[inline]
    fn from(reg: Gpr) -> Operand {
        Operand::Reg(reg)
    }
}

impl From<Mem> for Operand {
    #[inline]
    fn from(mem: Mem) -> Operand {
        Operand::Mem(mem)
    }
}

impl From<Rm> for Operand {
    #[inline]
    fn from(rm: Rm) -> Operand {
        match rm {
            Rm::Reg(reg) => Operand::Reg(reg),
            Rm::Mem(mem) => Operand::Mem(mem),
        }
    }
}

impl From<i32> for Operand {
    #[inline]
    fn from(imm: i32) -> Operand {
        Operand::Imm(imm as i64)
    }
}

impl From<i64> for Operand {
    #[inline]
    fn from(imm: i64) -> Operand {
        Operand::Imm(imm)
    }
}

impl From<u64> for Operand {
    #[inline]
    fn from(imm: u64) -> Operand {
        Operand::Imm(imm as i64)
    }
}

/// The eight two-operand ALU operations, by their opcode field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

/// Shift group 2, by its opcode field (6 is an alias of SHL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shift {
    Rol = 0,
    Ror = 1,
    Rcl = 2,
    Rcr = 3,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// One-operand integer operations (groups 3, 4 and 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unary {
    Inc,
    Dec,
    Not,
    Neg,
    Mul,
    Imul,
    Div,
    Idiv,
}

/// Bit tests (group 8), by their opcode field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitTest {
    Bt = 4,
    Bts = 5,
    Btr = 6,
    Btc = 7,
}

/// Flagless two-source BMI2 operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bmi2 {
    Shlx,
    Shrx,
    Sarx,
    Pext,
    Pdep,
}

/// Processor-state instructions on memory (group 15), by their opcode field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateOp {
    Fxsave = 0,
    Fxrstor = 1,
    Ldmxcsr = 2,
    Stmxcsr = 3,
    Xsave = 4,
    Xrstor = 5,
    Xsaveopt = 6,
}

/// FS and GS base accesses (group 15 with F3), by their opcode field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegBase {
    RdFs = 0,
    RdGs = 1,
    WrFs = 2,
    WrGs = 3,
}

/// Conditions, by their opcode field (SDM vol. 1, appendix B).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cond {
    O,
    No,
    B,
    Ae,
    E,
    Ne,
    Be,
    A,
    S,
    Ns,
    P,
    Np,
    L,
    Ge,
    Le,
    G,
}

impl Cond {
    pub const ALL: [Cond; 16] = {
        use Cond::*;
        [O, No, B, Ae, E, Ne, Be, A, S, Ns, P, Np, L, Ge, Le, G]
    };

    #[inline]
    pub const fn negated(self) -> Cond {
        Cond::ALL[self as usize ^ 1]
    }
}

/// A place in the block being emitted; see [`Asm::label`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(u32);

const UNBOUND: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Fixup {
    /// Offset of the displacement field, which the instruction ends with.
    at: u32,
    label: Label,
    rel8: bool,
}

/// Why a block could not be emitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AsmError {
    /// The block outgrew the staging buffer: translate fewer instructions.
    Full,
    /// A `rel32` target is over 2 GiB away, or a short jump over 127 bytes.
    OutOfReach,
    /// A label was used and not bound.
    Unbound,
    /// A rule asked for a form that does not exist.
    Unencodable,
}

/// One instruction under construction.
#[derive(Clone, Copy, Default)]
pub struct Code {
    bits: u128,
    len: u32,
}

impl Code {
    #[inline]
    pub fn byte(&mut self, byte: u8) {
        self.bits |= (byte as u128).wrapping_shl(self.len * 8);
        self.len += 1;
    }

    #[inline]
    pub fn dword(&mut self, dword: u32) {
        self.le(dword as u64, 4);
    }

    /// The low `count` ≤ 8 bytes of `value`, little endian.
    #[inline]
    pub fn le(&mut self, value: u64, count: u32) {
        let kept = value & u64::MAX.wrapping_shr(64 - 8 * count);
        self.bits |= (kept as u128).wrapping_shl(self.len * 8);
        self.len += count;
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Opcode maps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Map {
    OneByte,
    M0F,
}

/// The assembler; see the module's description.
pub struct Asm {
    code: Box<[u8]>,
    len: usize,
    /// Address at which `code[0]` will execute.
    base: u64,
    labels: Vec<u32>,
    fixups: Vec<Fixup>,
    error: Option<AsmError>,
}

/// Longest instruction; also the size of the store that writes one.
const STORE: usize = 16;

impl Asm {
    /// An assembler for blocks of up to `capacity` bytes.
    pub fn new(capacity: usize) -> Asm {
        Asm {
            code: vec![0; capacity + STORE].into_boxed_slice(),
            len: 0,
            base: 0,
            labels: Vec::with_capacity(256),
            fixups: Vec::with_capacity(256),
            error: None,
        }
    }

    /// Begins a block that will execute at `base`.
    pub fn start(&mut self, base: u64) {
        self.len = 0;
        self.base = base;
        self.labels.clear();
        self.fixups.clear();
        self.error = None;
    }

    /// Resolves the labels and yields the block's bytes.
    pub fn finish(&mut self) -> Result<&[u8], AsmError> {
        for i in 0..self.fixups.len() {
            self.resolve(self.fixups[i]);
        }
        match self.error {
            Some(error) => Err(error),
            None => Ok(&self.code[..self.len]),
        }
    }

    fn resolve(&mut self, fixup: Fixup) {
        let target = match self.labels.get(fixup.label.0 as usize) {
            Some(&target) if target != UNBOUND => target,
            _ => return self.fail(AsmError::Unbound),
        };
        let size = if fixup.rel8 { 1 } else { 4 };
        let rel = target as i64 - (fixup.at as i64 + size);
        if fixup.rel8 && rel as i8 as i64 != rel {
            return self.fail(AsmError::OutOfReach);
        }
        let at = fixup.at as usize;
        if let Some(field) = self.code.get_mut(at..at + size as usize) {
            field.copy_from_slice(&rel.to_le_bytes()[..size as usize]);
        }
    }

    #[cold]
    fn fail(&mut self, error: AsmError) {
        self.error.get_or_insert(error);
    }

    pub fn error(&self) -> Option<AsmError> {
        self.error
    }

    /// Offset of the next instruction in the block.
    #[inline]
    pub fn position(&self) -> usize {
        self.len
    }

    /// Address at which the next instruction will execute.
    #[inline]
    pub fn address(&self) -> u64 {
        self.base + self.len as u64
    }

    /// The bytes so far, labels unresolved.
    pub fn bytes(&self) -> &[u8] {
        &self.code[..self.len]
    }

    /// Appends one finished instruction.
    #[inline]
    pub fn put(&mut self, code: Code) {
        let room = self.code.get_mut(self.len..);
        match room.and_then(|room| room.first_chunk_mut::<STORE>()) {
            Some(room) => {
                *room = code.bits.to_le_bytes();
                self.len += code.len();
            }
            None => self.fail(AsmError::Full),
        }
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        match self.code.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.fail(AsmError::Full),
        }
    }

    // --- labels and control transfers ---

    /// A new label, to be bound once.
    pub fn label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() as u32 - 1)
    }

    /// Binds `label` to the next instruction.
    pub fn bind(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0 as usize) {
            *place = self.len as u32;
        }
    }

    /// A new label bound to the next instruction.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// Offset that `label` is bound to.
    pub fn offset_of(&self, label: Label) -> Option<usize> {
        let &place = self.labels.get(label.0 as usize)?;
        (place != UNBOUND).then_some(place as usize)
    }

    fn branch(&mut self, opcode: &[u8], label: Label, rel8: bool) {
        let size = if rel8 { 1 } else { 4 };
        let mut code = Code::default();
        opcode.iter().for_each(|&byte| code.byte(byte));
        code.le(0, size);
        self.put(code);
        let at = self.len as u32 - size;
        self.fixups.push(Fixup { at, label, rel8 });
    }

    #[inline]
    pub fn jmp(&mut self, label: Label) {
        self.branch(&[0xE9], label, false);
    }

    #[inline]
    pub fn jcc(&mut self, cond: Cond, label: Label) {
        self.branch(&[0x0F, 0x80 | cond as u8], label, false);
    }

    #[inline]
    pub fn call(&mut self, label: Label) {
        self.branch(&[0xE8], label, false);
    }

    /// A two-byte jump to a label known to be within 127 bytes.
    #[inline]
    pub fn jmp_short(&mut self, label: Label) {
        self.branch(&[0xEB], label, true);
    }

    #[inline]
    pub fn jcc_short(&mut self, cond: Cond, label: Label) {
        self.branch(&[0x70 | cond as u8], label, true);
    }

    /// Exists with `rel8` only.
    #[inline]
    pub fn jrcxz(&mut self, label: Label) {
        self.branch(&[0xE3], label, true);
    }

    /// `lea dst, [rip + label]`.
    pub fn lea_label(&mut self, dst: Gpr, label: Label) {
        self.branch(&lea_rip(dst), label, false);
    }

    /// `lea dst, [rip + target]`.
    pub fn lea_to(&mut self, dst: Gpr, target: u64) {
        self.transfer(&lea_rip(dst), target);
    }

    /// Appends `opcode rel32` to a host address; the offset of the `rel32` field is the answer.
    fn transfer(&mut self, opcode: &[u8], target: u64) -> usize {
        let mut code = Code::default();
        opcode.iter().for_each(|&byte| code.byte(byte));
        let next = self.address() + opcode.len() as u64 + 4;
        let rel = target.wrapping_sub(next) as i64;
        if rel as i32 as i64 != rel {
            self.fail(AsmError::OutOfReach);
        }
        code.dword(rel as u32);
        self.put(code);
        self.len.saturating_sub(4)
    }

    /// `jmp rel32` to a host address; answers the offset of its displacement field.
    pub fn jmp_to(&mut self, target: u64) -> usize {
        self.transfer(&[0xE9], target)
    }

    /// `jcc rel32` to a host address; answers the offset of its displacement field.
    pub fn jcc_to(&mut self, cond: Cond, target: u64) -> usize {
        self.transfer(&[0x0F, 0x80 | cond as u8], target)
    }

    /// `call rel32` to a host address; answers the offset of its displacement field.
    pub fn call_to(&mut self, target: u64) -> usize {
        self.transfer(&[0xE8], target)
    }

    /// As [`Asm::jmp_to`], with the displacement aligned to 4 so that one store can retarget it.
    pub fn jmp_patchable(&mut self, target: u64) -> usize {
        self.pad_field(1);
        self.jmp_to(target)
    }

    /// As [`Asm::jcc_to`], with the displacement aligned to 4 so that one store can retarget it.
    pub fn jcc_patchable(&mut self, cond: Cond, target: u64) -> usize {
        self.pad_field(2);
        self.jcc_to(cond, target)
    }

    /// Makes the jump whose displacement field is at offset `field` go to what follows.
    pub fn retarget_here(&mut self, field: usize) {
        let rel = self.len as i32 - (field as i32 + 4);
        if let Some(field) = self.code.get_mut(field..field + 4) {
            field.copy_from_slice(&rel.to_le_bytes());
        }
    }

    /// Pads so that what follows `opcode_len` more bytes lies at a multiple of 4.
    fn pad_field(&mut self, opcode_len: u64) {
        let misaligned = (self.address() + opcode_len) % 4;
        self.nop((4 - misaligned as usize) % 4);
    }

    pub fn jmp_indirect(&mut self, target: impl Into<Rm>) {
        self.rm32(Map::OneByte, 0xFF, 4, target.into());
    }

    pub fn call_indirect(&mut self, target: impl Into<Rm>) {
        self.rm32(Map::OneByte, 0xFF, 2, target.into());
    }

    pub fn ret(&mut self) {
        self.raw(&[0xC3]);
    }

    // --- the encoder ---

    /// Legacy-encoded instruction with ModRM; `imm` is a value and its size in bytes.
    #[inline]
    #[allow(clippy::too_many_arguments)] // an instruction format has this many fields
    fn legacy(&mut self, prefix: u8, rex: u8, map: Map, op: u8, reg: u8, rm: Rm, imm: (i64, u32)) {
        let mut code = Code::default();
        let rex = rex | (reg >> 3) << 2;
        if let Rm::Mem(mem) = &rm {
            mem.prefixes(&mut code);
        }
        if prefix != 0 {
            code.byte(prefix);
        }
        let rex = match &rm {
            Rm::Reg(r) => rex | r.0 >> 3,
            Rm::Mem(mem) => rex | mem.rex_xb(),
        };
        if rex != 0 {
            code.byte(0x40 | rex);
        }
        if map == Map::M0F {
            code.byte(0x0F);
        }
        code.byte(op);
        match &rm {
            Rm::Reg(r) => code.byte(0xC0 | (reg & 7) << 3 | r.0 & 7),
            Rm::Mem(mem) => mem.modrm(reg, true, &mut code),
        }
        if imm.1 != 0 {
            code.le(imm.0 as u64, imm.1);
        }
        self.put(code);
    }

    /// Instruction whose width is chosen by opcode bit 0, 66h and REX.W; `byte_reg` when `reg` is an
    /// operand of that width rather than an opcode field.
    #[inline]
    #[allow(clippy::too_many_arguments)] // an instruction format has this many fields
    fn sized(
        &mut self,
        w: Width,
        map: Map,
        op: u8,
        reg: u8,
        is_reg: bool,
        rm: Rm,
        imm: (i64, u32),
    ) {
        let prefix = if w == W16 { 0x66 } else { 0 };
        let rm_is_byte = matches!(rm, Rm::Reg(r) if needs_rex(w, r.0));
        let rex = if w == W64 {
            0x48
        } else if rm_is_byte || is_reg && needs_rex(w, reg) {
            0x40
        } else {
            0
        };
        let op = if w == W8 { op } else { op | 1 };
        self.legacy(prefix, rex, map, op, reg, rm, imm);
    }

    /// Instruction of the default width (32 bits, or 64 for stack and branch forms).
    #[inline]
    fn rm32(&mut self, map: Map, op: u8, reg: u8, rm: Rm) {
        self.legacy(0, 0, map, op, reg, rm, (0, 0));
    }

    // --- moves ---

    /// `mov dst, src` in the shortest form; flags are kept.
    #[inline]
    pub fn mov(&mut self, w: Width, dst: impl Into<Operand>, src: impl Into<Operand>) {
        match (dst.into(), src.into()) {
            (Operand::Reg(d), Operand::Reg(s)) => self.mov_store(w, Rm::Reg(d), s),
            (Operand::Mem(d), Operand::Reg(s)) => self.mov_store(w, Rm::Mem(d), s),
            (Operand::Reg(d), Operand::Mem(s)) => {
                self.sized(w, Map::OneByte, 0x8A, d.0, true, Rm::Mem(s), (0, 0));
            }
            (Operand::Reg(d), Operand::Imm(imm)) => self.mov_imm(w, d, imm),
            (Operand::Mem(d), Operand::Imm(imm)) => {
                if w == W64 && imm as i32 as i64 != imm {
                    self.fail(AsmError::Unencodable);
                }
                let size = w.bytes().min(4);
                self.sized(w, Map::OneByte, 0xC6, 0, false, Rm::Mem(d), (imm, size));
            }
            _ => self.fail(AsmError::Unencodable),
        }
    }

    #[inline]
    fn mov_store(&mut self, w: Width, dst: Rm, src: Gpr) {
        self.sized(w, Map::OneByte, 0x88, src.0, true, dst, (0, 0));
    }

    fn mov_imm(&mut self, w: Width, dst: Gpr, imm: i64) {
        if w == W64 && imm as u32 as i64 != imm && imm as i32 as i64 == imm {
            return self.sized(w, Map::OneByte, 0xC6, 0, false, Rm::Reg(dst), (imm, 4));
        }
        // A 32-bit move zero-extends, so it serves for small 64-bit values.
        let w = if w == W64 && imm as u32 as i64 == imm {
            W32
        } else {
            w
        };
        let mut code = Code::default();
        if w == W16 {
            code.byte(0x66);
        }
        let rex = dst.0 >> 3 | if w == W64 { 8 } else { 0 };
        if rex != 0 || needs_rex(w, dst.0) {
            code.byte(0x40 | rex);
        }
        let op = if w == W8 { 0xB0 } else { 0xB8 };
        code.byte(op | dst.0 & 7);
        code.le(imm as u64, w.bytes());
        self.put(code);
    }

    /// `mov dst, imm64` always in its 10-byte form; answers the offset of the immediate.
    pub fn mov_imm64(&mut self, dst: Gpr, imm: u64) -> usize {
        let mut code = Code::default();
        code.byte(0x48 | dst.0 >> 3);
        code.byte(0xB8 | dst.0 & 7);
        code.le(imm, 8);
        self.put(code);
        self.len.saturating_sub(8)
    }

    /// `movzx dst, src`; from 32 bits it is the plain 32-bit move.
    #[inline]
    pub fn movzx(&mut self, to: Width, dst: Gpr, from: Width, src: impl Into<Rm>) {
        match from {
            W8 => self.extend(to, 0xB6, dst, from, src.into()),
            W16 => self.extend(to, 0xB7, dst, from, src.into()),
            _ => self.mov(from, dst, Operand::from(src.into())),
        }
    }

    /// `movsx`/`movsxd dst, src`.
    #[inline]
    pub fn movsx(&mut self, to: Width, dst: Gpr, from: Width, src: impl Into<Rm>) {
        let src = src.into();
        match (from, to) {
            (W8, _) => self.extend(to, 0xBE, dst, from, src),
            (W16, _) => self.extend(to, 0xBF, dst, from, src),
            (W32, W64) => {
                self.legacy(0, 0x48, Map::OneByte, 0x63, dst.0, src, (0, 0));
            }
            _ => self.mov(from, dst, Operand::from(src)),
        }
    }

    #[inline]
    fn extend(&mut self, to: Width, op: u8, dst: Gpr, from: Width, src: Rm) {
        let prefix = if to == W16 { 0x66 } else { 0 };
        let byte_src = matches!(src, Rm::Reg(r) if needs_rex(from, r.0));
        let rex = if to == W64 {
            0x48
        } else if byte_src {
            0x40
        } else {
            0
        };
        self.legacy(prefix, rex, Map::M0F, op, dst.0, src, (0, 0));
    }

    #[inline]
    pub fn lea(&mut self, w: Width, dst: Gpr, mem: Mem) {
        let mem = Mem { seg: None, ..mem };
        self.sized(
            w.max(W16),
            Map::OneByte,
            0x8D,
            dst.0,
            true,
            Rm::Mem(mem),
            (0, 0),
        );
    }

    #[inline]
    pub fn xchg(&mut self, w: Width, a: impl Into<Rm>, b: Gpr) {
        self.sized(w, Map::OneByte, 0x86, b.0, true, a.into(), (0, 0));
    }

    #[inline]
    pub fn cmov(&mut self, cond: Cond, w: Width, dst: Gpr, src: impl Into<Rm>) {
        let prefix = if w == W16 { 0x66 } else { 0 };
        let rex = if w == W64 { 0x48 } else { 0 };
        let op = 0x40 | cond as u8;
        self.legacy(prefix, rex, Map::M0F, op, dst.0, src.into(), (0, 0));
    }

    #[inline]
    pub fn setcc(&mut self, cond: Cond, dst: impl Into<Rm>) {
        let dst = dst.into();
        let rex = if matches!(dst, Rm::Reg(r) if needs_rex(W8, r.0)) {
            0x40
        } else {
            0
        };
        self.legacy(0, rex, Map::M0F, 0x90 | cond as u8, 0, dst, (0, 0));
    }

    // --- arithmetic ---

    /// `op dst, src`; an immediate is cut to the width (64 bits: must be a sign-extended dword).
    #[inline]
    pub fn alu(&mut self, op: Alu, w: Width, dst: impl Into<Operand>, src: impl Into<Operand>) {
        let base = (op as u8) << 3;
        match (dst.into(), src.into()) {
            (Operand::Reg(d), Operand::Reg(s)) => {
                self.sized(w, Map::OneByte, base, s.0, true, Rm::Reg(d), (0, 0));
            }
            (Operand::Mem(d), Operand::Reg(s)) => {
                self.sized(w, Map::OneByte, base, s.0, true, Rm::Mem(d), (0, 0));
            }
            (Operand::Reg(d), Operand::Mem(s)) => {
                self.sized(w, Map::OneByte, base | 2, d.0, true, Rm::Mem(s), (0, 0));
            }
            (Operand::Reg(d), Operand::Imm(imm)) => self.alu_imm(op, w, Rm::Reg(d), imm),
            (Operand::Mem(d), Operand::Imm(imm)) => self.alu_imm(op, w, Rm::Mem(d), imm),
            _ => self.fail(AsmError::Unencodable),
        }
    }

    fn alu_imm(&mut self, op: Alu, w: Width, dst: Rm, imm: i64) {
        if w == W64 && imm as i32 as i64 != imm {
            return self.fail(AsmError::Unencodable);
        }
        let imm = sign_extend(w, imm);
        let (opcode, size) = match w {
            W8 => (0x80, 1),
            _ if imm as i8 as i64 == imm => (0x83, 1),
            _ => (0x81, w.bytes().min(4)),
        };
        self.sized(w, Map::OneByte, opcode, op as u8, false, dst, (imm, size));
    }

    #[inline]
    pub fn test(&mut self, w: Width, dst: impl Into<Rm>, src: impl Into<Operand>) {
        let dst = dst.into();
        match src.into() {
            Operand::Reg(s) => self.sized(w, Map::OneByte, 0x84, s.0, true, dst, (0, 0)),
            Operand::Imm(imm) if w != W64 || imm as i32 as i64 == imm => {
                let size = w.bytes().min(4);
                self.sized(w, Map::OneByte, 0xF6, 0, false, dst, (imm, size));
            }
            _ => self.fail(AsmError::Unencodable),
        }
    }

    #[inline]
    pub fn unary(&mut self, op: Unary, w: Width, dst: impl Into<Rm>) {
        let (opcode, field) = match op {
            Unary::Inc => (0xFE, 0),
            Unary::Dec => (0xFE, 1),
            Unary::Not => (0xF6, 2),
            Unary::Neg => (0xF6, 3),
            Unary::Mul => (0xF6, 4),
            Unary::Imul => (0xF6, 5),
            Unary::Div => (0xF6, 6),
            Unary::Idiv => (0xF6, 7),
        };
        self.sized(w, Map::OneByte, opcode, field, false, dst.into(), (0, 0));
    }

    /// `op dst, count` with an immediate count.
    #[inline]
    pub fn shift(&mut self, op: Shift, w: Width, dst: impl Into<Rm>, count: u8) {
        let imm = (count as i64, 1);
        self.sized(w, Map::OneByte, 0xC0, op as u8, false, dst.into(), imm);
    }

    /// `op dst, cl`.
    #[inline]
    pub fn shift_cl(&mut self, op: Shift, w: Width, dst: impl Into<Rm>) {
        self.sized(w, Map::OneByte, 0xD2, op as u8, false, dst.into(), (0, 0));
    }

    /// `bt`/`bts`/`btr`/`btc dst, bit`.
    #[inline]
    pub fn bit_test(&mut self, op: BitTest, w: Width, dst: impl Into<Rm>, bit: u8) {
        let (prefix, rex) = word_prefixes(w);
        let imm = (bit as i64, 1);
        self.legacy(prefix, rex, Map::M0F, 0xBA, op as u8, dst.into(), imm);
    }

    /// As [`Asm::bit_test`] with the bit number in a register (on memory: a bit string).
    #[inline]
    pub fn bit_test_reg(&mut self, op: BitTest, w: Width, dst: impl Into<Rm>, bit: Gpr) {
        let (prefix, rex) = word_prefixes(w);
        let opcode = 0x83 | (op as u8) << 3;
        self.legacy(prefix, rex, Map::M0F, opcode, bit.0, dst.into(), (0, 0));
    }

    // --- BMI2: no flags ---

    /// Shifts: `dst = src >> operand`.  `pext`/`pdep`: `dst = op(operand, mask = src)`.
    #[inline]
    pub fn bmi2(&mut self, op: Bmi2, w: Width, dst: Gpr, src: impl Into<Rm>, operand: Gpr) {
        let (pp, opcode) = match op {
            Bmi2::Shlx => (1, 0xF7),
            Bmi2::Shrx => (3, 0xF7),
            Bmi2::Sarx => (2, 0xF7),
            Bmi2::Pext => (2, 0xF5),
            Bmi2::Pdep => (3, 0xF5),
        };
        self.vex(pp, 2, w, opcode, dst.0, operand.0, src.into(), None);
    }

    #[inline]
    pub fn rorx(&mut self, w: Width, dst: Gpr, src: impl Into<Rm>, count: u8) {
        self.vex(3, 3, w, 0xF0, dst.0, 0, src.into(), Some(count));
    }

    #[allow(clippy::too_many_arguments)] // an instruction format has this many fields
    fn vex(&mut self, pp: u8, map: u8, w: Width, op: u8, reg: u8, v: u8, rm: Rm, imm: Option<u8>) {
        let mut code = Code::default();
        let xb = match &rm {
            Rm::Reg(r) => r.0 >> 3,
            Rm::Mem(mem) => {
                mem.prefixes(&mut code);
                mem.rex_xb()
            }
        };
        let rxb = (reg >> 3) << 2 | xb;
        code.byte(0xC4);
        code.byte((!rxb & 7) << 5 | map);
        code.byte(((w == W64) as u8) << 7 | (!v & 15) << 3 | pp);
        code.byte(op);
        match &rm {
            Rm::Reg(r) => code.byte(0xC0 | (reg & 7) << 3 | r.0 & 7),
            Rm::Mem(mem) => mem.modrm(reg, true, &mut code),
        }
        if let Some(imm) = imm {
            code.byte(imm);
        }
        self.put(code);
    }

    // --- stack and flags ---

    #[inline]
    pub fn push(&mut self, reg: Gpr) {
        self.opcode_reg(0x50, reg);
    }

    #[inline]
    pub fn pop(&mut self, reg: Gpr) {
        self.opcode_reg(0x58, reg);
    }

    pub fn push_mem(&mut self, mem: Mem) {
        self.rm32(Map::OneByte, 0xFF, 6, Rm::Mem(mem));
    }

    pub fn pop_mem(&mut self, mem: Mem) {
        self.rm32(Map::OneByte, 0x8F, 0, Rm::Mem(mem));
    }

    #[inline]
    fn opcode_reg(&mut self, op: u8, reg: Gpr) {
        let mut code = Code::default();
        if reg.0 >= 8 {
            code.byte(0x41);
        }
        code.byte(op | reg.0 & 7);
        self.put(code);
    }

    pub fn pushfq(&mut self) {
        self.raw(&[0x9C]);
    }

    pub fn popfq(&mut self) {
        self.raw(&[0x9D]);
    }

    pub fn lahf(&mut self) {
        self.raw(&[0x9F]);
    }

    pub fn sahf(&mut self) {
        self.raw(&[0x9E]);
    }

    // --- SIMD, floating point and processor state ---

    pub fn movups_load(&mut self, dst: Xmm, src: Mem) {
        self.rm32(Map::M0F, 0x10, dst.0, Rm::Mem(src));
    }

    pub fn movups_store(&mut self, dst: Mem, src: Xmm) {
        self.rm32(Map::M0F, 0x11, src.0, Rm::Mem(dst));
    }

    pub fn movaps_load(&mut self, dst: Xmm, src: Mem) {
        self.rm32(Map::M0F, 0x28, dst.0, Rm::Mem(src));
    }

    pub fn movaps_store(&mut self, dst: Mem, src: Xmm) {
        self.rm32(Map::M0F, 0x29, src.0, Rm::Mem(dst));
    }

    /// A state instruction on memory; `wide` is REX.W: 64-bit FIP and FDP in the image.
    pub fn state(&mut self, op: StateOp, wide: bool, mem: Mem) {
        let rex = if wide { 0x48 } else { 0 };
        self.legacy(0, rex, Map::M0F, 0xAE, op as u8, Rm::Mem(mem), (0, 0));
    }

    pub fn fninit(&mut self) {
        self.raw(&[0xDB, 0xE3]);
    }

    /// `rdfsbase`, `rdgsbase`, `wrfsbase` or `wrgsbase` of a 64-bit register.
    pub fn seg_base(&mut self, op: SegBase, reg: Gpr) {
        self.legacy(0xF3, 0x48, Map::M0F, 0xAE, op as u8, Rm::Reg(reg), (0, 0));
    }

    /// `rep movs` of elements of `w`.
    pub fn rep_movs(&mut self, w: Width) {
        self.repeated(w, 0xA4);
    }

    /// `rep stos` of elements of `w`.
    pub fn rep_stos(&mut self, w: Width) {
        self.repeated(w, 0xAA);
    }

    fn repeated(&mut self, w: Width, opcode: u8) {
        match w {
            W8 => self.raw(&[0xF3, opcode]),
            W16 => self.raw(&[0x66, 0xF3, opcode | 1]),
            W32 => self.raw(&[0xF3, opcode | 1]),
            _ => self.raw(&[0xF3, 0x48, opcode | 1]),
        }
    }

    pub fn lfence(&mut self) {
        self.raw(&[0x0F, 0xAE, 0xE8]);
    }

    pub fn rdtsc(&mut self) {
        self.raw(&[0x0F, 0x31]);
    }

    // --- padding and traps ---

    pub fn int3(&mut self) {
        self.raw(&[0xCC]);
    }

    /// `count` bytes of padding, in the recommended multi-byte forms (SDM vol. 2, NOP).
    pub fn nop(&mut self, mut count: usize) {
        while count > 0 {
            let form = NOPS[count.min(NOPS.len()) - 1];
            self.raw(form);
            count -= form.len();
        }
    }

    /// Pads with NOPs to an address that is a multiple of `alignment`, a power of two.
    pub fn align(&mut self, alignment: u64) {
        self.nop((self.address().wrapping_neg() & (alignment - 1)) as usize);
    }
}

const NOPS: [&[u8]; 9] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0F, 0x1F, 0x00],
    &[0x0F, 0x1F, 0x40, 0x00],
    &[0x0F, 0x1F, 0x44, 0x00, 0x00],
    &[0x66, 0x0F, 0x1F, 0x44, 0x00, 0x00],
    &[0x0F, 0x1F, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// SPL, BPL, SIL and DIL are named by a REX prefix; without it they are AH, CH, DH and BH.
#[inline]
fn needs_rex(w: Width, reg: u8) -> bool {
    w == W8 && (4..8).contains(&reg)
}

/// 66h and REX.W for instructions without a byte form.
#[inline]
fn word_prefixes(w: Width) -> (u8, u8) {
    match w {
        W8 | W16 => (0x66, 0),
        W32 => (0, 0),
        W64 => (0, 0x48),
    }
}

/// `lea dst, [rip + rel32]` up to its displacement.
fn lea_rip(dst: Gpr) -> [u8; 3] {
    [0x48 | dst.0 >> 3 << 2, 0x8D, 0x05 | (dst.0 & 7) << 3]
}

#[inline]
fn sign_extend(w: Width, imm: i64) -> i64 {
    let unused = 64 - 8 * w.bytes();
    imm << unused >> unused
}
