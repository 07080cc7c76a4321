//! The copier's host code against the processor: each instruction runs as it is and as its copy, from
//! the same registers, memory and floating-point state, and both must leave the same behind.  A
//! fault counts as an outcome; it must be the same fault and leave the same state.
//!
//! Not compared: x87 FIP, FDP and FOP, which name host addresses, and XSTATE_BV.

mod corpus;

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use corpus::{Guest, Random, decode, generate};
use engine::translate::emit::*;
use engine::translate::reencode::*;
use iced_x86::{Code, Mnemonic, Register};

const XSAVE_SIZE: usize = 8192;
/// Bytes of memory that instructions work on; the operand is in its middle.
const MEMORY_SIZE: usize = 512;
const OPERAND: usize = MEMORY_SIZE / 2;

/// What an instruction sees, and the host's own state meanwhile.  While it runs RSP is at `gpr`.
#[repr(C, align(64))]
#[derive(Clone)]
struct Frame {
    rflags: u64,
    gpr: [u64; 16],
    host_rsp: u64,
    /// R8–R11 for the copy: its stack pointer and scratch.
    scratch: [u64; 4],
    padding: [u64; 2],
    guest: Xsave,
    host: Xsave,
    memory: [u8; MEMORY_SIZE],
}

#[repr(C, align(64))]
#[derive(Clone)]
struct Xsave([u8; XSAVE_SIZE]);

/// Offset of a field from RSP as the instruction runs.
macro_rules! field {
    ($name:ident) => {
        std::mem::offset_of!(Frame, $name) as i32 - 8
    };
}

/// Guest R8 as the copy addresses it.
const HOME: i32 = 8 * 8;

/// Where a faulting instruction continues, and the signal it raised.
static EXIT: AtomicU64 = AtomicU64::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_fault(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    SIGNAL.store(signal, SeqCst);
    // SAFETY: the kernel passes the interrupted context; only the runner's code faults in this test.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        context.uc_mcontext.gregs[libc::REG_RIP as usize] = EXIT.load(SeqCst) as i64;
    }
}

/// Executable memory, and a signal stack, as RSP doesn't name one while instructions run.
struct Runner {
    code: *mut u8,
    asm: Asm,
    _stack: Vec<u8>,
    /// XCR0's components in EDX:EAX.
    components: u64,
}

const CODE_SIZE: usize = 4096;

