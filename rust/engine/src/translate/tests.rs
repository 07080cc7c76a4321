//! Whole small programs on both backends: registers, flags and memory must end equal.

use crate::cpuid::Model;
use crate::interp::test_support::{CODE, DATA, Machine};
use crate::state::flags;
use crate::vcpu::Backend;
use iced_x86::code_asm::*;

pub(super) type Program = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;

/// Runs a program that ends in HLT; (registers, flags, RIP, a page of data).
fn run(make: fn(&[u8]) -> Machine, bits: u32, program: Program, backend: Backend) -> Outcome {
    let mut a = CodeAssembler::new(bits).unwrap();
    program(&mut a).unwrap();
    a.hlt().unwrap();
    let code = a.assemble(CODE).unwrap();
    let mut m = make(&code);
    m.v.backend = backend;
    m.v.cpu.gpr[12] = 0x1234_5678_9ABC;
    let _ = m.v.run();
    assert_eq!(m.v.error, None);
    let cpu = &m.v.cpu;
    (
        cpu.gpr,
        cpu.rflags & (flags::ARITHMETIC | flags::DF),
        cpu.rip,
        m.bytes(DATA),
    )
}

pub(super) type Outcome = ([u64; 16], u64, u64, [u8; 4096]);

pub(super) fn agree(make: fn(&[u8]) -> Machine, bits: u32, program: Program) -> Outcome {
    let expected = run(make, bits, program, Backend::Interp);
    let got = run(make, bits, program, Backend::Translate);
    assert_eq!(expected.0, got.0, "registers");
    assert_eq!((expected.1, expected.2), (got.1, got.2), "flags and RIP");
    assert_eq!(expected.3[..], got.3[..], "memory");
    got
}

#[test]
fn a_model_exists() {
    assert!(Model::named("max").is_ok());
}

#[test]
fn loops_calls_and_memory_in_32_bits() {
    agree(Machine::protected, 32, |a| {
        let (mut top, mut f) = (a.create_label(), a.create_label());
        let mut over = a.create_label();
        a.jmp(over)?;
        a.set_label(&mut f)?;
        a.lea(esi, dword_ptr(esi + eax * 2 + 5))?;
        a.add(dword_ptr(0x8010), esi)?;
        a.adc(dword_ptr(0x8014), 0)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.mov(ecx, 1000)?;
        a.xor(eax, eax)?;
        a.mov(ebx, 0x8000)?;
        a.set_label(&mut top)?;
        a.add(eax, ecx)?;
        a.mov(dword_ptr(ebx + 4), eax)?;
        a.add(eax, dword_ptr(ebx + ecx * 4))?;
        a.push(eax)?;
        a.call(f)?;
        a.pop(edx)?;
        a.mov(byte_ptr(ebx + ecx), dl)?;
        a.mov(ah, dh)?;
        a.xchg(al, ah)?;
        a.dec(ecx)?;
        a.jne(top)
    });
}

#[test]
fn all_registers_in_64_bits() {
    agree(Machine::long, 64, |a| {
        let (mut top, mut f, mut over) = (a.create_label(), a.create_label(), a.create_label());
        a.jmp(over)?;
        a.set_label(&mut f)?;
        a.add(r8, r9)?;
        a.imul_3(r10, r8, 77)?;
        a.mov(qword_ptr(rbx + r11 * 8), r10)?;
        a.add(r12, qword_ptr(rbx + r11 * 8))?;
        a.lea(r9, qword_ptr(r9 + r10 * 4 + 3))?;
        a.movzx(r13d, byte_ptr(rbx + 3))?;
        a.bswap(r9)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.mov(rbx, DATA)?;
        a.mov(r11d, 500)?;
        a.mov(r9, 0x1122_3344_5566_7788u64)?;
        a.set_label(&mut top)?;
        a.call(f)?;
        a.push(r9)?;
        a.pop(r14)?;
        a.xor(r15, r14)?;
        a.rol(r15, 9)?;
        a.setc(byte_ptr(rbx + r11))?;
        a.cmovc(rdx, r10)?;
        a.mov(rax, r15)?;
        a.or(rax, 1)?;
        a.mul(r8)?;
        a.dec(r11)?;
        a.jne(top)
    });
}

