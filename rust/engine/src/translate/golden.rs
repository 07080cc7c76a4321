//! The host code of each family of rules, as text: `tests/golden/*.expect`.
//!
//! A change of code generation shows up as a change of these files.  RING3_ACCEPT=1 (`make accept`)
//! writes them anew.

use super::block::{self, Built, PageCheck, PageCopy, Source};
use super::emit::Asm;
use super::env::Area;
use super::mode::{Mode, bit};
use super::runtime::Thunks;
use crate::memory::PAGE;
use crate::state::CpuState;
use iced_x86::code_asm::*;
use iced_x86::{
    Decoder, DecoderOptions, Formatter, Instruction, NasmFormatter, OpKind, Register,
    SymbolResolver, SymbolResult,
};
use std::fmt::Write;
use std::mem::offset_of;
use std::path::PathBuf;

type Program = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;

const RIP: u64 = 0x1000;
const HOST: u64 = 0x10_0000;

/// Thunks at addresses that stand for their names.
fn thunks() -> (Thunks, Vec<(u64, &'static str)>) {
    let mut names = Vec::new();
    let mut next = HOST - 0x1000;
    let mut add = |name| {
        next += 0x10;
        names.push((next, name));
        next
    };
    let thunks = Thunks {
        enter: add("enter"),
        exit: add("exit"),
        lookup: add("lookup"),
        lookup_saved: add("lookup_saved"),
        lookup_kept: add("lookup_kept"),
        exit_link: add("exit_link"),
        exit_interpret: add("exit_interpret"),
        exit_attend: add("exit_attend"),
        fault: add("fault"),
        miss: add("miss"),
        miss_saved: add("miss_saved"),
        assist: add("assist"),
        device: add("device"),
        load_fpu: add("load_fpu"),
        retry: add("retry"),
        interpret_here: add("interpret_here"),
        recover: add("recover"),
        repeat: [[add("repeat"); 16], [add("repeat_user"); 16]],
        recover_kept: [add("recover_kept"), add("recover_kept_user")],
        recovered: [add("recovered"), add("recovered_user")],
    };
    (thunks, names)
}

/// Fields of the Area by offset.
fn fields() -> Vec<(usize, &'static str)> {
    let mut fields = vec![
        (offset_of!(Area, cpu) + offset_of!(CpuState, gpr), "gpr"),
        (offset_of!(Area, cpu) + offset_of!(CpuState, rip), "rip"),
        (
            offset_of!(Area, cpu) + offset_of!(CpuState, rflags),
            "rflags",
        ),
        (offset_of!(Area, cpu) + offset_of!(CpuState, seg), "seg"),
        (offset_of!(Area, attention), "attention"),
        (offset_of!(Area, interrupt_waits), "interrupt_waits"),
        (offset_of!(Area, fpu_live), "fpu_live"),
        (offset_of!(Area, exit_kind), "exit_kind"),
        (offset_of!(Area, exit_link), "exit_link"),
        (offset_of!(Area, kept_flags), "kept_flags"),
        (offset_of!(Area, kept_operand), "kept_operand"),
        (offset_of!(Area, recovered), "recovered"),
        (offset_of!(Area, readable), "readable"),
        (offset_of!(Area, writable), "writable"),
        (offset_of!(Area, saved), "saved"),
        (offset_of!(Area, tlb), "tlb"),
        (offset_of!(Area, chunks), "chunks"),
        (offset_of!(Area, code_tlb), "code_tlb"),
        (offset_of!(Area, jump), "jump"),
        (offset_of!(Area, jump_live), "jump_live"),
    ];
    fields.sort();
    fields
}

/// Names what generated code refers to, so that a moved field changes no expectation.
struct Names {
    thunks: Vec<(u64, &'static str)>,
    fields: Vec<(usize, &'static str)>,
}

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        instruction: &Instruction,
        _operand: u32,
        instruction_operand: Option<u32>,
        address: u64,
        _address_size: u32,
    ) -> Option<SymbolResult<'_>> {
        if let Some((_, name)) = self.thunks.iter().find(|t| t.0 == address) {
            return Some(SymbolResult::with_str(address, name));
        }
        let kind = instruction.op_kind(instruction_operand?);
        if kind == OpKind::NearBranch64 {
            let offset = address.wrapping_sub(HOST);
            return Some(SymbolResult::with_string(address, format!("@{offset:x}")));
        }
        if kind != OpKind::Memory || instruction.memory_base() != Register::RSP {
            return None;
        }
        let at = self.fields.partition_point(|f| f.0 as u64 <= address);
        let (offset, name) = self.fields[at.checked_sub(1)?];
        Some(SymbolResult::with_str(offset as u64, name))
    }
}

