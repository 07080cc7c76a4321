//! Generated stubs that hold one instruction of the guest's, and the way into and out of them.
//!
//! Theory: a stub is the instruction, re-encoded for 64-bit mode with its memory operand at
//! `[rsp]`, and a jump through `[rsp + RESUME]`.  `enter` copies the operand to an aligned frame on
//! the host's stack, loads the guest's FPU state, flags and general registers, jumps to the stub,
//! and stores everything again.  RSP stays the host's, so signals find a stack.
//!
//! A fault of the host's in a stub, which is a SIMD exception that the guest has unmasked, ends the
//! stub: the signal's handler (`translate::fault`) resumes at the frame's resume address.
//!
//! Invariant: stub memory is mapped twice, writable at one address and executable at another.

use crate::host;
use crate::state::XsaveArea;
use crate::translate::fault::{self, STUBS};
use std::arch::{naked_asm, x86_64::__cpuid};
use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::ptr::NonNull;

/// Memory operands are at most this long, in bytes.
pub const OPERAND_BYTES: usize = 64;

/// Offsets from the stub's RSP: the context, and the address where it goes on.
const CONTEXT: usize = OPERAND_BYTES;
const RESUME: usize = OPERAND_BYTES + 8;

/// What a stub starts with and leaves behind.
#[repr(C, align(64))]
pub struct Context {
    pub operand: [u8; OPERAND_BYTES],
    pub gpr: [u64; 16],
    pub rflags: u64,
    area: *mut XsaveArea,
    host: *const XsaveArea,
    /// XCR0's bits to load and store; 0: by FXRSTOR and FXSAVE.
    components: u64,
    stub: *const u8,
    /// The signal that the host raised in the stub, 0 for none.
    signal: i32,
}

const _: () = assert!(offset_of!(Context, gpr) == 64 && offset_of!(Context, rflags) == 192);
const _: () = assert!(offset_of!(Context, area) == 200 && offset_of!(Context, stub) == 224);

impl Context {
    pub fn new(rflags: u64) -> Context {
        Context {
            operand: [0; OPERAND_BYTES],
            gpr: [0; 16],
            rflags,
            area: std::ptr::null_mut(),
            host: &crate::fpustate::HOST_DEFAULT,
            components: if host::has_xsave() { host::xcr0() } else { 0 },
            stub: std::ptr::null(),
            signal: 0,
        }
    }

    /// Runs a stub on an FPU state.  If the host raised a signal, its number: the instruction has
    /// changed nothing then but MXCSR's flags.
    ///
    /// # Safety
    /// `stub` came from `StubMemory::add` and accesses no memory but its operand; `area` is an
    /// image that `fpustate::prepare` made acceptable.
    pub unsafe fn run(&mut self, stub: Stub, area: *mut XsaveArea) -> Option<i32> {
        self.area = area;
        self.stub = stub.0.as_ptr();
        // SAFETY: the caller's promise.
        unsafe { enter(self) };
        (self.signal != 0).then_some(self.signal)
    }
}

/// Frame: operand (64 bytes), context, resume address, stub address, guest RDI, caller's RSP.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(context: *mut Context) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rax, rsp",
        "and rsp, -64",
        "sub rsp, 128",
        "mov [rsp + 96], rax",
        "movups xmm0, [rdi]",
        "movups xmm1, [rdi + 16]",
        "movups xmm2, [rdi + 32]",
        "movups xmm3, [rdi + 48]",
        "movaps [rsp], xmm0",
        "movaps [rsp + 16], xmm1",
        "movaps [rsp + 32], xmm2",
        "movaps [rsp + 48], xmm3",
        "lea rax, [rip + 5f]",
        "mov [rsp + 64], rdi",
        "mov [rsp + 72], rax",
        "mov rax, [rdi + 224]",
        "mov [rsp + 80], rax",
        // The guest's FPU state.
        "mov eax, [rdi + 216]",
        "mov edx, [rdi + 220]",
        "mov rcx, [rdi + 200]",
        "test eax, eax",
        "jz 2f",
        "xrstor64 [rcx]",
        "jmp 3f",
        "2:",
        "fxrstor64 [rcx]",
        "3:",
        // Its flags and registers.
        "push qword ptr [rdi + 192]",
        "popfq",
        "mov rax, [rdi + 64]",
        "mov rcx, [rdi + 72]",
        "mov rdx, [rdi + 80]",
        "mov rbx, [rdi + 88]",
        "mov rbp, [rdi + 104]",
        "mov rsi, [rdi + 112]",
        "mov r8, [rdi + 128]",
        "mov r9, [rdi + 136]",
        "mov r10, [rdi + 144]",
        "mov r11, [rdi + 152]",
        "mov r12, [rdi + 160]",
        "mov r13, [rdi + 168]",
        "mov r14, [rdi + 176]",
        "mov r15, [rdi + 184]",
        "mov rdi, [rdi + 120]",
        "jmp qword ptr [rsp + 80]",
        "5:",
        "mov [rsp + 88], rdi",
        "mov rdi, [rsp + 64]",
        "pushfq",
        "pop qword ptr [rdi + 192]",
        "mov [rdi + 64], rax",
        "mov [rdi + 72], rcx",
        "mov [rdi + 80], rdx",
        "mov [rdi + 88], rbx",
        "mov [rdi + 104], rbp",
        "mov [rdi + 112], rsi",
        "mov [rdi + 128], r8",
        "mov [rdi + 136], r9",
        "mov [rdi + 144], r10",
        "mov [rdi + 152], r11",
        "mov [rdi + 160], r12",
        "mov [rdi + 168], r13",
        "mov [rdi + 176], r14",
        "mov [rdi + 184], r15",
        "mov rax, [rsp + 88]",
        "mov [rdi + 120], rax",
        // Its FPU state; then the host's.
        "mov eax, [rdi + 216]",
        "mov edx, [rdi + 220]",
        "mov rcx, [rdi + 200]",
        "mov rbx, [rdi + 208]",
        "test eax, eax",
        "jz 2f",
        "xsave64 [rcx]",
        "xrstor64 [rbx]",
        "jmp 3f",
        "2:",
        "fxsave64 [rcx]",
        "fxrstor64 [rbx]",
        "3:",
        "movaps xmm0, [rsp]",
        "movaps xmm1, [rsp + 16]",
        "movaps xmm2, [rsp + 32]",
        "movaps xmm3, [rsp + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "mov rsp, [rsp + 96]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Ends a stub in which the host raised `signal`: the address to go on at.