#[test]
fn sixteen_bit_code_with_its_stack() {
    agree(Machine::real, 16, |a| {
        let (mut top, mut f, mut over) = (a.create_label(), a.create_label(), a.create_label());
        a.jmp(over)?;
        a.set_label(&mut f)?;
        a.add(word_ptr(bx + si), ax)?;
        a.inc(ax)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.mov(bx, 0x8000u32)?;
        a.mov(cx, 300)?;
        a.xor(si, si)?;
        a.set_label(&mut top)?;
        a.push(cx)?;
        a.call(f)?;
        a.pop(dx)?;
        a.add(si, 3)?;
        a.xor(ax, dx)?;
        a.dec(cx)?;
        a.jne(top)
    });
}

#[test]
fn code_that_changes_itself() {
    agree(Machine::protected, 32, |a| {
        let (mut top, mut patch, mut over) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(ecx, 200)?;
        a.xor(eax, eax)?;
        a.jmp(over)?;
        a.set_label(&mut patch)?;
        a.add(eax, 0x1234)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.nop()?;
        a.set_label(&mut top)?;
        a.call(patch)?;
        a.mov(dword_ptr(CODE as i32 + 10), ecx)?;
        a.dec(ecx)?;
        a.jne(top)
    });
}

#[test]
fn flags_survive_memory_accesses_between_producer_and_consumer() {
    agree(Machine::long, 64, |a| {
        a.mov(rbx, DATA)?;
        a.mov(ecx, 100)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.add(rax, -3)?;
        a.mov(rdx, qword_ptr(rbx))?;
        a.push(rdx)?;
        a.adc(qword_ptr(rbx + 8), 5)?;
        a.pop(rsi)?;
        a.seto(byte_ptr(rbx + 16))?;
        a.sbb(qword_ptr(rbx + rcx * 8), rcx)?;
        a.cmp(qword_ptr(rbx), rcx)?;
        a.lea(rcx, qword_ptr(rcx - 1))?;
        a.mov(rdi, qword_ptr(rbx + 24))?;
        a.mov(qword_ptr(rbx + 24), rsi)?;
        a.ja(top)?;
        a.setbe(byte_ptr(rbx + 40))
    });
}

/// 64-bit mode with all of the host's SIMD enabled.
fn long_simd(code: &[u8]) -> Machine {
    use crate::state::{cr0, cr4};
    let m = Machine::long(code);
    m.v.cpu.cr0 |= cr0::NE | cr0::MP;
    m.v.cpu.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    m.v.cpu.xcr0 = crate::host::xcr0();
    m.store(DATA + 0x1000, &(0..=255).collect::<Vec<u8>>());
    m
}

#[test]
fn vector_registers_survive_exits() {
    if !std::is_x86_feature_detected!("avx512vl") {
        return;
    }
    agree(long_simd, 64, |a| {
        let mut top = a.create_label();
        a.mov(rbx, DATA + 0x1000)?;
        a.mov(rdi, DATA + 0xFF0)?;
        a.mov(ecx, 40)?;
        a.set_label(&mut top)?;
        a.vmovdqu64(ymm16, ymmword_ptr(rbx))?;
        a.vmovdqu64(zmm31, zmmword_ptr(rbx + 64))?;
        a.vmovdqu(ymm3, ymmword_ptr(rbx + 32))?;
        a.movups(xmm9, xmmword_ptr(rbx + 5))?;
        a.vpcmpeqb(k1, ymm16, ymmword_ptr(rbx + 1))?;
        a.kmovd(eax, k1)?;
        // Crosses a page: the interpreter does it.
        a.vmovdqu64(ymmword_ptr(rdi), ymm16)?;
        a.vmovdqu64(zmmword_ptr(rdi - 1024), zmm31)?;
        a.vmovdqu(ymmword_ptr(rdi - 512), ymm3)?;
        a.movups(xmmword_ptr(rdi - 256), xmm9)?;
        a.cpuid()?;
        a.vmovdqu64(zmmword_ptr(rdi - 2048), zmm31)?;
        a.vmovdqu64(ymmword_ptr(rdi - 3072), ymm16)?;
        a.lea(rbx, qword_ptr(rbx + 1))?;
        a.mov(ecx, dword_ptr(DATA + 0x1f00))?;
        a.inc(ecx)?;
        a.mov(dword_ptr(DATA + 0x1f00), ecx)?;
        a.cmp(ecx, 40)?;
        a.jb(top)
    });
}

