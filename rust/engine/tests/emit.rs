//! Every form of the assembler, with random operands, against iced's decoder.

use engine::translate::emit::*;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Rounds per form: enough to meet each special base, index and displacement many times.
const ROUNDS: usize = 400;
const BASE: u64 = 0x7000_0000_0000;

/// xorshift64*: repeatable operands.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }

    fn gpr(&mut self) -> Gpr {
        Gpr(self.below(16) as u8)
    }

    fn width(&mut self) -> Width {
        Width::ALL[self.below(4) as usize]
    }

    fn width_from(&mut self, least: Width) -> Width {
        self.width().max(least)
    }

    fn imm(&mut self) -> i32 {
        self.next() as i32 >> (self.below(4) * 8)
    }

    fn mem(&mut self) -> Mem {
        let index = self.gpr();
        Mem {
            base: (self.below(8) != 0).then(|| self.gpr()),
            index: (self.below(2) == 0 && index != RSP).then(|| (index, 1 << self.below(4))),
            disp: if self.below(3) == 0 { 0 } else { self.imm() },
            seg: [None, None, Some(Seg::Fs), Some(Seg::Gs)][self.below(4) as usize],
            addr32: self.below(4) == 0,
        }
    }

    fn rm(&mut self) -> Rm {
        if self.below(2) == 0 {
            Rm::Reg(self.gpr())
        } else {
            Rm::Mem(self.mem())
        }
    }
}

#[derive(Debug)]
enum Expect {
    Reg(Width, Gpr),
    Rm(Width, Rm),
    Imm(u64),
    Xmm(Xmm),
}
use Expect::{Imm, Reg};

fn register(w: Width, reg: Gpr) -> Register {
    let first = match w {
        W8 if reg.0 >= 4 => return Register::SPL + (reg.0 as u32 - 4),
        W8 => Register::AL,
        W16 => Register::AX,
        W32 => Register::EAX,
        W64 => Register::RAX,
    };
    first + reg.0 as u32
}

fn same_memory(insn: &Instruction, mem: &Mem) -> bool {
    let address = if mem.addr32 { W32 } else { W64 };
    let name = |reg: Option<Gpr>| reg.map_or(Register::None, |r| register(address, r));
    let disp = if mem.addr32 {
        mem.disp as u32 as u64
    } else {
        mem.disp as i64 as u64
    };
    let seg = match mem.seg {
        None => Register::None,
        Some(Seg::Fs) => Register::FS,
        Some(Seg::Gs) => Register::GS,
    };
    insn.memory_base() == name(mem.base)
        && insn.memory_index() == name(mem.index.map(|(r, _)| r))
        && mem
            .index
            .is_none_or(|(_, scale)| insn.memory_index_scale() == scale as u32)
        && insn.memory_displacement64() == disp
        && insn.segment_prefix() == seg
}

fn same_operand(insn: &Instruction, i: u32, expect: &Expect) -> bool {
    match (insn.op_kind(i), expect) {
        (OpKind::Register, Expect::Reg(w, r) | Expect::Rm(w, Rm::Reg(r))) => {
            insn.op_register(i) == register(*w, *r)
        }
        (OpKind::Register, Expect::Xmm(x)) => insn.op_register(i) == Register::XMM0 + x.0 as u32,
        (OpKind::Memory, Expect::Rm(_, Rm::Mem(mem))) => same_memory(insn, mem),
        (kind, Expect::Imm(imm)) => {
            let width = match kind {
                OpKind::Immediate8to16 => W16,
                OpKind::Immediate8to32 => W32,
                _ => W64,
            };
            insn.try_immediate(i)
                .is_ok_and(|got| cut(width, got as i64) == *imm)
        }
        _ => false,
    }
}

/// Checks that the block holds exactly this instruction.
#[track_caller]
fn check(asm: &mut Asm, mnemonic: Mnemonic, operands: &[Expect]) {
    let code = asm.finish().expect("encodable");
    let mut decoder = Decoder::with_ip(64, code, BASE, DecoderOptions::NONE);
    let insn = decoder.decode();
    let same = insn.mnemonic() == mnemonic
        && insn.len() == code.len()
        && insn.op_count() as usize >= operands.len()
        && (0..)
            .zip(operands)
            .all(|(i, operand)| same_operand(&insn, i, operand));
    assert!(same, "{code:02x?} is {insn}, not {mnemonic:?} {operands:?}");
}

