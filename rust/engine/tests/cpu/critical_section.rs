//! The critical section of the 1999 talk, interrupted wherever it can be.
//!
//!     pushfd / cli / mov eax,[x] / cmp / je / mov [x],… / popfd / add …
//!
//! In ring 0 an interrupt is seen before CLI or after POPFD, never in between.

use crate::machine::{Ending, Machine, Mode, at};
use crate::nasm;
use engine::io::Device;
use engine::state::flags;
use engine::vcpu::{Backend, Shared, locked};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

const VECTOR: u8 = 0x20;
const PORT: u16 = 0x80;

/// Interrupts of the storm.
const INTERRUPTS: u64 = 60;

/// The section, an instruction a line, `x` being the first doubleword of the data.
const SECTION: [&str; 9] = [
    "pushfd",
    "cli",
    "mov eax, [x]",
    "cmp eax, ebx",
    "je stored",
    "mov [x], ebx",
    "mov [twin], ebx",
    "stored: popfd",
    "add ecx, ebx",
];
/// The first instruction that an interrupt must not see, and the first that it may see again.
const CLOSED: usize = 2;
const OPEN: usize = 8;

/// Raises INTR at the n-th access; the vector's fetch lowers it.
struct Trigger {
    shared: Weak<Shared>,
    left: AtomicU64,
}

impl Device for Trigger {
    fn read(&self, _: u64, _: u8) -> u64 {
        0
    }

    fn write(&self, _: u64, _: u8, _: u64) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1
            && let Some(shared) = self.shared.upgrade()
        {
            shared.set_intr(true);
        }
    }
}

/// Lets INTR through the local APIC, and lowers it when its vector is fetched.
fn wire_interrupts(machine: &mut Machine) {
    const SPURIOUS_VECTOR: u64 = 0xF0;
    const LVT_LINT0: u64 = 0x350;
    machine.vcpu.apic_write(SPURIOUS_VECTOR, 4, 0x1FF);
    machine.vcpu.apic_write(LVT_LINT0, 4, 0x700);
    let weak = Arc::downgrade(&machine.vcpu.shared);
    *locked(&machine.vcpu.shared.acknowledge) = Some(Arc::new(Box::new(move || {
        if let Some(shared) = weak.upgrade() {
            shared.set_intr(false);
        }
        VECTOR
    })));
}

fn program(body: &str) -> Vec<u8> {
    let source = format!(
        "bits 32\norg 0x{:x}\nx equ 0x{:x}\ntwin equ x + 4\nINTERRUPTS equ {INTERRUPTS}\n{body}\n",
        at::CODE,
        at::DATA
    );
    nasm::assemble("critical-section", &source)
}

/// The section in a loop of ten, with an access to the port before instruction `place`.
fn triggered(place: usize) -> String {
    let mut lines = vec!["again:"];
    for (i, line) in SECTION.iter().enumerate() {
        if i == place {
            lines.push("out 0x80, al");
        }
        lines.push(line);
    }
    lines.extend(["inc ebx", "cmp ebx, 10", "jb again", "hlt"]);
    lines.join("\n")
}

/// Where the interrupt of the `nth` access came, and what it found.
fn interrupted(backend: Backend, code: &[u8], nth: u64) -> (u64, u64, [u64; 16], [u8; 8]) {
    let mut machine = Machine::new(Mode::Pm32 { ring: 0 }, backend);
    wire_interrupts(&mut machine);
    let trigger = Trigger {
        shared: Arc::downgrade(&machine.vcpu.shared),
        left: AtomicU64::new(nth),
    };
    let io = &machine.vcpu.vm.io;
    io.map_ports(PORT, 1, 1, Arc::new(trigger))
        .expect("a free port");
    machine.write(at::CODE, code);
    machine.vcpu.cpu.rflags |= flags::IF;
    let outcome = machine.run();
    let expected = Ending::Exception {
        vector: VECTOR,
        error_code: None,
    };
    assert_eq!(outcome.ending, expected);
    (
        outcome.rip,
        outcome.rflags,
        outcome.gpr,
        machine.read(at::DATA),
    )
}

#[test]
fn an_interrupt_at_each_boundary_is_seen_alike_by_both_backends() {
    for (place, instruction) in SECTION.iter().enumerate() {
        let code = program(&triggered(place));
        for nth in [1, 2, 9] {
            let expected = interrupted(Backend::Interp, &code, nth);
            let is = interrupted(Backend::Translate, &code, nth);
            assert_eq!(is, expected, "before {instruction}, pass {nth}");
        }
    }
}

