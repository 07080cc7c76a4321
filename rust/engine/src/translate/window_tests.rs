//! User code in windows: it ends as the interpreter ends it, and loses what the page tables take away.

use super::window::Policy;
use crate::interp::test_support::{ABSENT, CODE, DATA, Machine, Random};
use crate::state::{attr, cr4, flags, seg};
use crate::vcpu::Backend;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// A linear address 4 GiB chunks away where `long` has the first MiB once more.
const ALIAS: u64 = 0x7F80_0000_0000;

/// CPL 3 in 64-bit mode.
fn long(code: &[u8]) -> Machine {
    let m = Machine::long(code);
    let pml4 = m.v.cpu.cr3;
    let first = m.bytes::<8>(pml4);
    m.store(pml4 + 8 * (ALIAS >> 39), &first);
    m.v.cpu.cpl = 3;
    for segment in &mut m.v.cpu.seg {
        segment.attributes |= 3 << attr::DPL_SHIFT;
        segment.selector |= 3;
    }
    m
}

/// CPL 3 in compatibility mode.
fn compatibility(code: &[u8]) -> Machine {
    let m = long(code);
    let code_segment = &mut m.v.cpu.seg[seg::CS];
    code_segment.attributes = code_segment.attributes & !attr::L | attr::DB;
    m
}

/// CPL 0 in 64-bit mode, all pages global.
fn kernel(code: &[u8]) -> Machine {
    let m = Machine::long(code);
    let root = m.v.cpu.cr3;
    let first = m.bytes::<8>(root);
    m.store(root + 8 * (ALIAS >> 39), &first);
    for page in 0..256 {
        let at = root + 0x3000 + 8 * page;
        let entry = u64::from_le_bytes(m.bytes(at));
        if entry & 1 != 0 {
            m.store(at, &(entry & !4 | 0x100).to_le_bytes());
        }
    }
    m.v.cpu.cr4 |= cr4::PGE;
    m
}

/// The same in compatibility mode.
fn kernel32(code: &[u8]) -> Machine {
    let m = kernel(code);
    let code_segment = &mut m.v.cpu.seg[seg::CS];
    code_segment.attributes = code_segment.attributes & !attr::L | attr::DB;
    m
}

/// Runs to the first exception, which the machine can't deliver; what of its state is seen.
type Outcome = ([u64; 16], u64, u64, u64, Vec<u8>);

fn finish(m: &mut Machine, backend: Backend) -> Outcome {
    m.v.backend = backend;
    m.v.jit.windows.policy = Policy::Always;
    let _ = m.v.run();
    assert_eq!(m.v.error, None);
    let cpu = &m.v.cpu;
    let memory = m.bytes::<0x5000>(0x7000).to_vec();
    (
        cpu.gpr,
        cpu.rflags & flags::ARITHMETIC,
        cpu.rip,
        cpu.cr2,
        memory,
    )
}

fn agree(make: fn(&[u8]) -> Machine, code: &[u8], what: &str) -> u64 {
    let expected = finish(&mut make(code), Backend::Interp);
    let mut m = make(code);
    let got = finish(&mut m, Backend::Translate);
    assert_eq!(expected.0, got.0, "registers, {what}");
    assert_eq!(
        (expected.1, expected.2, expected.3),
        (got.1, got.2, got.3),
        "flags, RIP and CR2, {what}"
    );
    assert!(expected.4 == got.4, "memory, {what}");
    m.v.stats.window_faults
}

struct Program {
    a: CodeAssembler,
    random: Random,
}

impl Program {
    /// Any address around `rbx`, where data lies, or on the stack.
    fn memory64(&mut self) -> AsmMemoryOperand {
        let disp = self.random.below(0x1800) as i64 - 0x400;
        match self.random.below(7) {
            0 => rbx + disp,
            1 => rbx + rcx * 4 + disp,
            2 => rsp + (disp & 0x3F8) - 0x800,
            3 => r9 + disp,
            4 => rbp + disp,
            5 => rbp + rcx * 8 + disp,
            _ => ptr(DATA + (disp & 0xFFF) as u64),
        }
    }

    fn memory32(&mut self) -> AsmMemoryOperand {
        let disp = self.random.below(0x1800) as i32 - 0x400;
        match self.random.below(6) {
            0 => ebx + disp,
            1 => ebx + ecx * 4 + disp,
            2 => esp + (disp & 0x3F8) - 0x800,
            3 => ebp + disp,
            4 => ebp + ecx * 2 + disp,
            _ => ptr(DATA as i32 + (disp & 0xFFF)),
        }
    }

