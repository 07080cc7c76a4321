//! Random unprivileged code: short sequences over every instruction the decoder knows.
//!
//! `Templates` holds encodings of each `Code`, found by decoding all opcodes of all maps once.  A
//! sequence takes templates, makes their registers, immediates and prefixes random, and gives the
//! registers that address memory such values that most accesses hit the data pages.

use crate::native::{CODE, Case, DATA, DATA_BYTES, XSAVE_BYTES, components};
use crate::undefined::{self, Undefined};
use engine::state::{flags, gpr};
use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, FlowControl, Instruction,
    InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory,
};
use std::collections::BTreeMap;

/// SplitMix64: enough for tests, and the same everywhere.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// A value as programs have them: edges of the operand sizes more often than chance would.
    pub fn value(&mut self) -> u64 {
        const EDGES: [u64; 14] = [
            0,
            1,
            2,
            0x7F,
            0x80,
            0xFF,
            0x7FFF,
            0x8000,
            0xFFFF,
            0x7FFF_FFFF,
            0x8000_0000,
            0xFFFF_FFFF,
            0x7FFF_FFFF_FFFF_FFFF,
            0x8000_0000_0000_0000,
        ];
        match self.below(8) {
            0 => u64::MAX,
            1 | 2 => *self.pick(&EDGES),
            3 => self.below(64),
            4 => self.next() & 0xFFFF_FFFF,
            _ => self.next(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// Mandatory prefix (0: none), REX.W, escape map 0–3.
    Legacy {
        prefix: u8,
        w: bool,
        map: u8,
    },
    Vex {
        pp: u8,
        w: bool,
        l: u8,
        map: u8,
    },
    Evex {
        pp: u8,
        w: bool,
        l: u8,
        b: bool,
        map: u8,
    },
}

/// One way to encode a `Code`.
#[derive(Clone, Copy, Debug)]
struct Template {
    encoding: Encoding,
    opcode: u8,
    modrm: u8,
}

pub struct Templates {
    bits: u32,
    by_code: Vec<(Code, Vec<Template>)>,
}

/// Encodings kept of one `Code`.
const TEMPLATES_MAX: usize = 32;

const PREFIXES: [u8; 4] = [0, 0x66, 0xF3, 0xF2];

/// Features whose instructions are tried; those that the host lacks raise #UD there and are skipped.
const FEATURES: &[CpuidFeature] = {
    use CpuidFeature::*;
    &[
        INTEL8086,
        INTEL8086_ONLY,
        INTEL186,
        INTEL286,
        INTEL386,
        INTEL486,
        X64,
        MULTIBYTENOP,
        CMOV,
        CX8,
        CMPXCHG16B,
        FPU,
        FPU287,
        FPU387,
        MMX,
        SSE,
        SSE2,
        SSE3,
        SSSE3,
        SSE4_1,
        SSE4_2,
        POPCNT,
        LZCNT,
        BMI1,
        BMI2,
        ADX,
        MOVBE,
        AES,
        PCLMULQDQ,
        SHA,
        GFNI,
        VAES,
        VPCLMULQDQ,
        AVX,
        AVX2,
        F16C,
        FMA,
        AVX512F,
        AVX512VL,
        AVX512BW,
        AVX512DQ,
        AVX512CD,
        AVX512_IFMA,
        AVX512_VBMI,
        AVX512_VBMI2,
        AVX512_VNNI,
        AVX512_BITALG,
        AVX512_VPOPCNTDQ,
        AVX512_BF16,
    ]
};

/// Unprivileged, but about the system, the time or the processor itself, or with results that name
/// addresses of host code (the FPU's instruction pointer).
fn about_the_system(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Cpuid
            | Rdtsc
            | Rdtscp
            | Rdpmc
            | Xgetbv
            | Rdpid
            | Popf
            | Popfd
            | Popfq
            | Pushf
            | Pushfd
            | Pushfq
            | Fnstenv
            | Fstenv
            | Fnsave
            | Fsave
            | Fxsave
            | Fxsave64
            | Fxrstor
            | Fxrstor64
            | Lar
            | Lsl
            | Verr
            | Verw
            | Sgdt
            | Sidt
            | Sldt
            | Smsw
            | Str
            | Lds
            | Les
            | Lfs
            | Lgs
            | Lss
            | In
            | Out
            | Insb
            | Insw
            | Insd
            | Outsb
            | Outsw
            | Outsd
            | Loadall
            | Getsec
            | Ud0
            | Ud1
            | Ud2
    )
}

/// Whether an instruction is one whose effect on the host tells what the guest's must be.
fn comparable(instruction: &Instruction) -> bool {
    let flow = matches!(
        instruction.flow_control(),
        FlowControl::Next | FlowControl::ConditionalBranch
    );
    let segments = (0..instruction.op_count()).any(|i| {
        instruction.op_kind(i) == OpKind::Register
            && instruction.op_register(i).is_segment_register()
    });
    // Some processors, given an EVEX.X that means nothing, convert an RSP of a while ago.
    let evex_rsp = instruction.encoding() == EncodingKind::EVEX
        && (0..instruction.op_count())
            .any(|i| instruction.op_register(i).full_register() == Register::RSP);
    flow && !segments
        && !evex_rsp
        && !instruction.is_invalid()
        && !instruction.is_privileged()
        && !about_the_system(instruction.mnemonic())
        && !matches!(instruction.segment_prefix(), Register::FS | Register::GS)
        && instruction
            .cpuid_features()
            .iter()
            .all(|f| FEATURES.contains(f))
}

/// Branches with an operand-size prefix, LOOPE and LOOPNE with a repeat prefix, SHLD and SHRD of words,
/// whose result for counts above 16 is undefined, and more.
fn differs_by_vendor(instruction: &Instruction, bytes: &[u8]) -> bool {
    let double_shift = matches!(instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
    if double_shift && instruction.op1_register().size() == 2 {
        return true;
    }
    // With a 16-bit destination some read 16 bits and some 32.
    if instruction.code() == Code::Movsxd_r16_rm16 {
        return true;
    }
    // Some switch the x87 unit to MMX before the store faults.
    if instruction.code() == Code::Maskmovq_rDI_mm_mm
        && instruction.segment_prefix() == Register::CS
    {
        return true;
    }
    let prefix =
        |b: &&u8| matches!(b, 0x26 | 0x2E | 0x36 | 0x3E | 0x40..=0x4F | 0x64..=0x67 | 0xF0..=0xF3);
    let mut prefixes = bytes.iter().take_while(prefix);
    instruction.flow_control() != FlowControl::Next && prefixes.any(|b| PREFIXES.contains(b))
}

pub fn decode(bits: u32, bytes: &[u8], at: u64) -> Instruction {
    Decoder::with_ip(bits, bytes, at, DecoderOptions::NONE).decode()
}

impl Templates {
    /// Of the instructions that the host's CPU can vouch for.
    pub fn new(bits: u32) -> Templates {
        Templates::of(bits, |i, bytes| {
            comparable(i) && !differs_by_vendor(i, bytes)
        })
    }

    /// Of all instructions there are.
    pub fn all(bits: u32) -> Templates {
        Templates::of(bits, |i, _| !i.is_invalid())
    }

    fn of(bits: u32, accept: impl Fn(&Instruction, &[u8]) -> bool) -> Templates {
        let mut found: BTreeMap<u32, (Code, Vec<Template>)> = BTreeMap::new();
        let mut rng = Rng(1);
        let mut note = |template: Template| {
            let bytes = template.emit(bits, template.modrm, None);
            let instruction = decode(bits, &bytes, CODE);
            if accept(&instruction, &bytes) {
                let key = instruction.code() as u32;
                let entry = found.entry(key).or_insert((instruction.code(), vec![]));
                if entry.1.len() < TEMPLATES_MAX {
                    entry.1.push(template);
                } else {
                    let i = rng.below(TEMPLATES_MAX as u64) as usize;
                    entry.1[i] = template;
                }
            }
        };
        for opcode in 0..=255 {
            for modrm in 0..=255 {
                for encoding in legacy_encodings(bits) {
                    note(Template {
                        encoding,
                        opcode,
                        modrm,
                    });
                }
                // The other encodings have no opcodes that depend on the r/m field.
                if modrm & 7 == 0 && !(0x40..0xC0).contains(&modrm) {
                    for encoding in vector_encodings() {
                        note(Template {
                            encoding,
                            opcode,
                            modrm,
                        });
                    }
                }
            }
        }
        Templates {
            bits,
            by_code: found.into_values().collect(),
        }
    }

    /// A random instruction, of which nothing is known.
    pub fn any(&self, rng: &mut Rng) -> Vec<u8> {
        let (_, templates) = rng.pick(&self.by_code);
        let template = *rng.pick(templates);
        let modrm = *rng.pick(&template.modrm_choices(&mut rng.clone()));
        let mut bytes = template.emit(self.bits, modrm, Some(rng));
        let length = decode(self.bits, &bytes, 0).len();
        bytes.truncate(length);
        bytes
    }

    /// Keeps only the codes for which `keep` holds.
    pub fn only(mut self, keep: impl Fn(Code) -> bool) -> Templates {
        self.by_code.retain(|(code, _)| keep(*code));
        self
    }

    pub fn codes(&self) -> usize {
        self.by_code.len()
    }
}

fn legacy_encodings(bits: u32) -> impl Iterator<Item = Encoding> {
    let wide: &[bool] = if bits == 64 { &[false, true] } else { &[false] };
    PREFIXES.iter().flat_map(move |&prefix| {
        wide.iter()
            .flat_map(move |&w| (0..4).map(move |map| Encoding::Legacy { prefix, w, map }))
    })
}

fn vector_encodings() -> impl Iterator<Item = Encoding> {
    let fields = (0..4).flat_map(|pp| [false, true].map(|w| (pp, w)));
    fields.flat_map(|(pp, w)| {
        let vex = (1..4).flat_map(move |map| [0, 1].map(|l| Encoding::Vex { pp, w, l, map }));
        let evex = [1, 2, 3, 5, 6].into_iter().flat_map(move |map| {
            (0..3).flat_map(move |l| [false, true].map(|b| Encoding::Evex { pp, w, l, b, map }))
        });
        vex.chain(evex)
    })
}

impl Template {
    /// Bytes of the instruction, followed by bytes for what the decoder may want as displacement and
    /// immediate.  With `rng` all fields that do not select the instruction are random.
    fn emit(&self, bits: u32, modrm: u8, mut rng: Option<&mut Rng>) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        let mut field = |n: u64| rng.as_mut().map_or(0, |rng| rng.below(n) as u8);
        let (rxb, high) = if bits == 64 {
            (field(8), field(4))
        } else {
            (0, 0)
        };
        // Often none, as many instructions demand.
        let v = field(10).min(1) * field(if bits == 64 { 16 } else { 8 });
        let (mask, zero) = (field(2) * field(8), field(3) == 1);
        let rex = u8::from(bits == 64 && field(10) == 1) << 6;
        if let Some(rng) = rng.as_mut() {
            self.emit_optional_prefixes(bits, rng, &mut out);
        }
        match self.encoding {
            Encoding::Legacy { prefix, w, map } => {
                if prefix != 0 {
                    out.push(prefix);
                }
                let rex = rex | u8::from(w) << 3 | rxb;
                if rex != 0 {
                    out.push(0x40 | rex);
                }
                const ESCAPES: [&[u8]; 4] = [&[], &[0x0F], &[0x0F, 0x38], &[0x0F, 0x3A]];
                out.extend(ESCAPES[usize::from(map)]);
            }
            Encoding::Vex { pp, w, l, map } => {
                out.push(0xC4);
                out.push(!rxb << 5 | map);
                out.push(u8::from(w) << 7 | (!v & 0xF) << 3 | l << 2 | pp);
            }
            Encoding::Evex { pp, w, l, b, map } => {
                let p2 = u8::from(zero && mask != 0) << 7 | l << 5 | u8::from(b) << 4;
                out.push(0x62);
                out.push(!rxb << 5 | (!high & 1) << 4 | map);
                out.push(u8::from(w) << 7 | (!v & 0xF) << 3 | 4 | pp);
                out.push(p2 | (!high & 2) << 2 | mask);
            }
        }
        out.extend([self.opcode, modrm]);
        out.extend((0..12).map(|_| rng.as_mut().map_or(0, |rng| rng.next() as u8)));
        out
    }

    fn emit_optional_prefixes(&self, bits: u32, rng: &mut Rng, out: &mut Vec<u8>) {
        if matches!(self.encoding, Encoding::Legacy { .. }) && self.modrm < 0xC0 && rng.percent(8) {
            out.push(0xF0);
        }
        if rng.percent(3) {
            out.push(*rng.pick(&[0x26, 0x2E, 0x36, 0x3E]));
        }
        if bits == 64 && rng.percent(4) {
            out.push(0x67);
        }
    }

    /// ModRM bytes to try, wildest first: other registers or another addressing form of the same
    /// kind; the same but for the r/m field; as it is.
    fn modrm_choices(&self, rng: &mut Rng) -> [u8; 3] {
        let random = rng.below(64) as u8;
        let class = match self.modrm {
            0xC0.. => 0xC0,
            _ => *rng.pick(&[0x00, 0x40, 0x80]),
        };
        let fixed_reg = class | self.modrm & 0x38 | random & 7;
        [class | random, fixed_reg, self.modrm]
    }
}

/// One instruction of a sequence, and which flags are undefined after it.
#[derive(Clone)]
pub struct Step {
    pub instruction: Instruction,
    pub undefined_flags: u64,
    /// Flags it reads, and flags it writes or leaves undefined.
    pub reads_flags: u64,
    pub writes_flags: u64,
}

/// A sequence under construction: its bytes, and the register values it needs at the start.
pub struct Sequence<'a> {
    templates: &'a Templates,
    pub rng: Rng,
    bytes: Vec<u8>,
    pub steps: Vec<Step>,
    /// Values that registers must have at the start for memory accesses to hit.
    assigned: [Option<u64>; 16],
    written: [bool; 16],
    /// Vector registers used as indices, with their element size in bytes.
    indices: [Option<u32>; 32],
    vector_written: [bool; 32],
    undefined: Undefined,
    facts: InstructionInfoFactory,
}

