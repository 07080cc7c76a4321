//! Text vectors: what an instruction does in a mode, one paragraph each, in tests/cpu/vectors/*.txt.
//!
//! ```text
//! add wraps and sets carry
//!   in     real pm32 long host64
//!   code   add eax, ebx
//!   before eax=FFFFFFFF ebx=1
//!   after  eax=0 flags=CPAZ
//! ```
//! The first line is the name.  `in` lists modes (`machine::Mode::NAMED`); `host32` and `host64` run
//! it on the host's own CPU as well, which so vouches for the vector.  `code` is NASM, a line each.
//! `before` and `after` hold items, numbers in hexadecimal, with the symbols of `Symbols` allowed:
//!   eax=…, rip=…    registers, whole: EAX=1 also says that the upper half is 0
//!   flags=CZ        C P A Z S O D I T, n = NT, r = RF, c = AC; the others are 0; `A?` is undefined
//!   iopl=3  ds=33   as they say; in real and V86 mode a paragraph
//!   cr0=…  dr7=…    `cr4|=…` sets bits and `cr0&~=…` clears them; so also efer, star, lstar, fmask,
//!                   kernel_gs, gs_base, sysenter_cs, sysenter_esp, sysenter_eip
//!   byte[data+4]=…  word dword qword, and `bytes[…]=` in memory order
//!   st0=… mm0=… xmm0=… ymm0=… fcw=… fsw=… ftw=… mxcsr=…
//!   intr=20         (before) the interrupt controller asks, with this vector
//! `fault #GP(18) at code+2` or `fault 21 at …` is the exception or interrupt that ends the code, and
//! the return address it pushes; `shutdown` is a triple fault.  Without them the code runs to its end.
//! General registers, flags and data that `after` does not list must be as before.

use crate::machine::{Ending, Machine, Mode, Outcome, at, hidden};
use crate::{nasm, native};
use engine::state::{CpuState, Segment, attr, flags, seg};
use engine::vcpu::{Backend, locked};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cpu/vectors");

/// Bytes of data that only listed stores may change.
const DATA_BYTES: usize = 0x2000;

