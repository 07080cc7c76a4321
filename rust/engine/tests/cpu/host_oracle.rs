//! Random unprivileged code on the host's CPU and on each backend must leave the same state.
//!
//! A few seconds and always the same seed in CI.  RING3_FUZZ_SECONDS makes it run that long with
//! fresh seeds, RING3_FUZZ_SEED starts it elsewhere, RING3_FUZZ_ONLY keeps the codes whose name
//! contains one of the texts in it, which commas separate.

use crate::machine::{Ending, Machine, Mode, Outcome, PTE_ALL, at};
use crate::native::{self, After, CODE, Case, DATA, DATA_BYTES};
use crate::random::{Sequence, Step, Templates, vector_byte};
use engine::fault::{pf, vector};
use engine::state::flags;
use engine::translate::window::Policy;
use engine::vcpu::Backend;
use iced_x86::{Code, CodeSize, Formatter, Mnemonic, NasmFormatter};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

const CODE_FRAME: u64 = at::FREE + 0x1000;
const DATA_FRAME: u64 = at::FREE + 0x2000;
const BATCH: usize = 128;
/// Batches of one run in CI.
const BATCHES: u64 = 24;
const COMPARED_FLAGS: u64 = flags::ARITHMETIC | flags::DF | flags::AC;
/// Differences described in a failure's message.
const REPORTED: usize = 12;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A guest in ring 3 with code and data at the addresses that they have on the host.
struct Guest {
    machine: Machine,
}

impl Guest {
    fn new(bits: u32, backend: Backend, windows: Policy) -> Guest {
        let mode = if bits == 64 {
            Mode::Long { ring: 3 }
        } else {
            Mode::Pae32 { ring: 3 }
        };
        let mut machine = Machine::new(mode, backend);
        machine.vcpu.set_windows(windows);
        let table = at::FREE;
        machine.write_u64(at::PD64 + 8 * (CODE >> 21), table | PTE_ALL);
        let entry = |linear: u64| table + 8 * (linear >> 12 & 511);
        machine.write_u64(entry(CODE), CODE_FRAME | PTE_ALL);
        for page in (0..DATA_BYTES as u64).step_by(4096) {
            machine.write_u64(entry(DATA + page), (DATA_FRAME + page) | PTE_ALL);
        }
        Guest { machine }
    }

    fn run(&mut self, case: &Case) -> (Outcome, Box<After>) {
        let m = &mut self.machine;
        m.write(CODE_FRAME, &[0xCC; 256]);
        m.write(CODE_FRAME, &case.code[..case.code_bytes]);
        m.write(DATA_FRAME, &case.data);
        m.enter_mode();
        let cpu = &mut *m.vcpu.cpu;
        cpu.gpr = case.gpr;
        cpu.rip = CODE;
        cpu.rflags = case.rflags;
        cpu.fpu.0 = case.xsave;
        let outcome = m.run();
        let (vector, error_code) = match outcome.ending {
            Ending::Exception { vector, error_code } => (vector, error_code.unwrap_or(0)),
            _ => (0xFF, 0),
        };
        let after = After {
            vector,
            error_code: u64::from(error_code),
            cr2: m.vcpu.cpu.cr2,
            gpr: outcome.gpr,
            rip: outcome.rip,
            rflags: outcome.rflags,
            xsave: m.vcpu.cpu.fpu.0,
            data: m.read(DATA_FRAME),
        };
        (outcome, Box::new(after))
    }
}

/// What differs, in words; empty if nothing does.
fn differences(host: &After, guest: &After, steps: &[Step], backend: Backend) -> String {
    let mut out = String::new();
    // Far from the data something else may lie in the one address space and not in the other.
    let far = host.vector == vector::PF && host.cr2.wrapping_sub(DATA - 0x1_0000) > 0x3_0000;
    let code = |after: &After| after.error_code & if far { !u64::from(pf::P) } else { !0 };
    if (host.vector, code(host)) != (guest.vector, code(guest)) {
        let _ = write!(
            out,
            " vector {}({:x}) not {}({:x});",
            guest.vector, guest.error_code, host.vector, host.error_code
        );
    }
    // Of a wide or masked operand any byte of the page may be the one that faults.
    let narrow = |s: &Step| s.instruction.memory_size().size() <= 8 && !s.instruction.has_op_mask();
    let bits = if steps.iter().all(narrow) { 0 } else { 12 };
    if host.vector == vector::PF && host.cr2 >> bits != guest.cr2 >> bits {
        let _ = write!(out, " CR2 {:x} not {:x};", guest.cr2, host.cr2);
    }
    if host.rip != guest.rip {
        let _ = write!(out, " RIP {:x} not {:x};", guest.rip, host.rip);
    }
    let long = |s: &Step| s.instruction.code_size() == CodeSize::Code64;
    let long = steps.first().is_some_and(long);
    for (i, (h, g)) in host.gpr.iter().zip(guest.gpr).enumerate() {
        // The upper halves mean nothing outside of 64-bit mode.
        let mask = if long { u64::MAX } else { u64::from(u32::MAX) };
        if (*h ^ g) & mask != 0 {
            let _ = write!(out, " r{i} {g:x} not {h:x};");
        }
    }
    let mut mask = COMPARED_FLAGS & !undefined_at(host.rip, steps);
    if backend == Backend::Translate {
        mask &= !dead_at(host.rip, steps);
    }
    if (host.rflags ^ guest.rflags) & mask != 0 {
        let (g, h) = (guest.rflags & mask, host.rflags & mask);
        let _ = write!(out, " flags {g:x} not {h:x};");
    }
    if let Some(i) = (0..DATA_BYTES).find(|&i| host.data[i] != guest.data[i]) {
        let _ = write!(
            out,
            " [data+{i:x}] {:02x} not {:02x};",
            guest.data[i], host.data[i]
        );
    }
    fpu_differences(&host.xsave, &guest.xsave, &mut out);
    out
}

