//! Near branches to addresses that aren't canonical: #GP(0) of the branch itself, which has changed
//! nothing (SDM vol. 2, JMP, CALL and RET; processors of both vendors do it so).

use crate::machine::{Ending, Machine, Mode, at};
use engine::fault::vector;
use engine::state::{flags, gpr};
use engine::translate::window::Policy;
use engine::vcpu::Backend;

const TARGETS: [u64; 4] = [1 << 47, 1 << 63, !(1 << 47), 0x1234_5678_9ABC_DEF0];
const GP0: Ending = Ending::Exception {
    vector: vector::GP,
    error_code: Some(0),
};

/// Runs `code` at `start` with the target in RAX, at `DATA` and on the stack: it must fault at `branch`,
/// with the flags that CMP RAX, RAX leaves if there is one before it.
fn faults_at(start: u64, code: &[u8], branch: u64) {
    let backends = [
        (Backend::Interp, Policy::Never),
        (Backend::Translate, Policy::Never),
        (Backend::Translate, Policy::Always),
    ];
    for (backend, windows) in backends {
        for target in TARGETS {
            let mut machine = Machine::new(Mode::Long { ring: 3 }, backend);
            machine.vcpu.set_windows(windows);
            machine.write_u64(at::DATA, target);
            machine.write_u64(at::STACK, target);
            machine.write(start, code);
            machine.vcpu.cpu.rip = start;
            machine.vcpu.cpu.gpr[gpr::RAX] = target;
            let ended = machine.run();
            let context = format!("{code:02x?} to {target:x} by {backend:?}");
            assert_eq!((ended.ending, ended.rip), (GP0, branch), "{context}");
            assert_eq!(ended.gpr[gpr::RSP], at::STACK, "{context}");
            assert_eq!(machine.read(at::STACK - 8), [0; 8], "{context}");
            let flags = ended.rflags & flags::ARITHMETIC;
            let compared = if branch > start {
                flags::ZF | flags::PF
            } else {
                0
            };
            assert_eq!(flags, compared, "{context}");
        }
    }
}

fn faults_at_the_branch(code: &[u8]) {
    faults_at(at::CODE, code, at::CODE);
    let compare = [0x48, 0x39, 0xC0]; // cmp rax, rax
    faults_at(at::CODE, &[&compare, code].concat(), at::CODE + 3);
}

#[test]
fn a_return_to_a_non_canonical_address_faults() {
    faults_at_the_branch(&[0xC3]); // ret
    faults_at_the_branch(&[0xC2, 0x10, 0x00]); // ret 16
}

#[test]
fn a_return_that_straddles_pages_faults_too() {
    let start = at::DATA - 2;
    faults_at(start, &[0xC2, 0x10, 0x00], start); // ret 16
}

#[test]
fn an_indirect_jump_to_a_non_canonical_address_faults() {
    faults_at_the_branch(&[0xFF, 0xE0]); // jmp rax
    faults_at_the_branch(&[0xFF, 0x24, 0x25, 0x00, 0x80, 0x00, 0x00]); // jmp [DATA]
}

#[test]
fn an_indirect_call_of_a_non_canonical_address_faults_before_it_pushes() {
    faults_at_the_branch(&[0xFF, 0xD0]); // call rax
    faults_at_the_branch(&[0xFF, 0x14, 0x25, 0x00, 0x80, 0x00, 0x00]); // call [DATA]
}