/// A recursive function with frames of many sizes: its stack crosses pages everywhere.
#[test]
fn frames_at_all_distances_from_page_borders() {
    agree(Machine::long, 64, |a| {
        let (mut f, mut start, mut leaf, mut out) = (
            a.create_label(),
            a.create_label(),
            a.create_label(),
            a.create_label(),
        );
        a.jmp(start)?;
        a.set_label(&mut f)?;
        a.push(rbx)?;
        a.push(r9)?;
        a.sub(rsp, 24)?;
        a.mov(qword_ptr(rsp + 8), rdi)?;
        a.lea(rbx, qword_ptr(rdi + rdi * 2))?;
        a.mov(qword_ptr(rsp), r9)?;
        a.add(r9, qword_ptr(rsp + 8))?;
        a.test(rdi, rdi)?;
        a.je(leaf)?;
        a.dec(rdi)?;
        a.call(f)?;
        a.set_label(&mut leaf)?;
        a.add(rax, qword_ptr(rsp + 8))?;
        a.xor(rax, qword_ptr(rsp))?;
        a.add(rsp, 24)?;
        a.pop(r9)?;
        a.pop(rbx)?;
        a.ret()?;
        a.set_label(&mut start)?;
        a.mov(esi, 60)?;
        a.set_label(&mut out)?;
        a.mov(rsp, 0x7000u64 + 8)?;
        a.lea(r10, qword_ptr(rsi * 8))?;
        a.sub(rsp, r10)?;
        a.mov(edi, 100)?;
        a.call(f)?;
        a.dec(esi)?;
        a.jne(out)
    });
}

#[test]
fn single_string_instructions() {
    agree(Machine::protected, 32, |a| {
        let mut top = a.create_label();
        a.cld()?;
        a.mov(esi, CODE as i32)?;
        a.mov(edi, 0x8000)?;
        a.mov(ecx, 50)?;
        a.set_label(&mut top)?;
        a.movsb()?;
        a.movsd()?;
        a.lodsw()?;
        a.stosd()?;
        a.scasb()?;
        a.setb(byte_ptr(edi + 64))?;
        a.cmpsd()?;
        a.seta(byte_ptr(edi + 65))?;
        a.std()?;
        a.movsw()?;
        a.cld()?;
        a.dec(ecx)?;
        a.jne(top)
    });
    agree(Machine::real, 16, |a| {
        a.mov(si, CODE as u32)?;
        a.mov(di, 0x8000u32)?;
        a.movsb()?;
        a.lodsw()?;
        a.stosw()?;
        a.cmpsb()
    });
}

// --- self-modifying code ---

/// Xorshift: the same numbers in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Where the routines lie that programs change: across the border of two pages.
const ROUTINES: u64 = 0xA000 - 36;
/// One routine: `add eax, imm32; xor ebx, imm32; ret`, and NOPs.
const ROUTINE: [u8; 16] = *b"\x05\x01\0\0\0\x81\xF3\x02\0\0\0\xC3\x90\x90\x90\x90";
const ROUTINE_COUNT: u64 = 8;
/// A second mapping of the page below 0xA000 and the one from there, in `aliased`.
const ALIAS: u64 = 0x2_0000;

/// 64-bit mode with routines, their pages mapped at `ALIAS` too.
fn aliased(code: &[u8]) -> Machine {
    let m = Machine::long(code);
    for n in 0..ROUTINE_COUNT {
        m.store(ROUTINES + n * ROUTINE.len() as u64, &ROUTINE);
    }
    let table = (m.v.cpu.cr3 & !0xFFF) + 3 * 4096;
    for n in 0..2 {
        let entry: [u8; 8] = m.bytes(table + (0x9 + n) * 8);
        m.store(table + (ALIAS / 4096 + n) * 8, &entry);
    }
    m
}

fn with_routines(code: &[u8]) -> Machine {
    let m = Machine::protected(code);
    for n in 0..ROUTINE_COUNT {
        m.store(ROUTINES + n * ROUTINE.len() as u64, &ROUTINE);
    }
    m
}