    fn step64(&mut self) -> Result<(), IcedError> {
        let m = self.memory64();
        match self.random.below(24) {
            0 => self.a.add(rax, qword_ptr(m)),
            1 => self.a.add(qword_ptr(m), rdx),
            2 => self.a.mov(r10, qword_ptr(m)),
            3 => self.a.mov(dword_ptr(m), r11d),
            4 => self.a.adc(byte_ptr(m), al),
            5 => self.a.movzx(esi, word_ptr(m)),
            6 => self.a.lock().xadd(qword_ptr(m), rsi),
            7 => self.a.movups(xmm1, xmmword_ptr(m)),
            8 => self.a.movups(xmmword_ptr(m), xmm1),
            9 => self.a.push(qword_ptr(m)),
            10 => self.a.push(r11),
            11 => self.a.pop(r10),
            12 => self.a.pop(rdi),
            13 => self.a.add(rbx, 8),
            14 => self.a.lea(rbx, qword_ptr(rbx - 8)),
            15 => self.a.inc(rbp),
            16 => self.a.cmp(dword_ptr(m), 5),
            17 => self.a.setc(byte_ptr(m)),
            18 => self.a.xor(ah, byte_ptr(rbx + 3)),
            19 => self.a.xchg(qword_ptr(m), r10),
            20 => self.a.shl(dword_ptr(m), 3),
            21 => self.a.mov(qword_ptr(m), 0x1234_5678),
            22 => self.a.sub(rsp, 16),
            _ => self.a.cmovc(rdx, qword_ptr(m)),
        }
    }

    fn step32(&mut self) -> Result<(), IcedError> {
        let m = self.memory32();
        match self.random.below(18) {
            0 => self.a.add(eax, dword_ptr(m)),
            1 => self.a.add(dword_ptr(m), edx),
            2 => self.a.mov(esi, dword_ptr(m)),
            3 => self.a.mov(word_ptr(m), dx),
            4 => self.a.sbb(byte_ptr(m), ah),
            5 => self.a.movsx(esi, byte_ptr(m)),
            6 => self.a.lock().xadd(dword_ptr(m), esi),
            7 => self.a.movups(xmm1, xmmword_ptr(m)),
            8 => self.a.movups(xmmword_ptr(m), xmm1),
            9 => self.a.push(dword_ptr(m)),
            10 => self.a.push(esi),
            11 => self.a.pop(edi),
            12 => self.a.pop(dword_ptr(m)),
            13 => self.a.mov(eax, dword_ptr(m).fs()),
            14 => self.a.cmp(dword_ptr(m), 5),
            15 => self.a.setc(byte_ptr(m)),
            16 => self.a.mov(dword_ptr(m), 0x1234_5678),
            _ => self.a.cmovc(edx, dword_ptr(m)),
        }
    }
}

fn random_program(seed: u64, bits: u32) -> Result<Vec<u8>, IcedError> {
    let mut p = Program {
        a: CodeAssembler::new(bits)?,
        random: Random(seed),
    };
    let mut top = p.a.create_label();
    let (mut routine, mut over) = (p.a.create_label(), p.a.create_label());
    p.a.jmp(over)?;
    p.a.set_label(&mut routine)?;
    for _ in 0..6 {
        let esp_is_free = |p: &mut Program| {
            if bits == 64 {
                p.a.add(rax, rdx)
            } else {
                p.a.add(eax, edx)
            }
        };
        esp_is_free(&mut p)?;
    }
    p.a.ret()?;
    p.a.set_label(&mut over)?;
    p.a.mov(ecx, 60)?;
    if bits == 64 {
        p.a.mov(rbx, DATA + 0x800)?;
        p.a.mov(rbp, ALIAS + DATA + 0x900)?;
        p.a.mov(r9, ALIAS + DATA + 0xA00)?;
    } else {
        p.a.mov(ebx, DATA as i32 + 0x800)?;
        p.a.mov(ebp, DATA as i32 + 0x900)?;
    }
    p.a.set_label(&mut top)?;
    let stack: AsmRegister64 = rsp;
    if bits == 64 {
        p.a.mov(stack, DATA + 0x3000)?;
    } else {
        p.a.mov(esp, DATA as i32 + 0x3000)?;
    }
    for _ in 0..40 {
        match (bits, p.random.below(12)) {
            (_, 0) => p.a.call(routine)?,
            (64, _) => p.step64()?,
            _ => p.step32()?,
        }
    }
    p.a.dec(ecx)?;
    p.a.jne(top)?;
    p.a.hlt()?;
    p.a.assemble(CODE)
}