#[test]
fn no_boundary_of_the_section_lets_an_interrupt_in() {
    for place in 0..SECTION.len() {
        let lines = triggered(place).replace(SECTION[OPEN], "open: add ecx, ebx");
        let lines = lines.replace(SECTION[CLOSED], "closed: mov eax, [x]");
        let code = program(&format!("dd closed, open\n{lines}"));
        let address = |i: usize| {
            u64::from(u32::from_le_bytes([
                code[i],
                code[i + 1],
                code[i + 2],
                code[i + 3],
            ]))
        };
        let (closed, open) = (address(0), address(4));
        let body: Vec<u8> = std::iter::repeat_n(0x90, 8)
            .chain(code[8..].iter().copied())
            .collect();
        for backend in [Backend::Interp, Backend::Translate] {
            let (rip, rflags, _, data) = interrupted(backend, &body, 3);
            assert!(!(closed..open).contains(&rip), "{backend:?} at {rip:x}");
            assert!(rflags & flags::IF != 0);
            assert_eq!(data[..4], data[4..], "{backend:?}: half of the section");
        }
    }
}

/// The handler counts broken rules in `bad`; the loop stops after INTERRUPTS.
const STORM: &str = "
    again:
        inc     ebx
        pushfd
        cli
    closed:
        mov     eax, [x]
        cmp     eax, ebx
        je      stored
        mov     [x], ebx
        mov     [twin], ebx
    stored:
        popfd
    open:
        add     ecx, ebx
        cmp     dword [seen], INTERRUPTS
        jb      again
        cli
        hlt
    handler:
        push    eax
        inc     dword [seen]
        mov     eax, [esp + 4]
        cmp     eax, closed
        jb      outside
        cmp     eax, open
        jb      broken
    outside:
        mov     eax, [x]
        cmp     eax, [twin]
        je      done
    broken:
        inc     dword [bad]
    done:
        pop     eax
        iretd
    seen equ x + 8
    bad equ x + 12
";

/// Interrupts that the storm's handler has counted.
fn seen(machine: &Machine) -> u64 {
    u64::from(u32::from_le_bytes(machine.read(at::DATA + 8)))
}

#[test]
fn a_storm_of_interrupts_never_sees_the_section() {
    for backend in [Backend::Interp, Backend::Translate] {
        let code = program(&format!("jmp again\ndd handler\n{STORM}"));
        let jump = if code[0] == 0xEB { 2 } else { 5 };
        let handler =
            u32::from_le_bytes([code[jump], code[jump + 1], code[jump + 2], code[jump + 3]]);
        let mut machine = Machine::new(Mode::Pm32 { ring: 0 }, backend);
        wire_interrupts(&mut machine);
        machine.write(at::CODE, &code);
        let gate = at::IDT32 + 8 * u64::from(VECTOR);
        machine.write(gate, &(handler as u16).to_le_bytes());
        machine.vcpu.cpu.rflags |= flags::IF;
        let (shared, over) = (
            machine.vcpu.shared.clone(),
            Arc::new(AtomicBool::new(false)),
        );
        let outcome = std::thread::scope(|scope| {
            let done = over.clone();
            scope.spawn(move || {
                for n in 0..INTERRUPTS * 2 {
                    while shared.intr() && !done.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                    // Not always at the first boundary that lets it in.
                    (0..n * 37 % 1024).for_each(|_| std::hint::spin_loop());
                    shared.set_intr(true);
                }
            });
            // On a busy host the other thread may be slow: as long as interrupts come, go on.
            let (mut outcome, mut before) = (machine.run(), 0);
            while outcome.ending == Ending::Runaway && seen(&machine) > before {
                before = seen(&machine);
                outcome = machine.run();
            }
            over.store(true, Ordering::Relaxed);
            outcome
        });
        assert_eq!(outcome.ending, Ending::Halt, "{backend:?}");
        assert!(seen(&machine) >= INTERRUPTS, "{backend:?}");
        let bad = u32::from_le_bytes(machine.read(at::DATA + 12));
        assert_eq!(bad, 0, "{backend:?}: interrupts inside the section");
    }
}