/// Calls routines and changes them at random: immediates of any width, by MOV, RMW, pushes and
/// string stores, through either mapping, also between a routine's start and its use.
fn storm(a: &mut CodeAssembler, seed: u64, alias: bool) -> Result<(), iced_x86::IcedError> {
    let mut random = Random(seed | 1);
    let mut top = a.create_label();
    a.mov(ecx, 60)?;
    a.xor(eax, eax)?;
    a.set_label(&mut top)?;
    for _ in 0..40 {
        let routine = ROUTINES + random.below(ROUTINE_COUNT) * ROUTINE.len() as u64;
        let shift = if alias && random.below(2) == 0 {
            ALIAS - 0x9000
        } else {
            0
        };
        let first = (routine + 1 + shift) as i32;
        let second = (routine + 7 + shift) as i32;
        match random.below(8) {
            0 => a.mov(dword_ptr(first), ecx)?,
            1 => a.mov(byte_ptr(second + random.below(4) as i32), al)?,
            2 => a.add(dword_ptr(second), 0x0101)?,
            3 => a.mov(word_ptr(first + random.below(3) as i32), cx)?,
            4 => {
                a.mov(edi, second)?;
                a.mov(edx, ecx)?;
                a.mov(ecx, 2)?;
                a.rep().stosb()?;
                a.mov(ecx, edx)?;
            }
            5 => a.xor(byte_ptr((routine + 12 + shift) as i32), 1)?,
            6 => a.mov(byte_ptr((routine + 12 + shift) as i32), 0x90u32 as i32)?,
            _ => a.inc(dword_ptr(first))?,
        }
        if random.below(3) > 0 {
            a.call(routine)?;
        }
    }
    a.dec(ecx)?;
    a.jne(top)?;
    a.mov(dword_ptr(DATA as i32), eax)?;
    a.mov(dword_ptr(DATA as i32 + 4), ebx)
}

fn agree_storm(make: fn(&[u8]) -> Machine, bits: u32, seed: u64, cache_bytes: usize) {
    let run = |backend| {
        let mut a = CodeAssembler::new(bits).unwrap();
        storm(&mut a, seed, bits == 64).unwrap();
        a.hlt().unwrap();
        let mut m = make(&a.assemble(CODE).unwrap());
        m.v.backend = backend;
        m.v.jit = super::Jit::with_cache(&m.v.env, cache_bytes).unwrap();
        let _ = m.v.run();
        assert_eq!(m.v.error, None);
        let flushes = m.v.stats.cache_flushes;
        (m.v.cpu.gpr, m.v.cpu.rip, m.bytes::<8192>(0x9000), flushes)
    };
    let (expected, got) = (run(Backend::Interp), run(Backend::Translate));
    assert_eq!(expected.0, got.0, "registers, seed {seed}");
    assert_eq!(expected.1, got.1, "RIP, seed {seed}");
    assert!(expected.2 == got.2, "memory, seed {seed}");
    if cache_bytes < 1 << 20 {
        assert!(got.3 > 0, "the cache was never full");
    }
}

#[test]
fn storms_of_changes_to_code_in_32_bits() {
    for seed in 1..30 {
        agree_storm(with_routines, 32, seed * 7919, super::cache::CACHE_BYTES);
    }
}

#[test]
fn storms_of_changes_to_code_through_two_mappings() {
    for seed in 1..30 {
        agree_storm(aliased, 64, seed * 104_729, super::cache::CACHE_BYTES);
    }
}

#[test]
fn storms_of_changes_to_code_with_a_tiny_cache() {
    for seed in 1..10 {
        agree_storm(aliased, 64, seed * 15_485_863, 56 << 10);
    }
}

#[test]
fn an_instruction_that_changes_its_own_block() {
    agree(Machine::protected, 32, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 300)?;
        a.xor(eax, eax)?;
        a.set_label(&mut top)?;
        // The immediate of the ADD that follows.
        a.mov(dword_ptr(CODE as i32 + 14), ecx)?;
        a.add(eax, 0x1234_5678)?;
        a.dec(ecx)?;
        a.jne(top)
    });
}