/// Whether the host was stopped in an instruction of which processors differ in what they have stored
/// by then.
fn half_done(host: &After, steps: &[Step]) -> bool {
    let last = steps.iter().find(|s| s.instruction.ip() == host.rip);
    last.is_some_and(|s| {
        matches!(
            s.instruction.mnemonic(),
            Mnemonic::Enter | Mnemonic::Pusha | Mnemonic::Pushad
        )
    })
}

/// Flags that nobody has defined when the code ended at `rip`.
fn undefined_at(rip: u64, steps: &[Step]) -> u64 {
    // INT3 reports the address behind it, faults the instruction's own.
    let executed = |s: &&Step| s.instruction.ip() < rip;
    let before = steps.iter().rfind(executed);
    before.map_or(0, |s| s.undefined_flags)
}

/// Arithmetic flags that a fault at `rip` may leave with any value: the instruction itself or one
/// after it overwrites them when the code is restarted, so `translate` has stopped to keep them.
fn dead_at(rip: u64, steps: &[Step]) -> u64 {
    let (mut dead, mut live) = (0, 0);
    for step in steps.iter().filter(|s| s.instruction.ip() >= rip) {
        live |= step.reads_flags & !dead;
        dead |= step.writes_flags & !live;
    }
    dead & flags::ARITHMETIC
}

fn u16_at(area: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([area[at], area[at + 1]])
}

/// Compares all but the pointers to the last x87 instruction and operand.
fn fpu_differences(host: &[u8], guest: &[u8], out: &mut String) {
    for (name, at) in [("FCW", 0), ("FSW", 2), ("FTW", 4), ("MXCSR", 24)] {
        let (h, g) = (u16_at(host, at), u16_at(guest, at));
        if h != g {
            let _ = write!(out, " {name} {g:x} not {h:x};");
        }
    }
    for i in 0..8 {
        let at = 32 + 16 * i..42 + 16 * i;
        if host[at.clone()] != guest[at.clone()] {
            let (g, h) = (hex(&guest[at.clone()]), hex(&host[at]));
            let _ = write!(out, " st{i} {g} not {h};");
        }
    }
    for register in 0..32 {
        let value = |area: &[u8]| -> Vec<u8> {
            let byte = |b| vector_byte(register, b).map(|at| present(area, register, b, at));
            (0..64).map_while(byte).collect()
        };
        let (h, g) = (value(host), value(guest));
        if h != g {
            let _ = write!(out, " zmm{register} {} not {};", hex(&g), hex(&h));
        }
    }
    if let [_, (at, length), ..] = native::components()
        && length > 0
    {
        let has = |area: &[u8]| area[512] & 1 << 5 != 0;
        let masks = |area: &[u8]| has(area).then(|| area[at..at + length].to_vec());
        let zero = || vec![0; length];
        let (h, g) = (masks(host), masks(guest));
        let (h, g) = (h.unwrap_or_else(zero), g.unwrap_or_else(zero));
        if h != g {
            let _ = write!(out, " k0-7 {} not {};", hex(&g), hex(&h));
        }
    }
}

/// A byte of a vector register, 0 if XSTATE_BV says that its component is in its initial state.
fn present(area: &[u8], register: usize, byte: usize, at: usize) -> u8 {
    let component = match (register, byte) {
        (16.., _) => 7,
        (_, 32..) => 6,
        (_, 16..) => 2,
        _ => 1,
    };
    if area[512] >> component & 1 != 0 {
        area[at]
    } else {
        0
    }
}

/// Little-endian bytes as one number.
fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
    let short = digits.trim_start_matches('0');
    if short.is_empty() { "0" } else { short }.to_owned()
}

fn text(steps: &[Step], case: &Case) -> String {
    let mut formatter = NasmFormatter::new();
    let mut out = String::new();
    for step in steps {
        let i = &step.instruction;
        let at = (i.ip() - CODE) as usize;
        let bytes = &case.code[at..at + i.len()];
        let bytes: String = bytes.iter().map(|b| format!("{b:02X}")).collect();
        let mut line = String::new();
        formatter.format(i, &mut line);
        let _ = write!(out, "\n      {:x} {bytes} {line}", i.ip());
    }
    out
}