fn each(mut form: impl FnMut(&mut Asm, &mut Random)) {
    let mut asm = Asm::new(256);
    let mut random = Random(0x1999_0210);
    for _ in 0..ROUNDS {
        asm.start(BASE);
        form(&mut asm, &mut random);
    }
}

fn cut(w: Width, imm: i64) -> u64 {
    match w {
        W8 => imm as u8 as u64,
        W16 => imm as u16 as u64,
        W32 => imm as u32 as u64,
        W64 => imm as u64,
    }
}

#[test]
fn moves_between_registers_and_memory() {
    each(|asm, random| {
        let (w, r, rm) = (random.width(), random.gpr(), random.rm());
        asm.mov(w, rm, r);
        check(asm, Mnemonic::Mov, &[Expect::Rm(w, rm), Reg(w, r)]);
        asm.start(BASE);
        asm.mov(w, r, rm);
        check(asm, Mnemonic::Mov, &[Reg(w, r), Expect::Rm(w, rm)]);
    });
}

#[test]
fn immediate_move_takes_its_shortest_form() {
    let mut asm = Asm::new(256);
    for (imm, length) in [
        (0, 5),
        (0xFFFF_FFFF, 5),
        (-1, 7),
        (0x1_0000_0000, 10),
        (i64::MIN, 10),
    ] {
        asm.start(BASE);
        asm.mov(W64, RBX, imm);
        let code = asm.finish().expect("encodable");
        assert_eq!(code.len(), length, "{imm:#x}");
        let insn = Decoder::new(64, code, DecoderOptions::NONE).decode();
        assert_eq!(insn.immediate(1), imm as u64);
        assert_eq!(insn.mnemonic(), Mnemonic::Mov);
    }
}

#[test]
fn immediate_moves_of_each_width() {
    each(|asm, random| {
        let (w, r, mem, imm) = (random.width(), random.gpr(), random.mem(), random.imm());
        asm.mov(w, mem, imm);
        let value = Imm(cut(w, imm as i64));
        check(asm, Mnemonic::Mov, &[Expect::Rm(w, Rm::Mem(mem)), value]);
        let w = w.min(W32);
        asm.start(BASE);
        asm.mov(w, r, imm);
        check(asm, Mnemonic::Mov, &[Reg(w, r), Imm(cut(w, imm as i64))]);
        asm.start(BASE);
        assert_eq!(asm.mov_imm64(r, imm as u64), 2);
        check(asm, Mnemonic::Mov, &[Reg(W64, r), Imm(imm as u64)]);
    });
}

#[test]
fn extensions_of_each_width() {
    each(|asm, random| {
        let (r, rm) = (random.gpr(), random.rm());
        for (from, to) in [(W8, W16), (W8, W32), (W8, W64), (W16, W32), (W16, W64)] {
            asm.start(BASE);
            asm.movzx(to, r, from, rm);
            check(asm, Mnemonic::Movzx, &[Reg(to, r), Expect::Rm(from, rm)]);
            asm.start(BASE);
            asm.movsx(to, r, from, rm);
            check(asm, Mnemonic::Movsx, &[Reg(to, r), Expect::Rm(from, rm)]);
        }
        asm.start(BASE);
        asm.movsx(W64, r, W32, rm);
        check(asm, Mnemonic::Movsxd, &[Reg(W64, r), Expect::Rm(W32, rm)]);
        asm.start(BASE);
        asm.movzx(W64, r, W32, rm);
        check(asm, Mnemonic::Mov, &[Reg(W32, r), Expect::Rm(W32, rm)]);
    });
}