#[test]
fn data_beside_code_is_stored_without_leaving() {
    let mut a = CodeAssembler::new(32).unwrap();
    let mut top = a.create_label();
    a.mov(ecx, 1000).unwrap();
    a.set_label(&mut top).unwrap();
    a.mov(dword_ptr(CODE as i32 + 0x800), ecx).unwrap();
    a.dec(ecx).unwrap();
    a.jne(top).unwrap();
    a.hlt().unwrap();
    let mut m = Machine::protected(&a.assemble(CODE).unwrap());
    m.v.backend = Backend::Translate;
    let _ = m.v.run();
    assert_eq!(m.bytes::<4>(CODE + 0x800), 1u32.to_le_bytes());
    assert!(m.v.stats.entries < 10, "{} entries", m.v.stats.entries);
    assert_eq!(m.v.stats.invalidated_blocks, 0);
}

#[test]
fn stores_by_dma_drop_blocks() {
    let mut m = Machine::protected(b"\xB8\x01\0\0\0\xF4");
    m.v.backend = Backend::Translate;
    let _ = m.v.run();
    m.store(CODE + 1, &[2]);
    m.v.cpu.rip = CODE;
    m.v.cpu.halted = false;
    let _ = m.v.run();
    assert_eq!(m.v.cpu.gpr[0], 2);
}

#[test]
fn code_rewritten_forever_takes_no_more_room() {
    let mut a = CodeAssembler::new(32).unwrap();
    let mut top = a.create_label();
    a.mov(ecx, 20_000).unwrap();
    a.set_label(&mut top).unwrap();
    a.mov(dword_ptr(ROUTINES as i32 + 1), ecx).unwrap();
    a.mov(dword_ptr(ROUTINES as i32 + 7), ecx).unwrap();
    a.call(ROUTINES).unwrap();
    a.dec(ecx).unwrap();
    a.jne(top).unwrap();
    a.hlt().unwrap();
    let mut m = with_routines(&a.assemble(CODE).unwrap());
    m.v.backend = Backend::Translate;
    let _ = m.v.run();
    assert!(m.v.stats.invalidated_blocks >= 19_999);
    assert!(m.v.jit.table.blocks.len() < 20);
    assert!(m.v.jit.table.links.len() < 40);
    assert_eq!(m.v.stats.cache_flushes, 0);
}

#[test]
fn reads_across_pages_stay_in_translated_code() {
    let program: Program = |a| {
        let mut top = a.create_label();
        a.mov(rbx, DATA + 0xFC0)?;
        a.mov(ecx, 70)?;
        a.set_label(&mut top)?;
        a.add(rax, qword_ptr(rbx))?;
        a.add(rax, qword_ptr(rbx + 1))?;
        a.xor(edx, dword_ptr(rbx + 2))?;
        a.movzx(esi, word_ptr(rbx + 3))?;
        a.lea(rax, qword_ptr(rax + rsi * 4))?;
        a.movups(xmm1, xmmword_ptr(rbx))?;
        a.paddd(xmm2, xmm1)?;
        a.inc(rbx)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.movq(rdi, xmm2)?;
        a.mov(rsi, DATA + 0xFFD)?;
        a.mov(rbp, DATA + 0x1FFE)?;
        a.xchg(rbp, rdi)?;
        a.cmpsd()?;
        a.setb(byte_ptr(DATA))
    };
    agree(long_simd, 64, program);
    let mut a = CodeAssembler::new(64).unwrap();
    program(&mut a).unwrap();
    a.hlt().unwrap();
    let mut m = long_simd(&a.assemble(CODE).unwrap());
    m.v.backend = Backend::Translate;
    let _ = m.v.run();
    let interpreted = m.v.stats.interpreted;
    assert!(interpreted < 10, "{interpreted} interpreted");
}