/// Names of the addresses that a vector may use.
struct Symbols(BTreeMap<&'static str, u64>);

impl Symbols {
    fn guest() -> Symbols {
        Symbols(BTreeMap::from([
            ("code", at::CODE),
            ("data", at::DATA),
            ("stack", at::STACK),
            ("ring0", at::RING0_STACK),
            ("handlers", at::HANDLERS),
            ("gdt", at::GDT),
            ("idt", at::IDT32),
            ("idt64", at::IDT64),
            ("tss", at::TSS32),
            ("tss64", at::TSS64),
            ("pd", at::PD),
            ("pt", at::PT),
            ("pml4", at::PML4),
            ("pdpt", at::PDPT),
            ("pd64", at::PD64),
            ("pt64", at::PT64),
            ("free", at::FREE),
        ]))
    }

    fn host() -> Symbols {
        Symbols(BTreeMap::from([
            ("code", native::CODE),
            ("data", native::DATA),
            ("stack", native::DATA + 0x1F00),
        ]))
    }

    /// `symbol`, a hexadecimal number, or terms of both joined by + and -.
    fn evaluate(&self, text: &str) -> Result<u64, String> {
        let mut value = 0u64;
        let mut rest = text;
        let mut negative = false;
        loop {
            let end = rest.find(['+', '-']).unwrap_or(rest.len());
            let term = &rest[..end];
            let number = match self.0.get(term) {
                Some(address) => *address,
                None => u64::from_str_radix(term, 16).map_err(|_| format!("`{text}`?"))?,
            };
            value = if negative {
                value.wrapping_sub(number)
            } else {
                value.wrapping_add(number)
            };
            if end == rest.len() {
                return Ok(value);
            }
            negative = rest.as_bytes()[end] == b'-';
            rest = &rest[end + 1..];
        }
    }
}

/// `name op value`, or `size[address]=value`.
#[derive(Clone, Debug)]
struct Item {
    name: String,
    address: Option<String>,
    operator: String,
    value: String,
}

impl Item {
    fn parse(text: &str) -> Result<Item, String> {
        let at = text.find('=').ok_or(format!("`{text}` has no ="))?;
        let (mut left, value) = (&text[..at], &text[at + 1..]);
        let mut operator = "=";
        for other in ["|", "&~"] {
            if let Some(short) = left.strip_suffix(other) {
                (left, operator) = (short, other);
            }
        }
        let (name, address) = match left.split_once('[') {
            Some((name, rest)) => (name, Some(rest.trim_end_matches(']').to_owned())),
            None => (left, None),
        };
        Ok(Item {
            name: name.to_owned(),
            address,
            operator: operator.to_owned(),
            value: value.to_owned(),
        })
    }
}

#[derive(Clone, Debug, Default)]
struct Vector {
    name: String,
    line: usize,
    modes: Vec<String>,
    code: Vec<String>,
    before: Vec<Item>,
    after: Vec<Item>,
    /// Vector, error code, address pushed.
    fault: Option<(u8, Option<String>, String)>,
    shutdown: bool,
}

const EXCEPTIONS: [(&str, u8); 17] = [
    ("#DE", 0),
    ("#DB", 1),
    ("#NMI", 2),
    ("#BP", 3),
    ("#OF", 4),
    ("#BR", 5),
    ("#UD", 6),
    ("#NM", 7),
    ("#DF", 8),
    ("#TS", 10),
    ("#NP", 11),
    ("#SS", 12),
    ("#GP", 13),
    ("#PF", 14),
    ("#MF", 16),
    ("#AC", 17),
    ("#XM", 19),
];

impl Vector {
    fn parse_fault(&mut self, text: &str) -> Result<(), String> {
        let (what, place) = text.split_once(" at ").ok_or("fault without `at`")?;
        let (name, code) = match what.split_once('(') {
            Some((name, code)) => (name, Some(code.trim_end_matches(')').to_owned())),
            None => (what, None),
        };
        let known = EXCEPTIONS.iter().find(|(n, _)| *n == name);
        let vector = match known {
            Some((_, vector)) => *vector,
            None => u8::from_str_radix(name, 16).map_err(|_| format!("`{name}`?"))?,
        };
        self.fault = Some((vector, code, place.trim().to_owned()));
        Ok(())
    }

    fn parse_line(&mut self, line: &str) -> Result<(), String> {
        let line = line.trim();
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        let items = || {
            rest.split_whitespace()
                .map(Item::parse)
                .collect::<Result<Vec<_>, _>>()
        };
        match key {
            "in" => self
                .modes
                .extend(rest.split_whitespace().map(str::to_owned)),
            "code" => self.code.push(rest.to_owned()),
            "before" => self.before.extend(items()?),
            "after" => self.after.extend(items()?),
            "fault" => self.parse_fault(rest)?,
            "shutdown" => self.shutdown = true,
            _ => return Err(format!("`{key}`?")),
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Vec<Vector>, String> {
    let mut vectors: Vec<Vector> = vec![];
    for (i, line) in text.lines().enumerate() {
        let line = line
            .split('#')
            .next()
            .filter(|_| line.starts_with('#'))
            .unwrap_or(line);
        if line.trim().is_empty() {
            continue;
        }
        if !line.starts_with(' ') {
            vectors.push(Vector {
                name: line.trim().to_owned(),
                line: i + 1,
                ..Vector::default()
            });
            continue;
        }
        let vector = vectors.last_mut().ok_or("no name before the first line")?;
        vector
            .parse_line(line)
            .map_err(|e| format!("line {}: {e}", i + 1))?;
    }
    Ok(vectors)
}

/// Code of each vector for each operand size in `bits`, by one run of NASM: a section each, all at
/// the address of the code.
fn assemble(
    file: &Path,
    vectors: &[Vector],
    symbols: &Symbols,
    bits_of: impl Fn(&str) -> Option<u32>,
) -> BTreeMap<(usize, u32), Vec<u8>> {
    let mut wanted: Vec<(usize, u32)> = vec![];
    for (i, vector) in vectors.iter().enumerate() {
        let mut sizes: Vec<u32> = vector.modes.iter().filter_map(|m| bits_of(m)).collect();
        sizes.sort_unstable();
        sizes.dedup();
        wanted.extend(sizes.into_iter().map(|bits| (i, bits)));
    }
    let mut source = String::new();
    for (name, address) in &symbols.0 {
        source += &format!("{name} equ 0x{address:x}\n");
    }
    source += "section .table\n";
    for (i, bits) in &wanted {
        source += &format!("dd section..v{i}_{bits}.start, e{i}_{bits} - b{i}_{bits}\n");
    }
    for (i, bits) in &wanted {
        let code = vectors[*i].code.join("\n");
        source += &format!(
            "section .v{i}_{bits} align=1 vstart=code\nbits {bits}\nb{i}_{bits}:\n{code}\ne{i}_{bits}:\n"
        );
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let image = nasm::assemble(&stem, &source);
    let word =
        |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap_or_default()) as usize;
    let part = |n: usize| image[word(8 * n)..][..word(8 * n + 4)].to_vec();
    wanted
        .iter()
        .enumerate()
        .map(|(n, key)| (*key, part(n)))
        .collect()
}

fn files() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(FOLDER).expect("tests/cpu/vectors");
    let mut files: Vec<PathBuf> = folder.flatten().map(|f| f.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    files
}

// --- names of registers ---

const GPR: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

fn gpr_number(name: &str) -> Option<usize> {
    let short = name.strip_prefix(['e', 'r']).unwrap_or(name);
    GPR.iter().position(|n| *n == short).or_else(|| {
        let n: usize = name.strip_prefix('r')?.parse().ok()?;
        (8..16).contains(&n).then_some(n)
    })
}

const FLAGS: [(char, u64); 12] = [
    ('C', flags::CF),
    ('P', flags::PF),
    ('A', flags::AF),
    ('Z', flags::ZF),
    ('S', flags::SF),
    ('O', flags::OF),
    ('D', flags::DF),
    ('I', flags::IF),
    ('T', flags::TF),
    ('n', flags::NT),
    ('r', flags::RF),
    ('c', flags::AC),
];

/// Flags that are compared where `after` does not say.
const KEPT_FLAGS: u64 =
    flags::ARITHMETIC | flags::DF | flags::IF | flags::TF | flags::NT | flags::AC;

/// Flags set, and flags undefined.
fn parse_flags(text: &str) -> Result<(u64, u64), String> {
    let (mut set, mut undefined, mut last) = (0, 0, 0);
    for c in text.chars().filter(|c| *c != '-') {
        if c == '?' {
            set &= !last;
            undefined |= last;
            continue;
        }
        last = FLAGS
            .iter()
            .find(|f| f.0 == c)
            .ok_or(format!("flag {c}?"))?
            .1;
        set |= last;
    }
    Ok((set, undefined))
}

/// Control, debug and model-specific registers by name.
fn system_register<'a>(cpu: &'a mut CpuState, name: &str) -> Option<&'a mut u64> {
    Some(match name {
        "cr0" => &mut cpu.cr0,
        "cr2" => &mut cpu.cr2,
        "cr3" => &mut cpu.cr3,
        "cr4" => &mut cpu.cr4,
        "efer" => &mut cpu.efer,
        "star" => &mut cpu.msr.star,
        "lstar" => &mut cpu.msr.lstar,
        "fmask" => &mut cpu.msr.fmask,
        "kernel_gs" => &mut cpu.msr.kernel_gs_base,
        "gs_base" => &mut cpu.seg[seg::GS].base,
        "sysenter_cs" => &mut cpu.msr.sysenter_cs,
        "sysenter_esp" => &mut cpu.msr.sysenter_esp,
        "sysenter_eip" => &mut cpu.msr.sysenter_eip,
        _ => {
            let n: usize = name.strip_prefix("dr")?.parse().ok()?;
            cpu.dr.get_mut(n)?
        }
    })
}

/// Where the XSAVE area holds a register: pieces in order of significance.
fn fpu_register(name: &str, area: &[u8]) -> Option<Vec<std::ops::Range<usize>>> {
    let indexed = |prefix: &str| name.strip_prefix(prefix)?.parse::<usize>().ok();
    let slot = |i: usize, bytes: usize| std::iter::once(32 + 16 * i..32 + 16 * i + bytes).collect();
    if let Some(i) = indexed("st").filter(|i| *i < 8) {
        return Some(slot(i, 10));
    }
    if let Some(i) = indexed("mm").filter(|i| *i < 8) {
        let top = usize::from(area[3] >> 3 & 7);
        return Some(slot((i + 8 - top) % 8, 8));
    }
    let vector = |i: usize, bytes: usize| -> Option<Vec<_>> {
        (0..bytes)
            .map(|b| crate::random::vector_byte(i, b).map(|at| at..at + 1))
            .collect()
    };
    if let Some(i) = indexed("xmm").filter(|i| *i < 16) {
        return vector(i, 16);
    }
    if let Some(i) = indexed("ymm").filter(|i| *i < 16) {
        return vector(i, 32);
    }
    let plain = match name {
        "fcw" => 0..2,
        "fsw" => 2..4,
        "ftw" => 4..5,
        "mxcsr" => 24..28,
        _ => return None,
    };
    Some(vec![plain])
}

/// Hexadecimal digits as little-endian bytes.
fn digits(text: &str, bytes: usize) -> Result<Vec<u8>, String> {
    let padded = format!("{text:0>width$}", width = 2 * bytes);
    if padded.len() != 2 * bytes {
        return Err(format!("`{text}` is not {bytes} bytes"));
    }
    let byte =
        |i: usize| u8::from_str_radix(&padded[i..i + 2], 16).map_err(|_| format!("`{text}`?"));
    (0..bytes).rev().map(|i| byte(2 * i)).collect()
}

/// The bytes that a memory item stands for; None if the item is a register.
fn memory_item(item: &Item, symbols: &Symbols) -> Option<Result<(u64, Vec<u8>), String>> {
    let address = item.address.as_ref()?;
    let bytes = match item.name.as_str() {
        "byte" => 1,
        "word" => 2,
        "dword" => 4,
        "qword" => 8,
        _ => 0,
    };
    let value = || {
        if bytes == 0 {
            let mut value = digits(&item.value, item.value.len().div_ceil(2))?;
            value.reverse();
            return Ok::<Vec<u8>, String>(value);
        }
        Ok(symbols.evaluate(&item.value)?.to_le_bytes()[..bytes].to_vec())
    };
    Some(symbols.evaluate(address).and_then(|a| Ok((a, value()?))))
}

/// A selector with the hidden part that loading it would give.
fn segment(machine: &Machine, index: usize, selector: u16) -> Segment {
    if matches!(machine.mode, Mode::Real | Mode::V86) {
        return Segment::real(selector, machine.vcpu.cpu.seg[index].attributes);
    }
    if selector & !3 == 0 {
        return Segment {
            attributes: attr::UNUSABLE,
            selector,
            ..Segment::default()
        };
    }
    let entry = machine.read(at::GDT + u64::from(selector & !7));
    hidden(selector, u64::from_le_bytes(entry))
}

struct Run<'a> {
    vector: &'a Vector,
    symbols: &'a Symbols,
    code: &'a [u8],
}

impl Run<'_> {
    /// Runs the vector in a guest; what is wrong, if anything.
    fn in_guest(&self, mode: Mode, backend: Backend) -> Result<(), String> {
        let mut machine = Machine::new(mode, backend);
        machine.write(at::CODE, self.code);
        machine.write(at::CODE + self.code.len() as u64, &[0xF4]);
        let mut items = self.vector.before.clone();
        // Descriptors must be in memory before selectors are loaded.
        items.sort_by_key(|i| i.address.is_none());
        for item in &items {
            self.set(&mut machine, item)?;
        }
        machine.vcpu.flush_tlb_all();
        let before = machine.vcpu.cpu.clone();
        let data: [u8; DATA_BYTES] = machine.read(at::DATA);
        let outcome = machine.run();
        let mut problems = vec![];
        self.check_ending(&outcome, mode, &mut problems);
        self.check_registers(&before, &outcome, backend, &mut problems)?;
        self.check_items(&mut machine, &outcome, &mut problems)?;
        self.check_data(&machine, data, &mut problems)?;
        if problems.is_empty() {
            return Ok(());
        }
        Err(problems.join(", "))
    }

    fn set(&self, machine: &mut Machine, item: &Item) -> Result<(), String> {
        if let Some(memory) = memory_item(item, self.symbols) {
            let (address, bytes) = memory?;
            machine.write(address, &bytes);
            return Ok(());
        }
        if let Some(i) = SEGMENTS.iter().position(|n| *n == item.name) {
            let selector = self.symbols.evaluate(&item.value)? as u16;
            machine.vcpu.cpu.seg[i] = segment(machine, i, selector);
            return Ok(());
        }
        let cpu = &mut *machine.vcpu.cpu;
        if let Some(pieces) = fpu_register(&item.name, &cpu.fpu.0) {
            let bytes = pieces.iter().map(|p| p.len()).sum();
            let value = digits(&item.value, bytes)?;
            for (place, byte) in pieces.into_iter().flatten().zip(value) {
                cpu.fpu.0[place] = byte;
            }
            cpu.fpu.0[512] |= 7;
            return Ok(());
        }
        if item.name == "flags" {
            cpu.rflags = cpu.rflags & !KEPT_FLAGS | parse_flags(&item.value)?.0;
            return Ok(());
        }
        let value = self.symbols.evaluate(&item.value)?;
        if let Some(i) = gpr_number(&item.name) {
            cpu.gpr[i] = value;
        } else if let Some(register) = system_register(cpu, &item.name) {
            match item.operator.as_str() {
                "|" => *register |= value,
                "&~" => *register &= !value,
                _ => *register = value,
            }
        } else if item.name == "iopl" {
            cpu.rflags = cpu.rflags & !flags::IOPL | value << 12;
        } else if item.name == "intr" {
            request_interrupt(machine, value as u8);
        } else {
            return Err(format!("`{}`?", item.name));
        }
        Ok(())
    }

    /// Address of the end of the code.
    fn end(&self) -> u64 {
        self.symbols.0["code"] + self.code.len() as u64
    }

    fn check_ending(&self, outcome: &Outcome, mode: Mode, problems: &mut Vec<String>) {
        let vector = self.vector;
        // HLT behind the code: in ring 3 a general-protection fault.
        let natural = match outcome.ending {
            Ending::Halt => true,
            Ending::Exception { vector, .. } => {
                vector == 13 && mode.ring() == 3 && outcome.rip == self.end()
            }
            _ => false,
        };
        let expected = match &vector.fault {
            Some((number, code, _)) => {
                let code = code
                    .as_ref()
                    .map(|c| u32::from_str_radix(c, 16).unwrap_or(u32::MAX));
                outcome.ending
                    == (Ending::Exception {
                        vector: *number,
                        error_code: code,
                    })
            }
            None if vector.shutdown => outcome.ending == Ending::Shutdown,
            None => natural,
        };
        if !expected {
            problems.push(format!(
                "ended by {:x?} at {:x}",
                outcome.ending, outcome.rip
            ));
        }
        let halted = matches!(outcome.ending, Ending::Halt);
        let place = match &vector.fault {
            Some((_, _, place)) => self.symbols.evaluate(place).unwrap_or(0),
            None => self.end() + u64::from(halted),
        };
        let said = vector
            .after
            .iter()
            .any(|i| matches!(i.name.as_str(), "eip" | "rip"));
        if !vector.shutdown && !said && outcome.rip != place {
            problems.push(format!("RIP {:x} not {place:x}", outcome.rip));
        }
    }

    /// General registers and flags: as `after` says, or as before.
    fn check_registers(
        &self,
        before: &CpuState,
        outcome: &Outcome,
        backend: Backend,
        problems: &mut Vec<String>,
    ) -> Result<(), String> {
        if self.vector.shutdown {
            return Ok(());
        }
        let mut gpr = before.gpr;
        let (mut set, mut undefined) = (before.rflags & KEPT_FLAGS, 0);
        for item in &self.vector.after {
            if let Some(i) = gpr_number(&item.name) {
                gpr[i] = self.symbols.evaluate(&item.value)?;
            } else if item.name == "flags" {
                (set, undefined) = parse_flags(&item.value)?;
            }
        }
        for (i, (expected, is)) in gpr.iter().zip(outcome.gpr).enumerate() {
            if *expected != is {
                let name = GPR.get(i).map_or(format!("r{i}"), |n| format!("r{n}"));
                problems.push(format!("{name} {is:x} not {expected:x}"));
            }
        }
        let said = self.vector.after.iter().any(|i| i.name == "flags");
        if backend == Backend::Translate && self.vector.fault.is_some() && !said {
            // Flags that the restarted instruction overwrites may have any value.
            undefined |= flags::ARITHMETIC;
        }
        let mask = (KEPT_FLAGS | set) & !undefined;
        if (outcome.rflags ^ set) & mask != 0 {
            let letters = |value: u64| -> String {
                let set = FLAGS.iter().filter(|f| value & mask & f.1 != 0);
                set.map(|f| f.0).collect()
            };
            problems.push(format!(
                "flags {} not {}",
                letters(outcome.rflags),
                letters(set)
            ));
        }
        Ok(())
    }

    /// Everything else that `after` lists.
    fn check_items(
        &self,
        machine: &mut Machine,
        outcome: &Outcome,
        problems: &mut Vec<String>,
    ) -> Result<(), String> {
        for item in &self.vector.after {
            if let Some(memory) = memory_item(item, self.symbols) {
                let (address, expected) = memory?;
                let is: [u8; 64] = machine.read(address);
                if !is.starts_with(&expected) {
                    let is = &is[..expected.len()];
                    problems.push(format!("[{address:x}] {is:02x?} not {expected:02x?}"));
                }
                continue;
            }
            let cpu = &mut *machine.vcpu.cpu;
            if let Some(pieces) = fpu_register(&item.name, &cpu.fpu.0) {
                let expected = digits(&item.value, pieces.iter().map(|p| p.len()).sum())?;
                let is: Vec<u8> = pieces.into_iter().flatten().map(|i| cpu.fpu.0[i]).collect();
                if is != expected {
                    problems.push(format!("{} {is:02x?} not {expected:02x?}", item.name));
                }
                continue;
            }
            if gpr_number(&item.name).is_some() || item.name == "flags" {
                continue;
            }
            let expected = self.symbols.evaluate(&item.value)?;
            let is = match item.name.as_str() {
                "eip" | "rip" => outcome.rip,
                "cs" => u64::from(outcome.cs),
                "ss" => u64::from(outcome.ss),
                "iopl" => (outcome.rflags & flags::IOPL) >> 12,
                name => {
                    let segment = SEGMENTS.iter().position(|n| *n == name);
                    let selector = segment.map(|i| u64::from(cpu.seg[i].selector));
                    let system = system_register(cpu, name).map(|r| *r);
                    selector.or(system).ok_or(format!("`{name}`?"))?
                }
            };
            if is != expected {
                problems.push(format!("{} {is:x} not {expected:x}", item.name));
            }
        }
        Ok(())
    }

    /// Data that `after` does not list must be as before.
    fn check_data(
        &self,
        machine: &Machine,
        mut expected: [u8; DATA_BYTES],
        problems: &mut Vec<String>,
    ) -> Result<(), String> {
        for memory in self
            .vector
            .after
            .iter()
            .filter_map(|i| memory_item(i, self.symbols))
        {
            let (address, bytes) = memory?;
            if let Some(offset) = address.checked_sub(at::DATA)
                && let Some(place) =
                    expected.get_mut(offset as usize..offset as usize + bytes.len())
            {
                place.copy_from_slice(&bytes);
            }
        }
        let is: [u8; DATA_BYTES] = machine.read(at::DATA);
        if let Some(i) = (0..DATA_BYTES).find(|&i| is[i] != expected[i]) {
            problems.push(format!(
                "[data+{i:x}] {:02x} not {:02x}",
                is[i], expected[i]
            ));
        }
        Ok(())
    }

    /// Runs the vector on the host's CPU.
    fn on_host(&self, bits: u32) -> Result<(), String> {
        // A guest only to hold and compare state; nothing runs in it.
        let mode = if bits == 64 {
            Mode::Long { ring: 3 }
        } else {
            Mode::Pm32 { ring: 3 }
        };
        let mut holder = Machine::new(mode, Backend::Interp);
        let (host, guest) = (self.symbols, Symbols::guest());
        let stack = host.0["stack"];
        holder.vcpu.cpu.gpr[4] = stack;
        for item in self.vector.before.iter().filter(|i| i.address.is_none()) {
            self.set(&mut holder, item)?;
        }
        let mut case = native::Case {
            code: [0xCC; 120],
            code_bytes: self.code.len(),
            bits,
            gpr: holder.vcpu.cpu.gpr,
            rflags: holder.vcpu.cpu.rflags,
            xsave: holder.vcpu.cpu.fpu.0,
            data: [0; native::DATA_BYTES],
        };
        case.xsave[512] |= 3;
        case.code[..self.code.len()].copy_from_slice(self.code);
        for memory in self
            .vector
            .before
            .iter()
            .filter_map(|i| memory_item(i, host))
        {
            let (address, bytes) = memory?;
            let offset = (address - native::DATA) as usize;
            case.data[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        let before = holder.vcpu.cpu.clone();
        let results = native::run(std::slice::from_ref(&case));
        let Some(Some(after)) = results.first() else {
            return Err("took the host's process with it".to_owned());
        };
        let natural = after.vector == 3 && after.rip == self.end() + 1;
        let vector = self.vector;
        let error_code =
            |v: u8| crate::machine::has_error_code(v).then_some(after.error_code as u32);
        let outcome = Outcome {
            ending: if natural {
                Ending::Halt
            } else {
                Ending::Exception {
                    vector: after.vector,
                    error_code: error_code(after.vector),
                }
            },
            gpr: after.gpr,
            rip: after.rip,
            rflags: after.rflags & !flags::IF,
            cs: 0,
            ss: 0,
            pushed_flags: None,
        };
        holder.vcpu.cpu.fpu.0 = after.xsave;
        holder.vcpu.cpu.cr2 = after.cr2;
        holder.write(guest.0["data"], &after.data);
        let mut problems = vec![];
        self.check_ending(&outcome, mode, &mut problems);
        self.check_registers(&before, &outcome, Backend::Interp, &mut problems)?;
        for item in vector.after.iter().filter(|i| i.address.is_none()) {
            let only = Vector {
                after: vec![item.clone()],
                ..Vector::default()
            };
            let run = Run {
                vector: &only,
                symbols: host,
                code: self.code,
            };
            run.check_items(&mut holder, &outcome, &mut problems)?;
        }
        for memory in vector.after.iter().filter_map(|i| memory_item(i, host)) {
            let (address, bytes) = memory?;
            let offset = (address - native::DATA) as usize;
            if !after.data[offset..].starts_with(&bytes) {
                let is = &after.data[offset..offset + bytes.len()];
                problems.push(format!("[data+{offset:x}] {is:02x?} not {bytes:02x?}"));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(problems.join(", "))
    }
}

/// INTR goes high until its vector is fetched; the local APIC lets it through (virtual wire mode,
/// SDM vol. 3, 12.5.1).
fn request_interrupt(machine: &mut Machine, vector: u8) {
    const SPURIOUS_VECTOR: u64 = 0xF0;
    const LVT_LINT0: u64 = 0x350;
    machine.vcpu.apic_write(SPURIOUS_VECTOR, 4, 0x1FF);
    machine.vcpu.apic_write(LVT_LINT0, 4, 0x700);
    let shared = &machine.vcpu.shared;
    let weak = Arc::downgrade(shared);
    *locked(&shared.acknowledge) = Some(Arc::new(Box::new(move || {
        if let Some(shared) = weak.upgrade() {
            shared.set_intr(false);
        }
        vector
    })));
    shared.set_intr(true);
}

/// Runs all vectors in all of their places that `place` accepts.
fn check_all(
    symbols: &Symbols,
    bits_of: impl Fn(&str) -> Option<u32> + Copy,
    run: impl Fn(&Run, &str, u32) -> Result<(), String>,
) {
    let only = std::env::var("RING3_VECTOR").unwrap_or_default();
    let mut failed = vec![];
    let mut count = 0;
    for file in files() {
        let text = std::fs::read_to_string(&file).expect("a vector file");
        let stem = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let vectors = parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let codes = assemble(&file, &vectors, symbols, bits_of);
        for (i, vector) in vectors.iter().enumerate() {
            for mode in vector.modes.iter().filter(|_| vector.name.contains(&only)) {
                let Some(bits) = bits_of(mode) else { continue };
                let run_of = Run {
                    vector,
                    symbols,
                    code: &codes[&(i, bits)],
                };
                count += 1;
                if let Err(e) = run(&run_of, mode, bits) {
                    failed.push(format!(
                        "{stem}.txt:{} {} ({mode}): {e}",
                        vector.line, vector.name
                    ));
                }
            }
        }
    }
    assert!(count > 0, "no vector is called {only}");
    assert!(
        failed.is_empty(),
        "{} of {count} runs failed:\n  {}",
        failed.len(),
        failed.join("\n  ")
    );
}

fn mode_named(name: &str) -> Option<Mode> {
    Mode::NAMED.iter().find(|m| m.0 == name).map(|m| m.1)
}

fn check_backend(backend: Backend) {
    check_all(
        &Symbols::guest(),
        |name| mode_named(name).map(Mode::bits),
        |run, mode, _| {
            let mode = mode_named(mode).ok_or("no such mode")?;
            run.in_guest(mode, backend)
        },
    );
}

#[test]
fn interp_does_what_the_vectors_say() {
    check_backend(Backend::Interp);
}

#[test]
fn translate_does_what_the_vectors_say() {
    check_backend(Backend::Translate);
}

#[test]
fn the_host_agrees_with_the_vectors() {
    let bits_of = |name: &str| match name {
        "host32" => Some(32),
        "host64" => Some(64),
        _ => None,
    };
    check_all(&Symbols::host(), bits_of, |run, _, bits| run.on_host(bits));
}

#[test]
fn every_mode_of_the_vectors_exists() {
    for file in files() {
        let text = std::fs::read_to_string(&file).expect("a vector file");
        for vector in parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display())) {
            let (name, line) = (&vector.name, vector.line);
            assert!(
                !vector.modes.is_empty(),
                "{}:{line} {name} runs nowhere",
                file.display()
            );
            for mode in &vector.modes {
                let host = mode == "host32" || mode == "host64";
                assert!(
                    host || mode_named(mode).is_some(),
                    "{}:{line} {mode}",
                    file.display()
                );
            }
        }
    }
}