#[test]
fn alu_of_each_operand_pair() {
    use Alu::*;
    each(|asm, random| {
        let pairs = [
            (Add, Mnemonic::Add),
            (Or, Mnemonic::Or),
            (Adc, Mnemonic::Adc),
            (Sbb, Mnemonic::Sbb),
            (And, Mnemonic::And),
            (Sub, Mnemonic::Sub),
            (Xor, Mnemonic::Xor),
            (Cmp, Mnemonic::Cmp),
        ];
        for (op, mnemonic) in pairs {
            let (w, r, rm, imm) = (random.width(), random.gpr(), random.rm(), random.imm());
            asm.start(BASE);
            asm.alu(op, w, rm, r);
            check(asm, mnemonic, &[Expect::Rm(w, rm), Reg(w, r)]);
            asm.start(BASE);
            asm.alu(op, w, r, rm);
            check(asm, mnemonic, &[Reg(w, r), Expect::Rm(w, rm)]);
            asm.start(BASE);
            asm.alu(op, w, rm, imm);
            check(asm, mnemonic, &[Expect::Rm(w, rm), Imm(cut(w, imm as i64))]);
        }
    });
}

#[test]
fn test_and_exchange() {
    each(|asm, random| {
        let (w, r, rm, imm) = (random.width(), random.gpr(), random.rm(), random.imm());
        asm.test(w, rm, r);
        check(asm, Mnemonic::Test, &[Expect::Rm(w, rm), Reg(w, r)]);
        asm.start(BASE);
        asm.test(w, rm, imm);
        check(
            asm,
            Mnemonic::Test,
            &[Expect::Rm(w, rm), Imm(cut(w, imm as i64))],
        );
        asm.start(BASE);
        asm.xchg(w, rm, r);
        check(asm, Mnemonic::Xchg, &[Expect::Rm(w, rm), Reg(w, r)]);
    });
}

#[test]
fn lea_drops_the_segment() {
    each(|asm, random| {
        let (w, r, mem) = (random.width_from(W16), random.gpr(), random.mem());
        asm.lea(w, r, mem);
        let plain = Mem { seg: None, ..mem };
        check(
            asm,
            Mnemonic::Lea,
            &[Reg(w, r), Expect::Rm(w, Rm::Mem(plain))],
        );
    });
}

#[test]
fn shifts_and_one_operand_arithmetic() {
    each(|asm, random| {
        let shifts = [
            (Shift::Rol, Mnemonic::Rol),
            (Shift::Ror, Mnemonic::Ror),
            (Shift::Rcl, Mnemonic::Rcl),
            (Shift::Rcr, Mnemonic::Rcr),
            (Shift::Shl, Mnemonic::Shl),
            (Shift::Shr, Mnemonic::Shr),
            (Shift::Sar, Mnemonic::Sar),
        ];
        for (op, mnemonic) in shifts {
            let (w, rm, count) = (random.width(), random.rm(), random.below(64) as u8);
            asm.start(BASE);
            asm.shift(op, w, rm, count);
            check(asm, mnemonic, &[Expect::Rm(w, rm), Imm(count as u64)]);
            asm.start(BASE);
            asm.shift_cl(op, w, rm);
            check(asm, mnemonic, &[Expect::Rm(w, rm), Reg(W8, RCX)]);
        }
        let unary = [
            (Unary::Inc, Mnemonic::Inc),
            (Unary::Dec, Mnemonic::Dec),
            (Unary::Not, Mnemonic::Not),
            (Unary::Neg, Mnemonic::Neg),
            (Unary::Mul, Mnemonic::Mul),
            (Unary::Imul, Mnemonic::Imul),
            (Unary::Div, Mnemonic::Div),
            (Unary::Idiv, Mnemonic::Idiv),
        ];
        for (op, mnemonic) in unary {
            let (w, rm) = (random.width(), random.rm());
            asm.start(BASE);
            asm.unary(op, w, rm);
            check(asm, mnemonic, &[Expect::Rm(w, rm)]);
        }
    });
}