#[test]
fn reads_across_pages_fault_in_either() {
    use crate::interp::test_support::ABSENT;
    for start in [ABSENT - 3, ABSENT + 4096 - 3] {
        let mut a = CodeAssembler::new(64).unwrap();
        a.mov(rbx, start).unwrap();
        a.mov(eax, dword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
        let mut m = Machine::long(&a.assemble(CODE).unwrap());
        m.v.backend = Backend::Translate;
        let _ = m.v.run();
        assert_eq!(m.v.cpu.cr2, start.max(ABSENT));
    }
}

#[test]
fn misaligned_reads_across_pages_fault_where_alignment_is_demanded() {
    let run = |backend| {
        let mut a = CodeAssembler::new(64).unwrap();
        a.mov(rbx, DATA + 0xFF8).unwrap();
        a.mov(eax, 7).unwrap();
        a.movaps(xmm1, xmmword_ptr(rbx)).unwrap();
        a.mov(eax, 8).unwrap();
        a.hlt().unwrap();
        let mut m = long_simd(&a.assemble(CODE).unwrap());
        m.v.backend = backend;
        let _ = m.v.run();
        (m.v.cpu.gpr[0], m.v.cpu.shutdown)
    };
    assert_eq!(run(Backend::Translate), (7, true));
    assert_eq!(run(Backend::Translate), run(Backend::Interp));
}

#[test]
fn changed_immediates_alone_are_patched() {
    let mut a = CodeAssembler::new(32).unwrap();
    let mut top = a.create_label();
    a.mov(ecx, 1000).unwrap();
    a.set_label(&mut top).unwrap();
    a.mov(dword_ptr(ROUTINES as i32 + 1), ecx).unwrap();
    a.mov(dword_ptr(ROUTINES as i32 + 7), ecx).unwrap();
    a.call(ROUTINES).unwrap();
    a.dec(ecx).unwrap();
    a.jne(top).unwrap();
    a.hlt().unwrap();
    let mut m = with_routines(&a.assemble(CODE).unwrap());
    m.v.backend = Backend::Translate;
    let _ = m.v.run();
    assert_eq!(m.v.cpu.gpr[0], 1000 * 1001 / 2);
    assert!(m.v.stats.invalidated_blocks >= 999);
    assert!(m.v.stats.blocks < 20, "{} blocks", m.v.stats.blocks);
}

/// 32-bit code at a base, data segments with limits: DS up to 0FFFh, ES expand-down above 7FFFh, FS up
/// to the end of 4 GiB from a base, SS of 16 bits.
fn segmented(code: &[u8]) -> Machine {
    use crate::state::{attr, seg};
    let m = Machine::protected(code);
    let segments = &mut m.v.cpu.seg;
    segments[seg::CS].base = 0x800;
    (segments[seg::DS].base, segments[seg::DS].limit) = (DATA, 0xFFF);
    segments[seg::ES].attributes |= attr::EXPAND_DOWN;
    segments[seg::ES].limit = 0x7FFF;
    segments[seg::FS].base = 0xFFFF_F000;
    segments[seg::SS].attributes &= !attr::DB;
    (segments[seg::SS].base, segments[seg::SS].limit) = (0x3000, 0xFFFF);
    m.v.cpu.rip = CODE - 0x800;
    m
}

/// Every program ends in a fault, and without handlers that is a shutdown.
#[test]
fn segment_limits_end_loops_where_they_should() {
    let programs: [Program; 5] = [
        // Up to the limit, by words that don't divide it.
        |a| {
            let mut top = a.create_label();
            a.mov(ebx, 0xF80)?;
            a.set_label(&mut top)?;
            a.add(dword_ptr(ebx), ecx)?;
            a.lea(ecx, dword_ptr(ecx + ebx))?;
            a.add(ebx, 3)?;
            a.jmp(top)
        },
        // Down to an expand-down limit.
        |a| {
            let mut top = a.create_label();
            a.mov(ebx, 0x8020)?;
            a.set_label(&mut top)?;
            a.mov(al, byte_ptr(ebx).es())?;
            a.mov(byte_ptr(ebx).es(), cl)?;
            a.inc(ecx)?;
            a.dec(ebx)?;
            a.jmp(top)
        },
        // Around the end of 4 GiB by a base, then into CS.
        |a| {
            let mut top = a.create_label();
            a.mov(ebx, DATA as u32 + 0x1000 - 20)?;
            a.set_label(&mut top)?;
            a.xor(word_ptr(ebx).fs(), cx)?;
            a.add(ebx, 7)?;
            a.inc(ecx)?;
            a.cmp(ecx, 100)?;
            a.jb(top)?;
            a.mov(eax, dword_ptr(ebx).cs())?;
            a.mov(dword_ptr(ebx).cs(), eax)
        },
        // A stack pointer of 16 bits wraps, but not within a push.
        |a| {
            let mut top = a.create_label();
            a.mov(esp, 0x7777_0009)?;
            a.set_label(&mut top)?;
            a.push(ecx)?;
            a.inc(ecx)?;
            a.jmp(top)
        },
        |a| {
            let mut top = a.create_label();
            a.mov(esp, 0x1111_0004)?;
            a.set_label(&mut top)?;
            a.db(&[0x66, 0x68, 0x34, 0x12])?;
            a.pop(cx)?;
            a.push(cx)?;
            a.inc(eax)?;
            a.cmp(eax, 6)?;
            a.jne(top)?;
            a.mov(ebx, esp)?;
            a.ret()
        },
    ];
    for (i, program) in programs.into_iter().enumerate() {
        let expected = run(segmented, 32, program, Backend::Interp);
        let got = run(segmented, 32, program, Backend::Translate);
        // Flags that the faulting instruction would have overwritten may be anything.
        assert_eq!((expected.0, expected.2), (got.0, got.2), "program {i}");
        assert_eq!(expected.3[..], got.3[..], "memory of program {i}");
    }
}

#[test]
fn structure_groups_at_all_distances_from_page_borders() {
    agree(Machine::long, 64, |a| {
        let mut top = a.create_label();
        a.mov(rbx, DATA + 0xF80)?;
        a.mov(r9, DATA + 0xF00)?;
        a.mov(ecx, 200)?;
        a.set_label(&mut top)?;
        a.mov(rax, qword_ptr(rbx + 8))?;
        a.add(rax, rcx)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.lea(rdx, qword_ptr(rax + rcx * 2))?;
        a.xor(qword_ptr(rbx + 16), rdx)?;
        a.adc(dword_ptr(rbx - 4), esi)?;
        a.mov(rdi, rbx)?;
        a.mov(rdi, qword_ptr(rdi))?;
        a.add(rdi, qword_ptr(rbx + 24))?;
        a.mov(byte_ptr(r9 + 3), dl)?;
        a.sub(rsp, 16)?;
        a.add(al, byte_ptr(r9 + 4))?;
        a.mov(r13, qword_ptr(rbx + 9))?;
        a.add(rsp, 16)?;
        a.mov(qword_ptr(rbx + 40), r13)?;
        a.inc(rbx)?;
        a.inc(r9)?;
        a.dec(ecx)?;
        a.jne(top)
    });
}

/// 64-bit mode; the page at `DATA` is global, the one at `DATA` + 1000h is not.
fn long_with_global_page(code: &[u8]) -> Machine {
    use crate::state::cr4;
    let m = Machine::long(code);
    m.v.cpu.cr4 |= cr4::PGE;
    m.store(0x1_3000 + DATA / 0x1000 * 8, &(DATA | 0x107).to_le_bytes());
    m
}

#[test]
fn a_load_of_cr3_keeps_global_pages_only() {
    // Both pages are mapped elsewhere meanwhile: one must not show it, the other must.
    let end = agree(long_with_global_page, 64, |a| {
        let entry = 0x1_3000 + DATA / 0x1000 * 8;
        a.mov(rbx, DATA)?;
        a.mov(qword_ptr(rbx), 11)?;
        a.mov(qword_ptr(rbx + 0x1000), 22)?;
        a.mov(rcx, 0x2_0000u64)?;
        a.mov(qword_ptr(rcx), 33)?;
        a.mov(qword_ptr(rcx + 0x1000), 44)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rdx, qword_ptr(rbx + 0x1000))?;
        a.mov(dword_ptr(entry), 0x2_0107)?;
        a.mov(dword_ptr(entry + 8), 0x2_1007)?;
        a.mov(rsi, cr3)?;
        a.mov(cr3, rsi)?;
        a.mov(r12, qword_ptr(rbx))?;
        a.mov(r13, qword_ptr(rbx + 0x1000))?;
        a.add(qword_ptr(rbx), 1)?;
        a.mov(rdi, cr4)?;
        a.xor(rdi, 0x80)?;
        a.mov(cr4, rdi)?;
        a.mov(r14, qword_ptr(rbx))
    });
    assert_eq!((end.0[12], end.0[13], end.0[14]), (11, 44, 33));
}
