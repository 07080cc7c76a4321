//! Code that writes code: what is executed is what was written last, at once, wherever the writer is
//! (SDM vol. 3, 10.1.3).

use crate::machine::{Ending, Machine, Mode, at};
use crate::nasm;
use engine::vcpu::Backend;

const MODES: [Mode; 6] = [
    Mode::Real,
    Mode::Pm32 { ring: 0 },
    Mode::Paged32 { ring: 3 },
    Mode::Pae32 { ring: 0 },
    Mode::Compat,
    Mode::Long { ring: 3 },
];

/// Rewrites a slot in each of many passes, then executes `slots`: its operand always, its operation
/// (ADD, SUB or XOR of EAX and an immediate) at times.  `choose` leaves the slot's number in EDI.
fn rewriting_loop(choose: &str, execute: &str) -> String {
    format!(
        "
        mov     ecx, 3000
        mov     esi, 12345
    again:
        imul    esi, esi, 1664525
        add     esi, 1013904223
        mov     edi, esi
        {choose}
        shl     edi, 3
        mov     [xdi + slots + OPERAND], esi
        test    esi, 0x10000
        jz      kept
        mov     ebx, esi
        shr     ebx, 20
        and     ebx, 3
        mov     bl, [xbx + operations]
        mov     [xdi + slots + OPERAND - 1], bl
    kept:
        {execute}
        dec     ecx
        jnz     again
        hlt
    operations: db 0x05, 0x2D, 0x35, 0x05
    "
    )
}

const ANY_SLOT: &str = "shr edi, 29";
const FIRST_SLOT: &str = "xor edi, edi";
const EIGHT_SLOTS: &str = "
        %rep 8
            OPERATION
            times 8 - (OPERAND + 4) nop
        %endrep
";

/// Assembles for the mode: OPERATION is ADD EAX, 1 with its immediate at OPERAND; xdi and xbx are
/// the registers that address memory.
fn assemble(mode: Mode, body: &str) -> Vec<u8> {
    let bits = mode.bits();
    let (size, prefix, operand) = match bits {
        16 => ("", "0x66, ", 2),
        32 => ("e", "", 1),
        _ => ("r", "", 1),
    };
    let source = format!(
        "
        bits    {bits}
        org     0x{:x}
        %define xdi {size}di
        %define xbx {size}bx
        OPERAND equ {operand}
        %macro OPERATION 0
            db  {prefix}0x05, 1, 0, 0, 0
        %endmacro
        {body}",
        at::CODE,
    );
    nasm::assemble("self-modifying", &source)
}

/// How the program ended, with its registers and the two pages it may have rewritten.
fn run(mode: Mode, backend: Backend, code: &[u8]) -> (Ending, [u64; 16], [u8; 0x2000]) {
    let mut machine = Machine::new(mode, backend);
    machine.write(at::CODE, code);
    let outcome = machine.run();
    (outcome.ending, outcome.gpr, machine.read(at::CODE))
}

/// Both backends execute the program alike in every mode.
fn check(body: &str) {
    for mode in MODES {
        let code = assemble(mode, body);
        let (ending, gpr, pages) = run(mode, Backend::Interp, &code);
        // HLT, which in ring 3 is a fault.
        let ended = matches!(ending, Ending::Halt | Ending::Exception { vector: 13, .. });
        assert!(ended, "{mode:?}: {ending:?}");
        let is = run(mode, Backend::Translate, &code);
        assert_eq!((is.0, is.1), (ending, gpr), "{mode:?}");
        assert!(is.2 == pages, "{mode:?}: other code in the end");
    }
}

#[test]
fn the_next_instruction_may_be_rewritten() {
    check(
        "
        mov     ecx, 50
    again:
        mov     [slot + OPERAND], ecx
    slot:
        OPERATION
        dec     ecx
        jnz     again
        hlt",
    );
}

#[test]
fn a_loop_may_rewrite_itself() {
    let code = rewriting_loop(ANY_SLOT, &format!("slots: {EIGHT_SLOTS}"));
    check(&code);
}

#[test]
fn a_loop_may_rewrite_another_page() {
    let code = rewriting_loop(ANY_SLOT, "call slots");
    check(&format!(
        "{code}
        times 0x1000 - ($ - $$) nop
        slots: {EIGHT_SLOTS}
        ret"
    ));
}

#[test]
fn an_instruction_across_pages_may_be_rewritten() {
    let code = rewriting_loop(FIRST_SLOT, "call slots");
    for before in 1..6 {
        check(&format!(
            "{code}
            times 0x1000 - {before} - ($ - $$) nop
            slots:
            OPERATION
            ret"
        ));
    }
}

#[test]
fn code_may_be_copied_over_code() {
    check(
        "
        mov     ebp, 40
    again:
        mov     esi, first
        test    ebp, 1
        jz      chosen
        mov     esi, second
    chosen:
        mov     edi, place
        mov     ecx, OPERAND + 4
        cld
        rep     movsb
    place:
        OPERATION
        dec     ebp
        jnz     again
        hlt
    first:
        OPERATION
    second:
        times   8 nop",
    );
}

#[test]
fn code_written_by_a_device_is_seen() {
    for backend in [Backend::Interp, Backend::Translate] {
        let mut machine = Machine::new(Mode::Pm32 { ring: 0 }, backend);
        for value in 1..=20u32 {
            // MOV EAX, value; HLT
            let [a, b, c, d] = value.to_le_bytes();
            machine.write(at::CODE, &[0xB8, a, b, c, d, 0xF4]);
            machine.vcpu.cpu.rip = at::CODE;
            machine.vcpu.cpu.halted = false;
            let outcome = machine.run();
            let expected = (Ending::Halt, u64::from(value));
            assert_eq!((outcome.ending, outcome.gpr[0]), expected, "{backend:?}");
        }
    }
}