#[test]
fn bit_tests() {
    each(|asm, random| {
        let forms = [
            (BitTest::Bt, Mnemonic::Bt),
            (BitTest::Bts, Mnemonic::Bts),
            (BitTest::Btr, Mnemonic::Btr),
            (BitTest::Btc, Mnemonic::Btc),
        ];
        for (op, mnemonic) in forms {
            let (w, r, rm) = (random.width_from(W16), random.gpr(), random.rm());
            let bit = random.below(64) as u8;
            asm.start(BASE);
            asm.bit_test(op, w, rm, bit);
            check(asm, mnemonic, &[Expect::Rm(w, rm), Imm(bit as u64)]);
            asm.start(BASE);
            asm.bit_test_reg(op, w, rm, r);
            check(asm, mnemonic, &[Expect::Rm(w, rm), Reg(w, r)]);
        }
    });
}

#[test]
fn flagless_bmi2() {
    each(|asm, random| {
        let w = random.width_from(W32);
        let (r, v, rm, count) = (
            random.gpr(),
            random.gpr(),
            random.rm(),
            random.below(64) as u8,
        );
        for (op, mnemonic) in [
            (Bmi2::Shlx, Mnemonic::Shlx),
            (Bmi2::Shrx, Mnemonic::Shrx),
            (Bmi2::Sarx, Mnemonic::Sarx),
        ] {
            asm.start(BASE);
            asm.bmi2(op, w, r, rm, v);
            check(asm, mnemonic, &[Reg(w, r), Expect::Rm(w, rm), Reg(w, v)]);
        }
        for (op, mnemonic) in [(Bmi2::Pext, Mnemonic::Pext), (Bmi2::Pdep, Mnemonic::Pdep)] {
            asm.start(BASE);
            asm.bmi2(op, w, r, rm, v);
            check(asm, mnemonic, &[Reg(w, r), Reg(w, v), Expect::Rm(w, rm)]);
        }
        asm.start(BASE);
        asm.rorx(w, r, rm, count);
        check(
            asm,
            Mnemonic::Rorx,
            &[Reg(w, r), Expect::Rm(w, rm), Imm(count as u64)],
        );
    });
}

#[test]
fn conditions_follow_the_opcode_field() {
    let names = [
        (Mnemonic::Jo, Mnemonic::Seto, Mnemonic::Cmovo),
        (Mnemonic::Jno, Mnemonic::Setno, Mnemonic::Cmovno),
        (Mnemonic::Jb, Mnemonic::Setb, Mnemonic::Cmovb),
        (Mnemonic::Jae, Mnemonic::Setae, Mnemonic::Cmovae),
        (Mnemonic::Je, Mnemonic::Sete, Mnemonic::Cmove),
        (Mnemonic::Jne, Mnemonic::Setne, Mnemonic::Cmovne),
        (Mnemonic::Jbe, Mnemonic::Setbe, Mnemonic::Cmovbe),
        (Mnemonic::Ja, Mnemonic::Seta, Mnemonic::Cmova),
        (Mnemonic::Js, Mnemonic::Sets, Mnemonic::Cmovs),
        (Mnemonic::Jns, Mnemonic::Setns, Mnemonic::Cmovns),
        (Mnemonic::Jp, Mnemonic::Setp, Mnemonic::Cmovp),
        (Mnemonic::Jnp, Mnemonic::Setnp, Mnemonic::Cmovnp),
        (Mnemonic::Jl, Mnemonic::Setl, Mnemonic::Cmovl),
        (Mnemonic::Jge, Mnemonic::Setge, Mnemonic::Cmovge),
        (Mnemonic::Jle, Mnemonic::Setle, Mnemonic::Cmovle),
        (Mnemonic::Jg, Mnemonic::Setg, Mnemonic::Cmovg),
    ];
    each(|asm, random| {
        for (cond, (jcc, setcc, cmov)) in Cond::ALL.into_iter().zip(names) {
            let (w, r, rm) = (random.width_from(W16), random.gpr(), random.rm());
            asm.start(BASE);
            let here = asm.here();
            asm.jcc(cond, here);
            check(asm, jcc, &[]);
            asm.start(BASE);
            asm.setcc(cond, rm);
            check(asm, setcc, &[Expect::Rm(W8, rm)]);
            asm.start(BASE);
            asm.cmov(cond, w, r, rm);
            check(asm, cmov, &[Reg(w, r), Expect::Rm(w, rm)]);
        }
    });
}