fn agree_on_random_programs(make: fn(&[u8]) -> Machine, bits: u32) {
    let agree = |seed| {
        let code = random_program(seed, bits).unwrap();
        agree(make, &code, &format!("seed {seed}"))
    };
    let faults: u64 = (1..150).map(agree).sum();
    assert!(faults > 100, "{faults} faults");
}

#[test]
fn random_programs_of_users_in_64_bits() {
    agree_on_random_programs(long, 64);
}

#[test]
fn random_programs_of_users_in_32_bits() {
    agree_on_random_programs(compatibility, 32);
}

#[test]
fn random_programs_of_the_kernel_in_64_bits() {
    agree_on_random_programs(kernel, 64);
}

#[test]
fn random_programs_of_the_kernel_in_32_bits() {
    agree_on_random_programs(kernel32, 32);
}

fn assembled(bits: u32, program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).unwrap();
    program(&mut a).unwrap();
    a.hlt().unwrap();
    a.assemble(CODE).unwrap()
}

#[test]
fn page_faults_are_exact() {
    for offset in [0, 4093] {
        let code = assembled(64, |a| {
            a.mov(rbx, ALIAS + ABSENT - 4096)?;
            a.mov(rax, qword_ptr(rbx))?;
            a.stc()?;
            a.push(rax)?;
            a.add(
                qword_ptr(rbx + 4096 - 4096 * i32::from(offset > 0) + offset),
                rax,
            )
        });
        agree(long, &code, "add");
        agree(kernel, &code, "add in the kernel");
        let code = assembled(32, |a| {
            a.mov(ebx, ABSENT as i32 + offset - 4096 * i32::from(offset > 0))?;
            a.mov(esp, DATA as i32 + 0x100)?;
            a.stc()?;
            a.push(ebx)?;
            a.pop(dword_ptr(ebx))
        });
        agree(compatibility, &code, "pop");
        agree(kernel32, &code, "pop in the kernel");
    }
}

#[test]
fn addresses_that_are_not_canonical_fault() {
    for address in [
        1u64 << 47,
        0xFFFF_7FFF_FFFF_FFFF,
        0x1234_0000_0000_8000,
        0xFFFF_8000_0000_0000,
    ] {
        let code = assembled(64, |a| {
            a.mov(rbx, address)?;
            a.mov(rax, qword_ptr(DATA))?;
            a.mov(qword_ptr(rbx + 8), rax)
        });
        agree(long, &code, &format!("{address:#x}"));
        agree(kernel, &code, &format!("{address:#x} in the kernel"));
    }
}

#[test]
fn displacements_reach_into_other_chunks() {
    let code = assembled(64, |a| {
        a.mov(rbx, 0x1_0000_0000 + DATA)?;
        a.sub(rbx, 0x7000_0000)?;
        a.sub(rbx, 0x7000_0000)?;
        a.mov(ecx, 3)?;
        a.mov(dword_ptr(rbx - 0x2000_0000), ecx)?;
        a.mov(rbx, ALIAS + DATA - 0x100)?;
        a.mov(dword_ptr(rbx + 0x110), ecx)?;
        a.mov(rbx, ALIAS - 0x1000 + DATA - 0x8000)?;
        a.add(qword_ptr(rbx + 0x1008), rcx)
    });
    agree(long, &code, "displacements");
    agree(kernel, &code, "displacements in the kernel");
}

/// Reads DATA over and over, adds it up in RAX until RCX is 0.
fn sums() -> Vec<u8> {
    assembled(64, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.add(rax, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx + 8), rax)?;
        a.dec(rcx)?;
        a.jne(top)
    })
}

fn summing(code: &[u8]) -> Machine {
    summing_in(long, code)
}

fn summing_in(make: fn(&[u8]) -> Machine, code: &[u8]) -> Machine {
    let mut m = make(code);
    m.store(DATA, &5u64.to_le_bytes());
    m.store(DATA + 0x1000, &7u64.to_le_bytes());
    again(&mut m);
    m
}

fn again(m: &mut Machine) {
    let cpu = &mut m.v.cpu;
    (cpu.shutdown, cpu.halted) = (false, false);
    cpu.rip = CODE;
    (cpu.gpr[0], cpu.gpr[1], cpu.gpr[3]) = (0, 100, DATA);
}