impl Runner {
    fn new() -> Runner {
        let mut stack = vec![0_u8; 64 * 1024];
        // SAFETY: plain system calls; the signal stack lives as long as the runner.
        let code = unsafe {
            let signal_stack = libc::stack_t {
                ss_sp: stack.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: stack.len(),
            };
            assert_eq!(libc::sigaltstack(&signal_stack, std::ptr::null_mut()), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for signal in [libc::SIGILL, libc::SIGFPE, libc::SIGSEGV, libc::SIGBUS] {
                assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
            }
            let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), CODE_SIZE, access, flags, -1, 0)
        };
        assert_ne!(code, libc::MAP_FAILED);
        // SAFETY: XGETBV exists wherever AVX does, and the tests need no less.
        let xcr0 = unsafe { std::arch::x86_64::_xgetbv(0) };
        Runner {
            code: code.cast(),
            asm: Asm::new(CODE_SIZE / 2),
            _stack: stack,
            components: xcr0 & 0xE7,
        }
    }

    fn xstate(&mut self, op: StateOp, offset: i32) {
        self.asm.mov(W32, RAX, self.components as i32);
        self.asm.mov(W32, RDX, 0);
        self.asm.state(op, true, Mem::base(RSP).disp(offset));
    }

    /// Saves the host's state and loads the guest's.
    fn enter(&mut self, native: bool) {
        for reg in CALLEE_SAVED {
            self.asm.push(reg);
        }
        self.asm
            .mov(W64, Mem::base(RDI).disp(field!(host_rsp) + 8), RSP);
        self.asm.lea(W64, RSP, Mem::base(RDI).disp(8));
        self.xstate(StateOp::Xsave, field!(host));
        self.xstate(StateOp::Xrstor, field!(guest));
        self.asm.lea(W64, RSP, Mem::base(RSP).disp(-8));
        self.asm.popfq();
        for reg in (0..16).map(Gpr).filter(|&reg| reg != RSP) {
            let in_scratch = !native && (8..12).contains(&reg.0);
            let place = if in_scratch {
                field!(scratch) + 8 * (reg.0 as i32 - 8)
            } else {
                8 * reg.0 as i32
            };
            self.asm.mov(W64, reg, Mem::base(RSP).disp(place));
        }
    }

    /// The reverse; the copy's R8–R11 are in their homes already.
    fn leave(&mut self, native: bool) {
        for reg in (0..16).map(Gpr).filter(|&reg| reg != RSP) {
            if native || !(8..12).contains(&reg.0) {
                self.asm
                    .mov(W64, Mem::base(RSP).disp(8 * reg.0 as i32), reg);
            }
        }
        self.asm.pushfq();
        self.asm.lea(W64, RSP, Mem::base(RSP).disp(8));
        self.xstate(StateOp::Xsave, field!(guest));
        self.xstate(StateOp::Xrstor, field!(host));
        self.asm
            .mov(W64, RSP, Mem::base(RSP).disp(field!(host_rsp)));
        for reg in CALLEE_SAVED.into_iter().rev() {
            self.asm.pop(reg);
        }
        self.asm.ret();
    }

    /// Runs what `body` emits; answers the signal raised, or 0.
    fn run(&mut self, frame: &mut Frame, native: bool, body: impl FnOnce(&mut Asm)) -> i32 {
        let base = self.code as u64;
        self.asm.start(base);
        self.enter(native);
        body(&mut self.asm);
        EXIT.store(self.asm.address(), SeqCst);
        SIGNAL.store(0, SeqCst);
        self.leave(native);
        let block = self.asm.finish().expect("fits");
        // SAFETY: the block fits the mapping; its entry has this signature and keeps the ABI.
        unsafe {
            self.code
                .copy_from_nonoverlapping(block.as_ptr(), block.len());
            let entry: extern "C" fn(*mut Frame) = std::mem::transmute(self.code);
            entry(frame);
        }
        SIGNAL.load(SeqCst)
    }
}

const CALLEE_SAVED: [Gpr; 6] = [RBX, RBP, R12, R13, R14, R15];

/// A frame of random contents, whose register `base` names the operand.
fn random_frame(frame: &mut Frame, base: Gpr, offset: usize, components: u64, random: &mut Random) {
    // CF PF AF ZF SF OF over the fixed bit 1 and IF.
    frame.rflags = random.next() & 0x8D5 | 0x202;
    // Small and extreme values meet more corner cases than evenly spread ones.
    frame.gpr = std::array::from_fn(|_| match random.below(4) {
        0 => random.below(70) as u64,
        1 => u64::MAX.wrapping_shl(random.below(64)),
        _ => random.next(),
    });
    frame.gpr[base.0 as usize] = frame.memory.as_ptr() as u64 + (OPERAND + offset) as u64;
    for bytes in [&mut frame.guest.0[..], &mut frame.memory[..]] {
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes());
        }
    }
    let image = &mut frame.guest.0;
    image[0..24].fill(0);
    image[0..2].copy_from_slice(&0x037F_u16.to_le_bytes());
    image[4] = random.next() as u8;
    image[24..28].copy_from_slice(&0x1F80_u32.to_le_bytes());
    image[512..576].fill(0);
    image[512..520].copy_from_slice(&components.to_le_bytes());
}

/// What must agree.
fn outcome(frame: &Frame, signal: i32) -> (i32, u64, [u64; 16], Vec<u8>, Vec<u8>) {
    let mut image = frame.guest.0.to_vec();
    image[6..24].fill(0);
    image[464..576].fill(0);
    (
        signal,
        frame.rflags,
        frame.gpr,
        image,
        frame.memory.to_vec(),
    )
}

static ALONE: Mutex<()> = Mutex::new(());