/// Tries for one instruction before the sequence is taken as it is.
const TRIES: usize = 40;

impl<'a> Sequence<'a> {
    pub fn new(templates: &'a Templates, seed: u64) -> Sequence<'a> {
        Sequence {
            templates,
            rng: Rng(seed),
            bytes: vec![],
            steps: vec![],
            assigned: [None; 16],
            written: [false; 16],
            indices: [None; 32],
            vector_written: [false; 32],
            undefined: Undefined::default(),
            facts: InstructionInfoFactory::new(),
        }
    }

    /// A case of up to `length` instructions.
    pub fn generate(mut self, length: usize) -> (Case, Vec<Step>) {
        for _ in 0..length {
            if !(0..TRIES).any(|_| self.append()) {
                break;
            }
            let branch = |s: &Step| s.instruction.flow_control() != FlowControl::Next;
            if self.steps.last().is_some_and(branch) {
                break;
            }
        }
        let case = self.case();
        (case, self.steps)
    }

    /// Appends a random instruction; false if the one thrown does not fit.
    fn append(&mut self) -> bool {
        let bits = self.templates.bits;
        let (code, templates) = self.rng.pick(&self.templates.by_code);
        let template = *self.rng.pick(templates);
        let at = CODE + self.bytes.len() as u64;
        let modrms = template.modrm_choices(&mut self.rng);
        let found = modrms.into_iter().find_map(|modrm| {
            let bytes = template.emit(bits, modrm, Some(&mut self.rng));
            let instruction = decode(bits, &bytes, at);
            (instruction.code() == *code).then_some((bytes, instruction))
        });
        let fits = |bytes: &[u8], i: &Instruction| comparable(i) && !differs_by_vendor(i, bytes);
        let Some((mut bytes, instruction)) = found.filter(|(bytes, i)| fits(bytes, i)) else {
            return false;
        };
        bytes.truncate(instruction.len());
        let Some(instruction) = self.aim(&mut bytes, instruction, at) else {
            return false;
        };
        if self.undefined.matters_to(&instruction) {
            return false;
        }
        self.bytes.extend(&bytes);
        self.note_effects(&instruction);
        true
    }

    /// Makes the instruction's memory accesses and branches land where they should.
    fn aim(&mut self, bytes: &mut [u8], instruction: Instruction, at: u64) -> Option<Instruction> {
        let bits = self.templates.bits;
        let offsets = {
            let mut decoder = Decoder::with_ip(bits, bytes, at, DecoderOptions::NONE);
            let instruction = decoder.decode();
            decoder.get_constant_offsets(&instruction)
        };
        if instruction.flow_control() == FlowControl::ConditionalBranch {
            // Forward, into the INT3s behind the sequence.
            let (i, n) = (offsets.immediate_offset(), offsets.immediate_size());
            let distance = self.rng.below(100).to_le_bytes();
            bytes.get_mut(i..i + n)?.copy_from_slice(&distance[..n]);
            return Some(decode(bits, bytes, at));
        }
        if instruction.mnemonic() == Mnemonic::Enter {
            // A frame that reaches past the data would fault half-way, where processors differ.
            let i = offsets.immediate_offset();
            bytes
                .get_mut(i..i + 2)?
                .copy_from_slice(&[self.rng.below(64) as u8, 0]);
        }
        let target = self.target(&instruction);
        let fixed = matches!(
            instruction.memory_base(),
            Register::None | Register::RIP | Register::EIP
        ) && instruction.memory_index() == Register::None;
        if fixed && offsets.has_displacement() && offsets.displacement_size() >= 4 {
            let relative = instruction.is_ip_rel_memory_operand();
            let from = if relative { instruction.next_ip() } else { 0 };
            let displacement = target.wrapping_sub(from).to_le_bytes();
            let (i, n) = (
                offsets.displacement_offset(),
                offsets.displacement_size().min(8),
            );
            bytes.get_mut(i..i + n)?.copy_from_slice(&displacement[..n]);
        }
        let instruction = decode(bits, bytes, at);
        let used: Vec<UsedMemory> = self.facts.info(&instruction).used_memory().to_vec();
        for memory in used {
            if !self.assign(&memory, target) {
                return None;
            }
        }
        let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        if repeats && instruction.is_string_instruction() {
            let count = self.rng.below(24);
            if !self.demand(gpr::RCX, count, |v| v < 64) {
                return None;
            }
        }
        self.limit_bit_offset(&instruction).then_some(instruction)
    }

    /// BT and its kin with a register as bit offset reach far from their operand: keep it small.
    fn limit_bit_offset(&mut self, instruction: &Instruction) -> bool {
        use Mnemonic::*;
        if !matches!(instruction.mnemonic(), Bt | Bts | Btr | Btc)
            || instruction.op0_kind() != OpKind::Memory
            || instruction.op1_kind() != OpKind::Register
        {
            return true;
        }
        let register = number(instruction.op1_register());
        let offset = self.rng.below(512);
        register.is_some_and(|r| self.demand(r, offset, |v| v < 4096))
    }

    /// An address for the accesses of an instruction: mostly aligned and inside of the data, now and
    /// then across the pages' border or outside.
    fn target(&mut self, instruction: &Instruction) -> u64 {
        let size = instruction.memory_size().size().max(1) as u64;
        let bytes = DATA_BYTES as u64;
        let choice = if differs_at_borders(instruction) {
            40
        } else {
            self.rng.below(40)
        };
        match choice {
            0 => DATA + bytes - self.rng.below(size + 1),
            1 => DATA - self.rng.below(size + 1),
            2..=5 => DATA + bytes / 2 - self.rng.below(size + 1),
            6..=13 => DATA + 512 + self.rng.below(bytes - 1024),
            _ => {
                let align = size.next_power_of_two().max(16);
                DATA + (512 + self.rng.below(bytes - 1024)) / align * align
            }
        }
    }

    /// Chooses base and index so that the access hits `target`; false if they are taken.
    fn assign(&mut self, memory: &UsedMemory, target: u64) -> bool {
        let (base, index) = (memory.base(), memory.index());
        if base.size() == 2 || index.size() == 2 {
            return false; // 16-bit addresses reach no data here
        }
        let mut address = memory.displacement();
        if index.is_vector_register() {
            let i = index.number();
            let bytes = if memory.vsib_size() == 8 { 8 } else { 4 };
            if self.vector_written[i] || self.indices[i].is_some_and(|b| b != bytes) {
                return false;
            }
            self.indices[i] = Some(bytes);
        } else if let Some(i) = number(index) {
            let scale = memory.scale() as u64;
            if base == Register::None {
                let value = target.wrapping_sub(address) / scale;
                return self.demand(i, value, |v| {
                    hits(v.wrapping_mul(scale).wrapping_add(address))
                });
            }
            let small = self.rng.below(64).wrapping_sub(16);
            let small = if self.rng.percent(50) { small } else { 0 };
            if !self.demand(i, small, |v| v.wrapping_add(1024) < 2048) {
                return false;
            }
            let value = self.assigned[i].unwrap_or(0);
            address = address.wrapping_add(value.wrapping_mul(memory.scale() as u64));
        }
        let Some(b) = number(base) else {
            return hits(address);
        };
        let wanted = target.wrapping_sub(address);
        let narrow = base.size() == 4;
        let junk = if narrow && self.templates.bits == 64 {
            self.rng.next() << 32
        } else {
            0
        };
        let wanted = if narrow {
            wanted & 0xFFFF_FFFF | junk
        } else {
            wanted
        };
        self.demand(b, wanted, move |v| {
            let ea = v.wrapping_add(address);
            hits(if narrow { ea & 0xFFFF_FFFF } else { ea })
        })
    }

    /// Gives a register its value, or checks the one it has with `fits`.
    fn demand(&mut self, register: usize, value: u64, fits: impl Fn(u64) -> bool) -> bool {
        if self.written[register] {
            return false;
        }
        match self.assigned[register] {
            Some(v) => fits(v),
            None => {
                self.assigned[register] = Some(value);
                true
            }
        }
    }

    /// Keeps account of what the instruction writes and leaves undefined.
    fn note_effects(&mut self, instruction: &Instruction) {
        let info = self.facts.info(instruction);
        for used in info.used_registers() {
            let writes = !matches!(
                used.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None
            );
            let register = used.register();
            if writes && register.is_gpr() {
                self.written[register.full_register().number()] = true;
            }
            if writes && register.is_vector_register() {
                self.vector_written[register.number()] = true;
            }
        }
        self.undefined.note(instruction);
        self.steps.push(Step {
            instruction: *instruction,
            undefined_flags: self.undefined.0,
            reads_flags: undefined::mask(instruction.rflags_read()),
            writes_flags: undefined::mask(instruction.rflags_modified()),
        });
    }

    fn case(&mut self) -> Case {
        let mut case = Case {
            code: [0xCC; 120],
            code_bytes: self.bytes.len(),
            bits: self.templates.bits,
            gpr: [0; 16],
            rflags: flags::FIXED | self.rng.next() & flags::ARITHMETIC,
            xsave: [0; XSAVE_BYTES],
            data: [0; DATA_BYTES],
        };
        if self.rng.percent(10) {
            case.rflags |= flags::DF;
        }
        case.code[..self.bytes.len()].copy_from_slice(&self.bytes);
        for (i, register) in case.gpr.iter_mut().enumerate() {
            *register = self.assigned[i].unwrap_or_else(|| self.rng.value());
            if self.templates.bits == 32 {
                *register = if i < 8 { *register & 0xFFFF_FFFF } else { 0 };
            }
        }
        if self.assigned[gpr::RSP].is_none() {
            case.gpr[gpr::RSP] = DATA + 0x1800;
        }
        for chunk in case.data.chunks_exact_mut(16) {
            chunk.copy_from_slice(&vector_value(&mut self.rng));
        }
        self.fill_fpu(&mut case.xsave);
        case
    }

    /// FPU, SSE, AVX and AVX-512 state (SDM vol. 1, tables 10-2 and 13-1).
    fn fill_fpu(&mut self, area: &mut [u8; XSAVE_BYTES]) {
        let rng = &mut self.rng;
        let mut control =
            0x037F & !(0xF << 8) | (rng.below(4) << 10) | (*rng.pick(&[0u64, 2, 3, 3]) << 8);
        let mut mxcsr = 0x1F80 | rng.below(4) << 13;
        if rng.percent(5) {
            control &= !rng.below(64);
        }
        if rng.percent(5) {
            mxcsr &= !(rng.below(64) << 7);
        }
        if rng.percent(15) {
            mxcsr |= (rng.below(2) << 15) | (rng.below(2) << 6) | rng.below(64);
        }
        let top = rng.below(8);
        let tags = if rng.percent(60) {
            0xFF
        } else {
            rng.below(256)
        };
        area[0..2].copy_from_slice(&(control as u16).to_le_bytes());
        area[2..4].copy_from_slice(&((top << 11) as u16).to_le_bytes());
        area[4] = tags as u8;
        area[24..28].copy_from_slice(&(mxcsr as u32).to_le_bytes());
        for i in 0..8 {
            area[32 + 16 * i..42 + 16 * i].copy_from_slice(&extended_value(rng));
        }
        for i in 0..16 {
            let value = vector_value(rng);
            area[160 + 16 * i..176 + 16 * i].copy_from_slice(&value);
        }
        let mut present = 3u64;
        for ((offset, length), component) in components().into_iter().zip(crate::native::COMPONENTS)
        {
            if length > 0 && offset + length <= XSAVE_BYTES {
                present |= 1 << component;
                for chunk in area[offset..offset + length].chunks_exact_mut(16) {
                    chunk.copy_from_slice(&vector_value(rng));
                }
            }
        }
        area[512..520].copy_from_slice(&present.to_le_bytes());
        self.fill_indices(area);
    }

    /// Small elements in the vectors that index memory.
    fn fill_indices(&mut self, area: &mut [u8; XSAVE_BYTES]) {
        for register in 0..32 {
            let Some(bytes) = self.indices[register] else {
                continue;
            };
            for element in 0..64 / bytes as usize {
                let value = (self.rng.below(96) as i64 - 32).to_le_bytes();
                for (i, byte) in value[..bytes as usize].iter().enumerate() {
                    if let Some(at) = vector_byte(register, element * bytes as usize + i) {
                        area[at] = *byte;
                    }
                }
            }
        }
    }
}

/// Where the XSAVE area holds a byte of ZMM`register`, if this host has it.
pub fn vector_byte(register: usize, byte: usize) -> Option<usize> {
    let [avx, _, high, more] = components();
    let (component, within) = match (register, byte) {
        (16.., _) => (more, (register - 16) * 64 + byte),
        (_, 32..) => (high, register * 32 + byte - 32),
        (_, 16..) => (avx, register * 16 + byte - 16),
        _ => return Some(160 + register * 16 + byte),
    };
    (within < component.1).then(|| component.0 + within)
}

/// Whether an address is that of the data, or next to it.
fn hits(address: u64) -> bool {
    address.wrapping_sub(DATA - 64) < DATA_BYTES as u64 + 128
}

/// Instructions for which processors differ at the border of a page or when unaligned: in what they
/// check when the mask lets nothing through, in the part of a long operand that faults, or in what
/// they have stored by then.
fn differs_at_borders(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        instruction.mnemonic(),
        Maskmovq | Maskmovdqu | Vmaskmovdqu | Fldenv | Frstor | Enter | Pusha | Pushad | Arpl
    ) || instruction.cpuid_features().contains(&CpuidFeature::SHA)
}