/// Distinct differences found, by the code of the instruction at which the sequence ended or the
/// last one in it, and how often.
#[derive(Default)]
struct Findings {
    compared: usize,
    skipped: usize,
    by_code: BTreeMap<String, (usize, String)>,
}

impl Findings {
    fn compare(
        &mut self,
        seed: u64,
        (case, steps): (&Case, &[Step]),
        host: Option<&After>,
        guest: &mut Guest,
    ) {
        let Some(host) = host.filter(|h| h.vector != vector::UD && !half_done(h, steps)) else {
            self.skipped += 1;
            return;
        };
        self.compared += 1;
        let (outcome, after) = guest.run(case);
        let ended = matches!(outcome.ending, Ending::Exception { .. });
        let found = if ended {
            differences(host, &after, steps, guest.machine.vcpu.backend)
        } else {
            format!(" {:?}", outcome.ending)
        };
        if found.is_empty() {
            return;
        }
        let name = steps
            .last()
            .map_or(String::new(), |s| format!("{:?}", s.instruction.code()));
        let entry = self.by_code.entry(name).or_insert_with(|| {
            let registers: Vec<String> = case.gpr.iter().map(|r| format!("{r:x}")).collect();
            let before = format!(
                "seed {seed}, flags {:x}, {}",
                case.rflags,
                registers.join(" ")
            );
            (
                0,
                format!(
                    "{}\n    before: {before}\n    differs:{found}",
                    text(steps, case)
                ),
            )
        });
        entry.0 += 1;
    }

    fn check(&self) {
        let mut message = String::new();
        for (code, (count, first)) in self.by_code.iter().take(REPORTED) {
            let _ = write!(message, "\n  {code}, {count} times, first:{first}");
        }
        let more: Vec<_> = self.by_code.keys().skip(REPORTED).collect();
        assert!(
            self.by_code.is_empty(),
            "{} codes differ from the host's CPU ({} cases compared, {} skipped):{message}\n  also {more:?}",
            self.by_code.len(),
            self.compared,
            self.skipped,
        );
    }
}

/// Runs sequences of up to `length` instructions on host and guest.
fn fuzz(bits: u32, backend: Backend, windows: Policy, length: u64) {
    let only = std::env::var("RING3_FUZZ_ONLY").unwrap_or_default();
    let wanted = |code: Code| {
        only.split(',')
            .any(|part| format!("{code:?}").contains(part))
    };
    let templates = Templates::new(bits).only(wanted);
    assert!(templates.codes() > 0, "no code's name contains {only}");
    let mut seed = variable("RING3_FUZZ_SEED").unwrap_or(1);
    let until = variable("RING3_FUZZ_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
    let mut guest = Guest::new(bits, backend, windows);
    let mut findings = Findings::default();
    let mut batches = 0;
    while until.map_or(batches < BATCHES, |until| Instant::now() < until) {
        let first = seed + 1;
        let (cases, steps): (Vec<Case>, Vec<Vec<Step>>) = (0..BATCH)
            .map(|_| {
                seed += 1;
                let count = 1 + seed % length;
                Sequence::new(&templates, seed).generate(count as usize)
            })
            .unzip();
        let results = native::run(&cases);
        for ((at, (case, steps)), host) in (first..).zip(cases.iter().zip(&steps)).zip(&results) {
            findings.compare(at, (case, steps), host.as_deref(), &mut guest);
        }
        batches += 1;
    }
    assert!(
        findings.compared > findings.skipped,
        "most cases tell nothing"
    );
    findings.check();
}

#[test]
fn interp_computes_what_the_host_does_in_64_bit_mode() {
    fuzz(64, Backend::Interp, Policy::Never, 1);
}

#[test]
fn interp_computes_what_the_host_does_in_32_bit_mode() {
    fuzz(32, Backend::Interp, Policy::Never, 1);
}

#[test]
fn translate_computes_what_the_host_does_in_64_bit_mode() {
    fuzz(64, Backend::Translate, Policy::Never, 6);
}

#[test]
fn translate_computes_what_the_host_does_in_32_bit_mode() {
    fuzz(32, Backend::Translate, Policy::Never, 6);
}

#[test]
fn windows_compute_what_the_host_does_in_64_bit_mode() {
    fuzz(64, Backend::Translate, Policy::Always, 6);
}

#[test]
fn windows_compute_what_the_host_does_in_32_bit_mode() {
    fuzz(32, Backend::Translate, Policy::Always, 6);
}

#[test]
fn the_host_agrees_with_itself() {
    let templates = Templates::new(64);
    let cases: Vec<Case> = (0..BATCH as u64)
        .map(|seed| Sequence::new(&templates, seed).generate(4).0)
        .collect();
    let (first, second) = (native::run(&cases), native::run(&cases));
    for (a, b) in first.iter().zip(&second) {
        if let (Some(a), Some(b)) = (a, b) {
            assert_eq!((a.vector, a.rip, a.gpr), (b.vector, b.rip, b.gpr));
            assert!(a.xsave == b.xsave && a.data == b.data);
        }
    }
}
