//! Assists: instructions that the interpreter's handlers execute while translated code waits.
//!
//! Theory.  System instructions and strings are too long to be inlined, and leaving translated code
//! for each costs more than the instruction: saving the FPU, decoding, finding the next block.  An
//! assist is a call instead.  Its thunk (`runtime`) puts the guest's registers into `CpuState`, the
//! handler runs on the monitor's stack, and execution goes on behind the instruction, or, where CPL,
//! mode or RIP changed, through the jump table of the new privilege class.
//!
//! Invariants.  1. Vector registers may be the guest's: nothing here uses more than baseline SSE2 (no
//! libc memcpy or memset, no list that grows).  2. What an assist can't do (device memory, stores to
//! pages with code, page crossings, faults) it leaves undone: translated code is left, and the
//! interpreter does the instruction again.

use super::env::Area;
use super::mode::Mode;
use crate::fault::Fault;
use crate::interp::{debug, msr};
use crate::state::{flags, gpr};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, Register};

/// Assisted instructions at most; more means that the cache is flushed.
pub const MAX_ASSISTS: usize = 1 << 18;

/// An instruction of a block that is assisted.
#[derive(Clone, Copy)]
pub struct Assist {
    pub ins: Instruction,
    pub mode: Mode,
    pub block: u32,
    /// As one that accesses a device (`device`).
    pub credit: u8,
}

/// Whether `ins` has an assist.
pub fn assisted(ins: &Instruction) -> bool {
    use Mnemonic::*;
    let (first, second) = (ins.op0_register(), ins.op1_register());
    match ins.mnemonic() {
        Syscall | Sysret | Sysretq | Sysenter | Sysexit | Sysexitq | Int | Int3 | Iret | Iretd
        | Iretq => true,
        Mov if first.is_segment_register() || second.is_segment_register() => true,
        Mov if first.is_cr() => matches!(first, Register::CR2 | Register::CR3),
        Mov if second.is_cr() || second.is_dr() => true,
        Pop => first.is_segment_register(),
        Clts | Invlpg | Lldt | Verr | Verw | Lar | Lsl | Str | Sldt => true,
        Rdmsr | Wrmsr | Rdpid | Wrfsbase | Wrgsbase => true,
        Pusha | Pushad | Popa | Popad | Xlatb | Cmpxchg8b => true,
        Bt | Bts | Btr | Btc | Loope | Loopne => true,
        Insb | Insw | Insd | Outsb | Outsw | Outsd => false,
        _ => ins.is_string_instruction(),
    }
}

/// Whether execution may go on behind the instruction, in the same block: nothing about the code
/// itself can have changed.
pub fn continues(ins: &Instruction) -> bool {
    use Mnemonic::*;
    match ins.mnemonic() {
        Syscall | Sysret | Sysretq | Sysenter | Sysexit | Sysexitq | Int | Int3 | Iret | Iretd
        | Iretq | Loope | Loopne | Invlpg => false,
        Mov => !ins.op0_register().is_cr(),
        _ => true,
    }
}

/// Where translated code goes on after an assist: into the Area's `enter_target`, which on entry is
/// the address behind the call.
pub(super) extern "sysv64" fn assist(area: *mut Area, index: u32) {
    // SAFETY: the dispatcher stored the pointer just before entering; it waits in `enter`.
    let vcpu = unsafe { &mut *((*area).vcpu as *mut Vcpu) };
    vcpu.assist(index as usize);
}

impl Vcpu {
    fn assist(&mut self, index: usize) {
        let area = self.env.area();
        // SAFETY: the Area is this vCPU's own; translated code waits.
        let (host_flags, behind) = unsafe { ((*area).host_flags, (*area).enter_target) };
        self.cpu.rflags |= host_flags & flags::ARITHMETIC;
        let target = match self.jit.assists.get(index).copied() {
            Some(a) if self.perform(&a.ins) => self.after_assist(&a, behind),
            _ => self.jit.thunks.exit_interpret,
        };
        let image = self.cpu.rflags & flags::ARITHMETIC | flags::FIXED | flags::IF;
        self.cpu.rflags &= !flags::ARITHMETIC;
        // SAFETY: as above.
        unsafe {
            (*area).host_flags = image;
            (*area).enter_target = target;
        }
    }

    /// Executes the instruction; false: the interpreter must, from the start.
    fn perform(&mut self, ins: &Instruction) -> bool {
        if matches!(ins.mnemonic(), Mnemonic::Rdmsr | Mnemonic::Wrmsr)
            && !msr::is_assisted(self.cpu.gpr[gpr::RCX] as u32)
        {
            return false;
        }
        self.single_step = false;
        self.next_rip = self.wrap_ip(ins.next_ip());
        self.in_assist = true;
        let done: Result<(), Fault> = match ins.mnemonic() {
            Mnemonic::Mov if ins.op1_register().is_segment_register() => self.execute(ins),
            Mnemonic::Mov | Mnemonic::Pop => self.execute_system(ins),
            _ => self.execute(ins),
        };
        self.in_assist = false;
        if done.is_err() {
            return false;
        }
        self.stats.assists += 1;
        if self.single_step {
            self.cpu.pending_db |= debug::DR6_BS;
        }
        self.cpu.rip = self.next_rip;
        true
    }

    /// Whether attention is asked for only to make polls leave.
    fn only_polls(&self) -> bool {
        let cpu = &self.cpu;
        self.jit.brief && !cpu.halted && !cpu.shutdown && cpu.pending_db == 0
    }

    /// The host address to go on at for the state after an assist.
    fn after_assist(&mut self, a: &Assist, behind: u64) -> u64 {
        // SAFETY: the Area is this vCPU's own; translated code waits.
        let area = unsafe { &mut *self.env.area() };
        area.branch = 0;
        if self.must_attend() && !self.only_polls() || self.must_interpret() {
            return self.jit.thunks.lookup;
        }
        let mode = self.mode();
        self.narrow_to_mode();
        if mode == a.mode && self.cpu.rip == a.ins.next_ip() && continues(&a.ins) {
            return behind;
        }
        let class = mode.class();
        if !self.jit.table.serves(class, &mode) {
            return self.jit.thunks.lookup;
        }
        area.kept_flags = kept_flags(self.cpu.rflags);
        area.enter_recovery = self.jit.thunks.recover_kept[class];
        area.jump[class][self.cpu.rip as usize & 0xFFFF]
    }
}

/// AX as LAHF and SETO AL leave it.
fn kept_flags(rflags: u64) -> u64 {
    (rflags & 0xFF) << 8 | u64::from(rflags & flags::OF != 0)
}