///
/// # Safety
/// `frame` is RSP of a stub that `enter` runs.
pub unsafe fn leave_stub(frame: *const u8, signal: i32) -> u64 {
    // SAFETY: the caller's promise; the frame's layout is `enter`'s.
    unsafe {
        let context = *frame.add(CONTEXT).cast::<*mut Context>();
        (*context).signal = signal;
        *frame.add(RESUME).cast::<u64>()
    }
}

/// An executable stub; valid until its memory is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stub(NonNull<u8>);

/// The jump that ends a stub: JMP [RSP + disp8].
const LEAVE: [u8; 4] = [0xFF, 0x64, 0x24, RESUME as u8];

/// Room for the longest instruction and `LEAVE`.
const SLOT_BYTES: usize = 32;
const MEMORY_BYTES: usize = 1 << 20;

pub struct StubMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    used: usize,
}

// SAFETY: the mapping is owned by the stub and used by the vCPU that owns it only.
unsafe impl Send for Stub {}

// SAFETY: the two mappings belong to this object alone.
unsafe impl Send for StubMemory {}

impl StubMemory {
    pub fn new() -> io::Result<StubMemory> {
        fault::install();
        // SAFETY: plain system calls; the file is closed below, the mappings keep it alive.
        unsafe {
            let file = libc::memfd_create(c"ring3-stubs".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 {
                return Err(io::Error::last_os_error());
            }
            let result = map_twice(file);
            libc::close(file);
            result
        }
    }

    /// Where stubs are executed.
    fn range(&self) -> Range<u64> {
        let start = self.executable.as_ptr() as u64;
        start..start + MEMORY_BYTES as u64
    }

    pub fn is_full(&self) -> bool {
        self.used + SLOT_BYTES > MEMORY_BYTES
    }

    /// Forgets every stub.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Makes a stub of one instruction's bytes; None if there is no room for it.
    pub fn add(&mut self, instruction: &[u8]) -> Option<Stub> {
        if self.is_full() || instruction.len() + LEAVE.len() > SLOT_BYTES {
            return None;
        }
        let at = self.used;
        self.used += SLOT_BYTES;
        // SAFETY: at + SLOT_BYTES is inside both mappings.
        unsafe {
            let target = self.writable.as_ptr().add(at);
            target.copy_from(instruction.as_ptr(), instruction.len());
            let end = target.add(instruction.len());
            end.copy_from(LEAVE.as_ptr(), LEAVE.len());
            // Code written through another address needs a serializing instruction (SDM vol. 3, 9.1.3).
            __cpuid(0);
            Some(Stub(self.executable.add(at)))
        }
    }
}

/// # Safety
/// `file` is a new memory file.
unsafe fn map_twice(file: libc::c_int) -> io::Result<StubMemory> {
    // SAFETY: the caller's promise; fresh mappings at addresses of the kernel's choice.
    unsafe {
        if libc::ftruncate(file, MEMORY_BYTES as libc::off_t) != 0 {
            return Err(io::Error::last_os_error());
        }
        let map = |protection| {
            let p = libc::mmap(
                std::ptr::null_mut(),
                MEMORY_BYTES,
                protection,
                libc::MAP_SHARED,
                file,
                0,
            );
            NonNull::new(p.cast::<u8>())
                .filter(|_| p != libc::MAP_FAILED)
                .ok_or_else(io::Error::last_os_error)
        };
        let writable = map(libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = map(libc::PROT_READ | libc::PROT_EXEC).inspect_err(|_| {
            libc::munmap(writable.as_ptr().cast(), MEMORY_BYTES);
        })?;
        let memory = StubMemory {
            writable,
            executable,
            used: 0,
        };
        STUBS.add(memory.range());
        Ok(memory)
    }
}

impl Drop for StubMemory {
    fn drop(&mut self) {
        STUBS.remove(self.range());
        // SAFETY: our own mappings; nobody runs a stub any more.
        unsafe {
            libc::munmap(self.writable.as_ptr().cast(), MEMORY_BYTES);
            libc::munmap(self.executable.as_ptr().cast(), MEMORY_BYTES);
        }
    }
}
