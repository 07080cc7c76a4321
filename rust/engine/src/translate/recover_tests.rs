//! Flags at exits to code that isn't known: whoever reads them finds what the interpreter does.

use crate::interp::test_support::{CODE, DATA, Machine, Random};
use crate::vcpu::Backend;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

const FUNCTIONS: usize = 40;
const ROUNDS: i32 = 6;
/// Bytes between callers and what they jump to: another page.
const FAR: usize = 0x1000;

struct Program {
    a: CodeAssembler,
    random: Random,
    long: bool,
}

impl Program {
    fn register(&mut self) -> AsmRegister32 {
        let all = [eax, ebx, edx, esi, r9d, r10d, r12d, r15d];
        let n = if self.long { all.len() } else { 4 };
        self.random.pick(&all[..n])
    }

    fn immediate(&mut self) -> i32 {
        self.random
            .pick(&[0, 1, -1, 7, 0x80, 0x1234_5678, i32::MIN])
    }

    /// Changes flags, or doesn't.
    fn set_flags(&mut self) -> Result<(), IcedError> {
        let (r, s, i) = (self.register(), self.register(), self.immediate());
        match self.random.below(26) {
            0 => self.a.add(r, i),
            1 => self.a.add(r, s),
            2 => self.a.sub(r, i),
            3 => self.a.sub(r, s),
            4 => self.a.cmp(r, i),
            5 => self.a.cmp(r, s),
            6 => self.a.test(r, i),
            7 => self.a.test(r, s),
            8 => self.a.and(r, i),
            9 => self.a.or(r, s),
            10 => self.a.xor(r, s),
            11 => self.a.xor(r, r),
            12 => self.a.sub(r, r),
            13 => self.a.neg(r),
            14 => self.a.inc(r),
            15 => self.a.dec(r),
            16 => self.a.shl(r, 3),
            17 => self.a.rol(r, 1),
            18 => self.a.add(bl, i & 0x7F),
            19 => self.a.cmp(dx, i & 0x7FFF),
            20 => self.a.cmp(al, bl),
            21 => self.a.adc(r, i),
            22 => self.a.cmp(dword_ptr(DATA + 0x40), i),
            23 => self.a.stc(),
            24 if self.long => {
                self.a.sub(rsp, 24)?;
                self.a.add(rsp, 24)
            }
            24 => {
                self.a.sub(esp, 24)?;
                self.a.add(esp, 24)
            }
            _ => Ok(()),
        }
    }

    /// Something that leaves flags alone, or only reads them.
    fn fill(&mut self) -> Result<(), IcedError> {
        let (r, s, i) = (self.register(), self.register(), self.immediate());
        // Some of these straddle two pages, which the interpreter must write.
        let place = DATA + self.random.pick(&[0x40, 0x80, 0xFFE]);
        match self.random.below(9) {
            0 => self.a.mov(r, i),
            1 => self.a.mov(dword_ptr(place), r),
            2 => self.a.mov(r, dword_ptr(place)),
            3 => self.a.lea(r, dword_ptr(edx + 9)),
            4 if self.long => {
                self.a.push(rbx)?;
                self.a.pop(rsi)
            }
            4 => {
                self.a.push(ebx)?;
                self.a.pop(esi)
            }
            5 => self.a.setbe(dl),
            6 => self.a.cmovs(r, s),
            7 => {
                let mut over = self.a.create_label();
                self.a.jo(over)?;
                self.a.mov(r, s)?;
                self.a.set_label(&mut over)?;
                self.a.nop()
            }
            _ => Ok(()),
        }
    }

    /// EBP = a number that all flags read so far are in; EDI is lost.
    fn read_flags(&mut self) -> Result<(), IcedError> {
        if self.long {
            self.a.pushfq()?;
            self.a.pop(rdi)?;
        } else {
            self.a.pushfd()?;
            self.a.pop(edi)?;
        }
        self.a.and(edi, 0x8D5)?;
        self.a.imul_3(ebp, ebp, 33)?;
        self.a.xor(ebp, edi)
    }

    fn function(&mut self, far: CodeLabel) -> Result<(), IcedError> {
        for _ in 0..2 {
            self.set_flags()?;
            for _ in 0..self.random.below(4) {
                self.fill()?;
            }
        }
        match self.random.below(4) {
            0 => self.a.jmp(far),
            1 => {
                self.a.call(far)?;
                self.a.ret()
            }
            2 if self.long => {
                self.a.lea(rdi, qword_ptr(far))?;
                self.a.call(rdi)?;
                self.a.ret()
            }
            2 => {
                // The address is behind the call.
                let mut here = self.a.create_label();
                self.a.call(here)?;
                self.a.jmp(far)?;
                self.a.set_label(&mut here)?;
                self.a.pop(edi)?;
                self.a.jmp(edi)
            }
            _ => self.a.ret(),
        }
    }

    fn build(&mut self) -> Result<(), IcedError> {
        let mut functions: Vec<_> = (0..FUNCTIONS).map(|_| self.a.create_label()).collect();
        let (mut far, mut quiet) = (self.a.create_label(), self.a.create_label());
        let mut top = self.a.create_label();
        self.a.mov(ecx, ROUNDS)?;
        self.a.set_label(&mut top)?;
        for &f in &functions {
            self.a.lea(ebx, dword_ptr(ebx + ecx + 0x55))?;
            self.a.call(f)?;
            match self.random.below(3) {
                0 => self.read_flags()?,
                1 => self.fill()?,
                _ => self.a.xor(esi, ebx)?,
            }
        }
        self.a.dec(ecx)?;
        self.a.jne(top)?;
        self.a.hlt()?;
        for f in &mut functions {
            self.a.set_label(f)?;
            let target = self.random.pick(&[far, quiet]);
            self.function(target)?;
        }
        for _ in 0..FAR {
            self.a.nop()?;
        }
        self.a.set_label(&mut far)?;
        self.read_flags()?;
        self.a.ret()?;
        self.a.set_label(&mut quiet)?;
        self.a.mov(edi, ebx)?;
        self.a.ret()
    }
}

fn agree(make: fn(&[u8]) -> Machine, bits: u32, seed: u64) {
    let mut program = Program {
        a: CodeAssembler::new(bits).unwrap(),
        random: Random(seed),
        long: bits == 64,
    };
    program.build().unwrap();
    let code = program.a.assemble(CODE - FAR as u64).unwrap();
    let run = |backend| {
        let mut m = make(&[]);
        m.store(CODE - FAR as u64, &code);
        m.v.cpu.rip = CODE - FAR as u64;
        m.v.backend = backend;
        let _ = m.v.run();
        assert_eq!(m.v.error, None);
        (m.v.cpu.gpr, m.v.cpu.rip, m.arithmetic_flags())
    };
    assert_eq!(run(Backend::Interp), run(Backend::Translate), "seed {seed}");
}

#[test]
fn flags_are_found_again_in_32_bits() {
    for seed in 0..150 {
        agree(Machine::protected, 32, seed);
    }
}

#[test]
fn flags_are_found_again_in_64_bits() {
    for seed in 0..150 {
        agree(Machine::long, 64, seed);
    }
}