/// The number of the general register that `register` is part of.
fn number(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}

/// 16 bytes for a vector register: integers, floats of both sizes, edges.
fn vector_value(rng: &mut Rng) -> [u8; 16] {
    const SINGLES: [u32; 12] = [
        0,
        0x8000_0000,
        0x3F80_0000,
        0xBF80_0000,
        0x7F80_0000,
        0xFF80_0000,
        0x7FC0_0000,
        0x7F80_0001,
        1,
        0x007F_FFFF,
        0x7F7F_FFFF,
        0x4B00_0001,
    ];
    const DOUBLES: [u64; 10] = [
        0,
        1 << 63,
        0x3FF0_0000_0000_0000,
        0xC000_0000_0000_0000,
        0x7FF0_0000_0000_0000,
        0x7FF8_0000_0000_0000,
        0x7FF0_0000_0000_0001,
        1,
        0x000F_FFFF_FFFF_FFFF,
        0x41DF_FFFF_FFC0_0000,
    ];
    let mut out = [0; 16];
    match rng.below(5) {
        0 => {
            for chunk in out.chunks_exact_mut(4) {
                chunk.copy_from_slice(&rng.pick(&SINGLES).to_le_bytes());
            }
        }
        1 => {
            for chunk in out.chunks_exact_mut(8) {
                chunk.copy_from_slice(&rng.pick(&DOUBLES).to_le_bytes());
            }
        }
        2 => {
            for chunk in out.chunks_exact_mut(4) {
                // Ordinary magnitudes.
                let bits = (0x3F00_0000 + rng.below(0x0400_0000)) | (rng.below(2) << 31);
                chunk.copy_from_slice(&(bits as u32).to_le_bytes());
            }
        }
        _ => {
            for chunk in out.chunks_exact_mut(8) {
                chunk.copy_from_slice(&rng.value().to_le_bytes());
            }
        }
    }
    out
}

/// An x87 register: numbers of ordinary size, and each of the special kinds.
fn extended_value(rng: &mut Rng) -> [u8; 10] {
    let sign = rng.below(2) << 15;
    let integer = 1u64 << 63;
    let (exponent, significand) = match rng.below(12) {
        0 => (0, 0),
        1 => (0x7FFF, integer),
        2 => (0x7FFF, integer | 1 << 62 | rng.next() >> 2),
        3 => (0x7FFF, integer | (rng.next() >> 2).max(1)),
        4 => (0, rng.next() >> 1),
        5 => (rng.below(0x7FFE) + 1, integer | rng.next()),
        6 => (rng.below(0x7FFE) + 1, rng.next() >> 1),
        7 => (0x3FFF + rng.below(64), integer),
        _ => (0x3FFF - 16 + rng.below(64), integer | rng.next()),
    };
    let mut out = [0; 10];
    out[..8].copy_from_slice(&significand.to_le_bytes());
    out[8..].copy_from_slice(&((exponent | sign) as u16).to_le_bytes());
    out
}