#[test]
fn indirect_transfers_and_stack() {
    each(|asm, random| {
        let (r, rm, mem) = (random.gpr(), random.rm(), random.mem());
        asm.jmp_indirect(rm);
        check(asm, Mnemonic::Jmp, &[Expect::Rm(W64, rm)]);
        asm.start(BASE);
        asm.call_indirect(rm);
        check(asm, Mnemonic::Call, &[Expect::Rm(W64, rm)]);
        asm.start(BASE);
        asm.push(r);
        check(asm, Mnemonic::Push, &[Reg(W64, r)]);
        asm.start(BASE);
        asm.pop(r);
        check(asm, Mnemonic::Pop, &[Reg(W64, r)]);
        asm.start(BASE);
        asm.push_mem(mem);
        check(asm, Mnemonic::Push, &[Expect::Rm(W64, Rm::Mem(mem))]);
        asm.start(BASE);
        asm.pop_mem(mem);
        check(asm, Mnemonic::Pop, &[Expect::Rm(W64, Rm::Mem(mem))]);
    });
}

#[test]
fn simd_and_state_on_memory() {
    each(|asm, random| {
        let (x, mem) = (Xmm(random.below(16) as u8), random.mem());
        let place = || Expect::Rm(W64, Rm::Mem(mem));
        asm.movups_load(x, mem);
        check(asm, Mnemonic::Movups, &[Expect::Xmm(x), place()]);
        asm.start(BASE);
        asm.movups_store(mem, x);
        check(asm, Mnemonic::Movups, &[place(), Expect::Xmm(x)]);
        asm.start(BASE);
        asm.movaps_load(x, mem);
        check(asm, Mnemonic::Movaps, &[Expect::Xmm(x), place()]);
        asm.start(BASE);
        asm.movaps_store(mem, x);
        check(asm, Mnemonic::Movaps, &[place(), Expect::Xmm(x)]);
        for (op, wide, mnemonic) in [
            (StateOp::Fxsave, false, Mnemonic::Fxsave),
            (StateOp::Fxsave, true, Mnemonic::Fxsave64),
            (StateOp::Fxrstor, true, Mnemonic::Fxrstor64),
            (StateOp::Ldmxcsr, false, Mnemonic::Ldmxcsr),
            (StateOp::Stmxcsr, false, Mnemonic::Stmxcsr),
            (StateOp::Xsave, true, Mnemonic::Xsave64),
            (StateOp::Xsaveopt, true, Mnemonic::Xsaveopt64),
            (StateOp::Xrstor, true, Mnemonic::Xrstor64),
            (StateOp::Xrstor, false, Mnemonic::Xrstor),
        ] {
            asm.start(BASE);
            asm.state(op, wide, mem);
            check(asm, mnemonic, &[place()]);
        }
        for (op, mnemonic) in [
            (SegBase::RdFs, Mnemonic::Rdfsbase),
            (SegBase::RdGs, Mnemonic::Rdgsbase),
            (SegBase::WrFs, Mnemonic::Wrfsbase),
            (SegBase::WrGs, Mnemonic::Wrgsbase),
        ] {
            let r = random.gpr();
            asm.start(BASE);
            asm.seg_base(op, r);
            check(asm, mnemonic, &[Reg(W64, r)]);
        }
    });
}

#[test]
fn instructions_without_operands() {
    type Form = fn(&mut Asm);
    let forms: [(Form, Mnemonic); 8] = [
        (Asm::ret, Mnemonic::Ret),
        (Asm::pushfq, Mnemonic::Pushfq),
        (Asm::popfq, Mnemonic::Popfq),
        (Asm::lahf, Mnemonic::Lahf),
        (Asm::sahf, Mnemonic::Sahf),
        (Asm::fninit, Mnemonic::Fninit),
        (Asm::rdtsc, Mnemonic::Rdtsc),
        (Asm::int3, Mnemonic::Int3),
    ];
    let mut asm = Asm::new(256);
    for (form, mnemonic) in forms {
        asm.start(BASE);
        form(&mut asm);
        check(&mut asm, mnemonic, &[]);
    }
}