/// The entry of DATA's page.
fn entry(m: &Machine) -> u64 {
    m.v.cpu.cr3 + 0x3000 + DATA / 4096 * 8
}

#[test]
fn invlpg_takes_a_page_away() {
    let mut m = summing(&sums());
    assert_eq!(finish(&mut m, Backend::Translate).0[0], 500);
    assert!(m.v.stats.window_faults > 0);
    let table = entry(&m);
    m.store(table, &((DATA + 0x1000) | 7).to_le_bytes());
    m.v.flush_tlb_page(DATA);
    again(&mut m);
    assert_eq!(finish(&mut m, Backend::Translate).0[0], 700);
}

#[test]
fn pages_are_compared_after_a_change_of_cr3() {
    let mut m = summing(&sums());
    finish(&mut m, Backend::Translate);
    let table = entry(&m);
    m.store(table, &((DATA + 0x1000) | 7).to_le_bytes());
    let root = m.v.cpu.cr3;
    m.v.load_cr3(root).unwrap();
    again(&mut m);
    assert_eq!(finish(&mut m, Backend::Translate).0[0], 700);
    m.store(table, &((DATA + 0x1000) | 5).to_le_bytes());
    m.v.load_cr3(root).unwrap();
    again(&mut m);
    let got = finish(&mut m, Backend::Translate);
    assert_eq!(
        (got.0[0], got.3),
        (7, DATA + 8),
        "a store to a page that may only be read"
    );
}

#[test]
fn a_page_with_code_takes_no_stores_unseen() {
    let code = assembled(64, |a| {
        let (mut top, mut routine) = (a.create_label(), a.create_label());
        a.mov(ecx, 200)?;
        a.mov(rbx, CODE + 0x800)?;
        a.set_label(&mut top)?;
        // MOV EAX, ECX's value; RET
        a.mov(byte_ptr(rbx), 0xB8)?;
        a.mov(dword_ptr(rbx + 1), ecx)?;
        a.mov(byte_ptr(rbx + 5), 0xC3)?;
        a.call(rbx)?;
        a.add(rdx, rax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.jmp(routine)?;
        a.set_label(&mut routine)
    });
    agree(long, &code, "code that changes");
    agree(kernel, &code, "the kernel's code that changes");
}

#[test]
fn stores_are_told_to_dirty_logs() {
    let mut m = summing(&sums());
    finish(&mut m, Backend::Translate);
    let memory = m.v.vm.memory.clone();
    let log = memory.open_log(0..0x1_0000).unwrap();
    memory.collect_log(log);
    m.v.forbid_logged_writes();
    again(&mut m);
    finish(&mut m, Backend::Translate);
    let dirty = memory.collect_log(log);
    assert!(dirty.iter().any(|range| range.contains(&DATA)), "{dirty:?}");
}

#[test]
fn ram_that_is_frozen_is_thawed_for_windows_and_the_image_stays() {
    let mut m = summing(&sums());
    finish(&mut m, Backend::Translate);
    let image = m.v.vm.memory.freeze().unwrap();
    again(&mut m);
    let (faults, before) = (m.v.stats.window_faults, m.bytes::<8>(DATA + 8));
    m.v.cpu.gpr[1] = 3;
    assert_eq!(finish(&mut m, Backend::Translate).0[0], 15);
    assert!(m.v.stats.window_faults > faults);
    assert_eq!(m.bytes::<8>(DATA + 8), 15u64.to_le_bytes());
    let frozen = image.map().unwrap();
    // SAFETY: inside the image, which has all of RAM.
    let there = unsafe { frozen.start().add(DATA as usize + 8).cast::<u64>().read() };
    assert_eq!(there.to_le_bytes(), before);
}

#[test]
fn the_kernel_keeps_to_global_pages() {
    let mut m = summing_in(kernel, &sums());
    assert_eq!(finish(&mut m, Backend::Translate).0[0], 500);
    assert!(m.v.stats.window_faults > 0);
    let (table, root) = (entry(&m), m.v.cpu.cr3);
    m.store(table, &((DATA + 0x1000) | 3).to_le_bytes());
    m.v.flush_tlb_page(DATA);
    again(&mut m);
    assert_eq!(finish(&mut m, Backend::Translate).0[0], 700);
    // What isn't global goes with CR3.
    m.store(table, &(DATA | 3).to_le_bytes());
    m.v.load_cr3(root).unwrap();
    again(&mut m);
    assert_eq!(finish(&mut m, Backend::Translate).0[0], 500);
}