/// What is translated: a title, the mode, its bitness and the code.
struct Case(&'static str, Mode, Program);

fn mode(bits: u32) -> Mode {
    Mode {
        bits,
        cs_base: 0,
        cs_limit: u32::MAX,
    }
}

const UNITS: u32 = bit::X87 | bit::SSE | bit::AVX;

fn kernel32() -> Mode {
    mode(bit::CODE32 | bit::STACK32 | (0xF * bit::FLAT) | bit::IO_PRIVILEGE | UNITS)
}

fn user64() -> Mode {
    mode(bit::CODE64 | bit::LONG | bit::STACK32 | (0x3F * bit::FLAT) | bit::USER | UNITS)
}

fn user32() -> Mode {
    mode(bit::CODE32 | bit::STACK32 | (0xF * bit::FLAT) | bit::USER | UNITS)
}

fn in_window(mode: Mode) -> Mode {
    Mode {
        bits: mode.bits | bit::WINDOW,
        ..mode
    }
}

fn real() -> Mode {
    Mode {
        cs_limit: 0xFFFF,
        ..mode(bit::REAL_OR_V86 | bit::IO_PRIVILEGE)
    }
}

fn translate(case: &Case) -> String {
    let Case(title, mode, program) = case;
    let mut a = CodeAssembler::new(mode.code_bits()).unwrap();
    program(&mut a).unwrap();
    let code = a.assemble(RIP).unwrap();
    let mut page = vec![0xF4u8; PAGE as usize];
    page[..code.len()].copy_from_slice(&code);
    let mut copy = PageCopy::default();
    // SAFETY: the page lives longer than its copy is used.
    unsafe { copy.start(page.as_ptr()) };
    let mut insns = Vec::new();
    let plan = block::decode(mode, RIP, &mut copy, 0, &mut insns, |_| false).plan;
    let source = Source {
        mode: *mode,
        rip: RIP,
        insns: &insns,
        page: PageCheck {
            vpn: RIP >> 12,
            id: 1,
        },
        second: None,
        first_link: 0,
        grouped: !mode.has(bit::WINDOW),
        windowed: mode.has(bit::WINDOW),
        plan,
        bmi2: true,
        first_assist: 0,
        has_rdtscp: true,
    };
    let (thunks, names) = thunks();
    let mut asm = Asm::new(block::MAX_CODE);
    asm.start(HOST);
    let built = block::build(&mut asm, &thunks, &source, Built::default());
    let host = asm.finish().unwrap().to_vec();
    let mut text = format!("=== {title}\n");
    let guest = |delta: u64| {
        let at = insns.iter().find(|i| i.ins.ip() == RIP + delta)?;
        let mut line = String::new();
        NasmFormatter::new().format(&at.ins, &mut line);
        Some(line)
    };
    let names = Names {
        thunks: names,
        fields: fields(),
    };
    let mut formatter = NasmFormatter::with_options(Some(Box::new(names)), None);
    for ins in Decoder::with_ip(64, &host, HOST, DecoderOptions::NONE).iter() {
        let offset = (ins.ip() - HOST) as usize;
        let e = &built.entries;
        for (name, at) in [
            ("indirect", e.indirect),
            ("lost", e.lost),
            ("guarded", e.guarded),
            ("polled", e.polled),
            ("main", e.main),
        ] {
            if at == offset {
                writeln!(text, "{name}:").unwrap();
            }
        }
        for &(at, delta) in &built.map {
            if at as usize == offset
                && let Some(line) = guest(delta.into())
            {
                writeln!(text, "; {line}").unwrap();
            }
        }
        let mut line = String::new();
        formatter.format(&ins, &mut line);
        writeln!(text, "{offset:4x}    {line}").unwrap();
    }
    text
}

/// Compares what `cases` give with the expectations in file `name`.
fn check(name: &str, cases: &[Case]) {
    let text = cases.iter().map(translate).collect::<Vec<_>>().join("\n");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
        .with_extension("expect");
    if std::env::var_os("RING3_ACCEPT").is_some() {
        std::fs::write(path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let line = text
        .lines()
        .zip(expected.lines())
        .position(|(is, was)| is != was);
    assert!(
        text == expected,
        "{name}.expect differs from line {}: if that is meant, `make accept`",
        line.map_or(0, |n| n + 1)
    );
}

#[test]
fn arithmetic() {
    check(
        "arithmetic",
        &[
            Case("registers only", user64(), |a| {
                a.add(rax, rbx)?;
                a.imul_3(r10, r8, 77)?;
                a.jmp(RIP + 0x100)
            }),
            Case("memory, flags dead", user64(), |a| {
                a.add(dword_ptr(rbx + rcx * 4 + 16), eax)?;
                a.jmp(RIP + 0x100)
            }),
            Case("memory, flags live", user64(), |a| {
                a.adc(r9, qword_ptr(rbx))?;
                a.jmp(RIP + 0x100)
            }),
            Case("absolute address in 32 bits", kernel32(), |a| {
                a.cmp(dword_ptr(0x1234_5678), 5)?;
                a.jmp(RIP + 0x100)
            }),
        ],
    );
}

#[test]
fn stack() {
    check(
        "stack",
        &[
            Case("one push", kernel32(), |a| {
                a.push(eax)?;
                a.mov(eax, dword_ptr(ebx))?;
                a.test(eax, eax)?;
                a.jmp(RIP + 0x100)
            }),
            Case("a prologue and a call", user64(), |a| {
                a.push(rbp)?;
                a.mov(rbp, rsp)?;
                a.push(rbx)?;
                a.sub(rsp, 24)?;
                a.call(RIP + 0x200)
            }),
            Case("an epilogue", user64(), |a| {
                a.add(rsp, 24)?;
                a.pop(rbx)?;
                a.pop(rbp)?;
                a.ret()
            }),
            Case("SP of 16 bits", real(), |a| {
                a.push(cx)?;
                a.pop(dx)?;
                a.test(ax, ax)?;
                a.ret_1(4)
            }),
            Case("LEAVE, PUSHF, POPF", kernel32(), |a| {
                a.leave()?;
                a.pushfd()?;
                a.cli()?;
                a.popfd()?;
                a.jmp(RIP + 0x100)
            }),
        ],
    );
}

#[test]
fn branches() {
    check(
        "branches",
        &[
            Case("backward, conditional", user64(), |a| {
                a.dec(ecx)?;
                a.jne(RIP)
            }),
            Case("to another page", user64(), |a| a.jmp(RIP + 0x5000)),
            Case("indirect call through memory", user64(), |a| {
                a.call(qword_ptr(rax + 8))
            }),
            Case("LOOP and JECXZ", kernel32(), |a| a.loop_(RIP)),
            Case("entered with live flags", kernel32(), |a| a.jb(RIP + 0x80)),
        ],
    );
}

#[test]
fn segments() {
    check(
        "segments",
        &[
            Case("FS base in 64 bits", user64(), |a| {
                a.mov(rax, qword_ptr(0x28).fs())?;
                a.test(eax, eax)?;
                a.jmp(RIP + 0x100)
            }),
            Case("a limit, load and store", real(), |a| {
                a.mov(ax, word_ptr(bx + si + 2))?;
                a.mov(word_ptr(di).es(), ax)?;
                a.jmp(RIP + 0x100)
            }),
            Case("strings", kernel32(), |a| {
                a.lodsd()?;
                a.stosb()?;
                a.movsd()?;
                a.test(eax, eax)?;
                a.jmp(RIP + 0x100)
            }),
        ],
    );
}

#[test]
fn addresses() {
    check(
        "addresses",
        &[
            Case("LEA of each width", user64(), |a| {
                a.lea(rax, qword_ptr(rbx + rcx * 2 + 5))?;
                a.lea(eax, dword_ptr(r9 + r10 * 8))?;
                a.lea(r11w, word_ptr(rsp + 4))?;
                a.lea(rdx, qword_ptr(ebx + 1))?;
                a.jmp(RIP + 0x100)
            }),
            Case("16-bit wrap", real(), |a| {
                a.lea(ax, word_ptr(bp + di - 3))?;
                a.jmp(RIP + 0x100)
            }),
        ],
    );
}

#[test]
fn vectors() {
    check(
        "vectors",
        &[
            Case("SSE and AVX with memory", user64(), |a| {
                a.movaps(xmm1, xmmword_ptr(rdi))?;
                a.vaddpd(ymm8, ymm1, ymmword_ptr(r8 + 32))?;
                a.movd(r9d, xmm1)?;
                a.jmp(RIP + 0x100)
            }),
            Case("x87", kernel32(), |a| {
                a.fld(qword_ptr(eax))?;
                a.fstp(tword_ptr(esp + 4))?;
                a.jmp(RIP + 0x100)
            }),
        ],
    );
}

#[test]
fn windows() {
    check(
        "windows",
        &[
            Case("32 bits: operands", in_window(user32()), |a| {
                a.add(eax, dword_ptr(ebx + ecx * 4 + 16))?;
                a.mov(byte_ptr(0x8010), al)?;
                a.mov(edx, dword_ptr(0x14).gs())?;
                a.push(edx)?;
                a.pop(dword_ptr(esp + 4))?;
                a.leave()?;
                a.ret()
            }),
            Case("64 bits: operands", in_window(user64()), |a| {
                a.add(rax, qword_ptr(rbx + rcx * 4 + 16))?;
                a.mov(byte_ptr(rdi), al)?;
                a.mov(byte_ptr(rdi + 9), al)?;
                a.add(rdi, 16)?;
                a.mov(byte_ptr(rdi), al)?;
                a.mov(rdi, qword_ptr(rdi))?;
                a.mov(r9d, dword_ptr(rdi))?;
                a.xchg(qword_ptr(r9), r10)?;
                a.mov(edx, dword_ptr(0x28).fs())
            }),
            Case("64 bits: the stack", in_window(user64()), |a| {
                a.push(rbx)?;
                a.push(r9)?;
                a.sub(rsp, 24)?;
                a.mov(dword_ptr(rsp + 8), 1)?;
                a.add(rsp, 24)?;
                a.pop(r9)?;
                a.pop(rbx)?;
                a.ret()
            }),
        ],
    );
}