#[test]
fn nops_have_the_asked_length() {
    let mut asm = Asm::new(256);
    for count in 0..40 {
        asm.start(BASE);
        asm.nop(count);
        let code = asm.finish().expect("fits");
        assert_eq!(code.len(), count);
        for insn in &mut Decoder::new(64, code, DecoderOptions::NONE) {
            assert_eq!(insn.mnemonic(), Mnemonic::Nop);
        }
    }
}

/// Near-branch target of the first instruction.
fn target(code: &[u8]) -> u64 {
    let insn = Decoder::with_ip(64, code, BASE, DecoderOptions::NONE).decode();
    insn.near_branch_target()
}

#[test]
fn jumps_reach_labels_before_and_after() {
    let forms: [fn(&mut Asm, Label); 6] = [
        Asm::jmp,
        Asm::jmp_short,
        Asm::call,
        Asm::jrcxz,
        |asm, label| asm.jcc(Cond::G, label),
        |asm, label| asm.jcc_short(Cond::G, label),
    ];
    let mut asm = Asm::new(256);
    for form in forms {
        asm.start(BASE);
        let after = asm.label();
        form(&mut asm, after);
        asm.nop(100);
        asm.bind(after);
        let place = asm.offset_of(after).expect("bound") as u64;
        assert_eq!(target(asm.finish().expect("in reach")), BASE + place);
        asm.start(BASE);
        let before = asm.here();
        form(&mut asm, before);
        assert_eq!(target(asm.finish().expect("in reach")), BASE);
    }
}

#[test]
fn transfers_reach_addresses_outside_the_block() {
    let forms: [fn(&mut Asm, u64) -> usize; 5] = [
        Asm::jmp_to,
        Asm::call_to,
        Asm::jmp_patchable,
        |asm, address| asm.jcc_to(Cond::S, address),
        |asm, address| asm.jcc_patchable(Cond::S, address),
    ];
    let mut asm = Asm::new(256);
    for form in forms {
        for address in [BASE + 0x7FFF_0000, BASE - 0x7FFF_0000] {
            asm.start(BASE);
            let field = form(&mut asm, address);
            let code = asm.finish().expect("in reach");
            let rel = i32::from_le_bytes(code[field..field + 4].try_into().expect("4 bytes"));
            let next = BASE + field as u64 + 4;
            assert_eq!(next.wrapping_add_signed(rel as i64), address);
        }
        asm.start(BASE);
        form(&mut asm, BASE + 0x8000_0100);
        assert_eq!(asm.finish(), Err(AsmError::OutOfReach));
    }
}

#[test]
fn patchable_displacements_are_aligned() {
    let mut asm = Asm::new(256);
    for lead in 0..8 {
        asm.start(BASE);
        asm.nop(lead);
        assert_eq!(asm.jmp_patchable(BASE) % 4, 0);
        assert_eq!(asm.jcc_patchable(Cond::E, BASE) % 4, 0);
    }
}

#[test]
fn errors_are_reported_by_finish() {
    let mut asm = Asm::new(64);
    asm.start(BASE);
    let label = asm.label();
    asm.jmp(label);
    assert_eq!(asm.finish(), Err(AsmError::Unbound));

    asm.start(BASE);
    let label = asm.here();
    asm.nop(0x40);
    asm.nop(0x40);
    asm.jmp_short(label);
    assert_eq!(asm.finish(), Err(AsmError::Full));

    let mut asm = Asm::new(512);
    asm.start(BASE);
    let label = asm.here();
    asm.nop(200);
    asm.jmp_short(label);
    assert_eq!(asm.finish(), Err(AsmError::OutOfReach));

    asm.start(BASE);
    asm.alu(Alu::Add, W64, RAX, 0x1_0000_0000_i64);
    assert_eq!(asm.finish(), Err(AsmError::Unencodable));

    asm.start(BASE);
    asm.nop(1);
    assert_eq!(asm.finish(), Ok(&[0x90][..]));
}