/// Runs an instruction both ways; answers the signal.
fn compare(runner: &mut Runner, frame: &mut Frame, guest: &Guest, random: &mut Random) -> i32 {
    let base = guest.insn.memory_base();
    let base = if base == Register::None {
        Register::RSI
    } else {
        base
    };
    let base = Gpr((base as u32 - Register::RAX as u32) as u8);
    let offset = if random.one_in(8) {
        random.below(16) as usize
    } else {
        0
    };
    random_frame(frame, base, offset, runner.components, random);
    let before = frame.clone();
    let signal = runner.run(frame, true, |asm| asm.raw(&guest.bytes));
    let native = outcome(frame, signal);

    *frame = before;
    let operand = frame.gpr[base.0 as usize];
    let index = random.next() as i32 as u64;
    let indexed = random.one_in(2);
    let plan = if indexed {
        frame.scratch = [1, operand.wrapping_sub(index), index, 3];
        Plan::new(HOME).mem(Mem::base(R9).index(R10, 1))
    } else {
        frame.scratch = [1, operand, 2, 3];
        Plan::new(HOME).mem(Mem::base(R9))
    };
    let signal = runner.run(frame, false, |asm| {
        copy(&guest.insn, &guest.bytes, &plan, asm).expect("copyable");
    });
    let copied = outcome(frame, signal);
    assert!(
        native == copied,
        "{} {:02x?}\n{:x?}\n{:x?}\n{}",
        guest.insn,
        guest.bytes,
        (native.0, native.1, native.2),
        (copied.0, copied.1, copied.2),
        if native.3 != copied.3 {
            "SIMD or x87 state differs"
        } else {
            ""
        },
    );
    signal
}

/// Instructions that can be compared: their result is repeatable, RSP is not involved, and a bit
/// string does not lead out of the frame.
fn comparable(guest: &Guest) -> bool {
    let insn = &guest.insn;
    let class = classify(insn);
    let stack = (0..insn.op_count()).any(|i| insn.op_register(i).full_register() == Register::RSP);
    class == Class::Copyable
        && !stack
        && !matches!(insn.mnemonic(), Mnemonic::Rdrand | Mnemonic::Rdseed)
}

fn new_frame() -> Box<Frame> {
    Box::new(Frame {
        rflags: 0,
        gpr: [0; 16],
        host_rsp: 0,
        scratch: [0; 4],
        padding: [0; 2],
        guest: Xsave([0; XSAVE_SIZE]),
        host: Xsave([0; XSAVE_SIZE]),
        memory: [0; MEMORY_SIZE],
    })
}

#[test]
fn every_opcode_acts_alike_natively_and_copied() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = Random(0x600D);
    let mut runner = Runner::new();
    let mut frame = new_frame();
    let (mut ran, mut faulted) = (0, 0);
    for code in Code::values() {
        for round in 0..24 {
            let base = [Register::R14, Register::RSI, Register::R9][round % 3];
            let guest = generate(code, 64, Some(base), &mut random);
            let Some(guest) = guest.filter(comparable) else {
                continue;
            };
            ran += 1;
            if compare(&mut runner, &mut frame, &guest, &mut random) != 0 {
                faulted += 1;
                // Most likely the host lacks the extension.
                if round == 2 {
                    break;
                }
            }
        }
    }
    assert!(ran > 20_000, "{ran} ran, {faulted} faulted");
    assert!(faulted < ran / 2, "{ran} ran, {faulted} faulted");
}

#[test]
fn common_instructions_act_alike_with_all_register_pairs() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = Random(0xFEED);
    let mut runner = Runner::new();
    let mut frame = new_frame();
    let opcodes: [&[u8]; 22] = [
        &[0x00],
        &[0x01],
        &[0x02],
        &[0x03],
        &[0x11],
        &[0x1B],
        &[0x31],
        &[0x39],
        &[0x84],
        &[0x86],
        &[0x87],
        &[0x88],
        &[0x89],
        &[0x8A],
        &[0x8B],
        &[0x0F, 0xB6],
        &[0x0F, 0xB1],
        &[0x0F, 0xC1],
        &[0x0F, 0x44],
        &[0x0F, 0xBC],
        &[0x0F, 0xA3],
        &[0x0F, 0xAD],
    ];
    for opcode in opcodes {
        for rex in [0, 0x40, 0x41, 0x44, 0x45, 0x48, 0x49, 0x4C, 0x4D] {
            for modrm in 0xC0..=0xFF {
                let mut bytes = Vec::new();
                if rex != 0 {
                    bytes.push(rex);
                }
                bytes.extend_from_slice(opcode);
                bytes.push(modrm);
                let guest = decode(&bytes, 64).expect("valid");
                if comparable(&guest) {
                    let signal = compare(&mut runner, &mut frame, &guest, &mut random);
                    assert_eq!(signal, 0, "{}", guest.insn);
                }
            }
        }
    }
}
