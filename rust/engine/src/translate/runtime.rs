//! Entering and leaving translated code, and the calls it makes.
//!
//! Thunks are emitted once, before the first block.  Registers while translated code runs:
//! RSP = `Area`; RAX RCX RDX RBX RBP RSI RDI R12–R15 = the guest's; R8 = guest RSP; R9–R11 are
//! scratch; guest R8–R11 are in `Area.cpu.gpr`; the arithmetic flags are the guest's.

use super::cache::CodeCache;
use super::emit::{
    Alu, Asm, Cond, Gpr, Mem, R8, R9, R10, R11, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, StateOp,
    W8, W16, W32, W64, Xmm,
};
use super::env::{Area, Env, JUMP_ENTRIES, TLB_ENTRIES};
use super::string::Repeat;
use crate::fpustate::legacy;
use crate::memory::PAGE;
use crate::mmu::walk::{Access, right};
use crate::mmu::{Cached, physical};
use crate::state::Segment;
use crate::vcpu::Vcpu;
use std::mem::offset_of;

/// Why translated code came back.
pub mod exit {
    /// Go on at `cpu.rip`.
    pub const LOOKUP: u32 = 0;
    /// Go on at the target of link `exit_link`, and patch the link.
    pub const LINK: u32 = 1;
    /// Interpret the instruction at `cpu.rip`.
    pub const INTERPRET: u32 = 2;
    /// Interpret the instruction that host address `exit_site` belongs to.
    pub const INTERPRET_AT: u32 = 3;
    /// A poll found `attention` set; go on at `cpu.rip` after it.
    pub const ATTEND: u32 = 4;
    /// As INTERPRET_AT, after a host fault.
    pub const FAULT: u32 = 5;
    /// Do the access to a device that assist `exit_assist` is, and go on at `enter_target`.
    pub const DEVICE: u32 = 6;
}

/// Access sizes and directions as cold code hands them to the miss thunk in R10.
pub const MISS_WRITE: u32 = 1 << 16;
pub const MISS_USER: u32 = 1 << 17;
/// The probe of a stack group, which may straddle pages.
pub const MISS_GROUP: u32 = 1 << 18;

/// `[rsp + offset]`: a field of the Area.
pub const fn field(offset: usize) -> Mem {
    Mem::base(RSP).disp(offset as i32)
}

macro_rules! area {
    ($($path:tt)+) => {
        $crate::translate::runtime::field(std::mem::offset_of!($crate::translate::env::Area, $($path)+))
    };
}
pub(crate) use area;

/// The home of guest register `index` while it isn't in a host register.
pub const fn gpr_home(index: usize) -> Mem {
    field(offset_of!(Area, cpu) + offset_of!(crate::state::CpuState, gpr) + 8 * index)
}

/// Base of segment register `segment`.
pub const fn segment_base(segment: usize) -> Mem {
    let offset = offset_of!(crate::state::CpuState, seg) + segment * size_of::<Segment>();
    field(offset_of!(Area, cpu) + offset + offset_of!(Segment, base))
}

/// A slot for a value that a helper's call or a probe must not lose.
pub const fn saved(index: usize) -> Mem {
    field(offset_of!(Area, saved) + 8 * index)
}

/// Guest registers that are in host registers, and which.
const RESIDENT: [(usize, Gpr); 12] = [
    (0, RAX),
    (1, RCX),
    (2, RDX),
    (3, RBX),
    (4, R8),
    (5, RBP),
    (6, RSI),
    (7, RDI),
    (12, super::emit::R12),
    (13, super::emit::R13),
    (14, super::emit::R14),
    (15, super::emit::R15),
];

const CALLEE_SAVED: [Gpr; 6] = [
    RBX,
    RBP,
    super::emit::R12,
    super::emit::R13,
    super::emit::R14,
    super::emit::R15,
];

/// Guest state in caller-saved host registers, kept across helper calls (with scratch R11, which
/// holds RAX where flags are saved in AX).
const CALLER_SAVED: [Gpr; 7] = [RAX, RCX, RDX, RSI, RDI, R8, R11];

/// Host addresses of the thunks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thunks {
    pub enter: u64,
    /// Leaves with `exit_kind` set already.
    pub exit: u64,
    /// Leaves with LOOKUP, RIP in R9: the target of indirect jumps that nothing is known about.
    pub lookup: u64,
    /// As `lookup`, flags saved in AX and RAX in R11.
    pub lookup_saved: u64,
    /// As `lookup`, RCX in R11.
    pub lookup_kept: u64,
    pub exit_link: u64,
    pub exit_interpret: u64,
    pub exit_attend: u64,
    pub fault: u64,
    /// Turns the linear address in R9 into a host address; leaves with INTERPRET_AT where it can't.
    pub miss: u64,
    /// As `miss`, flags saved in AX and RAX in R11.
    pub miss_saved: u64,
    /// Called with the number of an assist in R10, `cpu.rip` at its instruction.
    pub assist: u64,
    /// The same for an access to a device: leaves with DEVICE.
    pub device: u64,
    /// Loads the guest's FPU and SIMD state; keeps all registers and flags.
    pub load_fpu: u64,
    /// Goes on at `Area::retry_target`, inside a block.
    pub retry: u64,
    /// Called where the interpreter must do an instruction whose host code this is: INTERPRET_AT.
    pub interpret_here: u64,
    /// An indirect jump found no block that doesn't need the flags: goes to R11 to recover them.
    pub recover: u64,
    /// Per class: repeated string instructions (`string::Repeat`).
    pub repeat: [[u64; Repeat::COUNT]; 2],
    /// Per class: recovers the flags from `Area::kept_flags`.
    pub recover_kept: [u64; 2],
    /// Per class: the flags are back, and an indirect jump goes on through `Area::jump_live`.
    pub recovered: [u64; 2],
}

type Enter = extern "sysv64" fn(*mut Area);

/// Runs translated code at `target` until it leaves; why is in `Area::exit_kind`.
///
/// # Safety
/// `target` is the entry of a live block made for the state in `area`, whose `vcpu` is set.
pub unsafe fn enter(thunks: &Thunks, area: *mut Area, target: u64) {
    // SAFETY: the thunk was emitted by `emit_thunks` with this signature.
    unsafe {
        (*area).enter_target = target;
        let enter: Enter = std::mem::transmute(thunks.enter as usize);
        enter(area);
    }
}

/// Restores arithmetic flags from AX (LAHF; SETO) and RAX from R11.
pub fn emit_restore_flags(asm: &mut Asm) {
    asm.alu(Alu::Add, W8, RAX, 127);
    asm.sahf();
    asm.mov(W64, RAX, R11);
}

/// Saves arithmetic flags in AX, RAX in R11.
pub fn emit_save_flags(asm: &mut Asm) {
    asm.mov(W64, R11, RAX);
    asm.lahf();
    asm.setcc(Cond::O, RAX);
}

/// Emits all thunks at the start of the cache.
pub fn emit_thunks(cache: &mut CodeCache, asm: &mut Asm) -> Result<Thunks, &'static str> {
    let mut thunks = Thunks::default();
    let bmi2 = std::is_x86_feature_detected!("bmi2");
    let mut add = |build: &mut dyn FnMut(&mut Asm)| -> Result<u64, &'static str> {
        let at = cache.next_address();
        asm.start(at);
        build(asm);
        let code = asm.finish().map_err(|_| "a thunk can't be encoded")?;
        cache.append(code);
        Ok(at)
    };
    thunks.enter = add(&mut emit_enter)?;
    let exit = add(&mut emit_exit)?;
    thunks.exit = exit;
    let mut leave = |kind: u32| {
        add(&mut |a: &mut Asm| {
            a.mov(W32, area!(exit_kind), kind as i32);
            a.jmp_to(exit);
        })
    };
    thunks.exit_link = leave(exit::LINK)?;
    thunks.exit_interpret = leave(exit::INTERPRET)?;
    thunks.exit_attend = leave(exit::ATTEND)?;
    thunks.fault = leave(exit::FAULT)?;
    let interpret_at = leave(exit::INTERPRET_AT)?;
    thunks.lookup = add(&mut |a: &mut Asm| {
        a.mov(W64, area!(cpu.rip), R9);
        a.mov(W32, area!(exit_kind), exit::LOOKUP as i32);
        a.jmp_to(exit);
    })?;
    let lookup = thunks.lookup;
    thunks.lookup_saved = add(&mut |a: &mut Asm| {
        emit_restore_flags(a);
        a.jmp_to(lookup);
    })?;
    thunks.lookup_kept = add(&mut |a: &mut Asm| {
        a.mov(W64, RCX, R11);
        a.jmp_to(lookup);
    })?;
    thunks.miss = add(&mut |a: &mut Asm| emit_miss(a, interpret_at, false))?;
    thunks.miss_saved = add(&mut |a: &mut Asm| emit_miss(a, interpret_at, true))?;
    thunks.load_fpu = add(&mut emit_load_fpu)?;
    let load_fpu = thunks.load_fpu;
    thunks.retry = add(&mut |a: &mut Asm| {
        // The block may have seen to it already.
        a.call_to(load_fpu);
        a.mov(W64, R10, area!(retry_r10));
        a.mov(W64, R11, area!(retry_r11));
        a.jmp_indirect(area!(retry_target));
    })?;
    thunks.interpret_here = add(&mut |a: &mut Asm| {
        a.pop_mem(area!(exit_site));
        a.jmp_to(interpret_at);
    })?;
    thunks.recover = add(&mut |a: &mut Asm| {
        a.mov(W64, area!(branch), R11);
        a.jmp_indirect(R11);
    })?;
    for class in 0..2 {
        thunks.recovered[class] = add(&mut |a: &mut Asm| emit_recovered(a, class))?;
        for number in 0..Repeat::COUNT {
            let emit = &mut |a: &mut Asm| Repeat::emit_thunk(a, number, class, bmi2);
            thunks.repeat[class][number] = add(emit)?;
        }
        thunks.recover_kept[class] = add(&mut |a: &mut Asm| emit_recover_kept(a, class))?;
    }
    thunks.assist = add(&mut emit_assist)?;
    thunks.device = add(&mut |a: &mut Asm| {
        a.pop_mem(area!(enter_target));
        a.mov(W32, area!(exit_assist), R10);
        a.mov(W32, area!(exit_kind), exit::DEVICE as i32);
        a.jmp_to(exit);
    })?;
    cache.keep();
    Ok(thunks)
}

fn emit_enter(a: &mut Asm) {
    for r in CALLEE_SAVED {
        a.push(r);
    }
    a.mov(
        W64,
        Mem::base(RDI).disp(offset_of!(Area, host_rsp) as i32),
        RSP,
    );
    a.mov(W64, RSP, RDI);
    emit_resume(a);
}

/// Loads the guest's registers and flags and goes to `enter_target`, as an indirect jump does.
fn emit_resume(a: &mut Asm) {
    a.push_mem(area!(host_flags));
    a.popfq();
    for (guest, host) in RESIDENT {
        a.mov(W64, host, gpr_home(guest));
    }
    a.mov(W64, R9, area!(cpu.rip));
    a.mov(W64, R11, area!(enter_recovery));
    a.jmp_indirect(area!(enter_target));
}

/// A call of Rust code, then `finish`.  While vector registers are the guest's the XMM ones are kept
/// around the call: Rust's baseline code touches no wider ones.  The Area is `distance` bytes above RSP.
fn emit_keeping_vectors(
    a: &mut Asm,
    distance: i32,
    call: impl Fn(&mut Asm),
    finish: impl Fn(&mut Asm),
) {
    let up = |m: Mem| m.disp(m.disp + distance);
    let xmm = |i: usize| up(field(offset_of!(Area, saved_xmm) + 16 * i));
    let live = a.label();
    a.alu(Alu::Cmp, W32, up(area!(fpu_live)), 0);
    a.jcc(Cond::Ne, live);
    call(a);
    finish(a);
    a.bind(live);
    for i in 0..16 {
        a.movups_store(xmm(i), Xmm(i as u8));
    }
    call(a);
    for i in 0..16 {
        a.movups_load(Xmm(i as u8), xmm(i));
    }
    finish(a);
}

/// In: R10 = number of the assist.
fn emit_assist(a: &mut Asm) {
    a.pop_mem(area!(enter_target));
    a.pushfq();
    a.pop_mem(area!(host_flags));
    for (guest, host) in RESIDENT {
        a.mov(W64, gpr_home(guest), host);
    }
    let call = |a: &mut Asm| {
        a.mov(W64, RDI, RSP);
        a.mov(W32, RSI, R10);
        a.mov_imm64(RAX, super::assist::assist as *const () as u64);
        a.call_indirect(RAX);
    };
    emit_keeping_vectors(a, 0, call, emit_resume);
}

fn emit_exit(a: &mut Asm) {
    a.pushfq();
    a.pop_mem(area!(host_flags));
    for (guest, host) in RESIDENT {
        a.mov(W64, gpr_home(guest), host);
    }
    let done = a.label();
    a.alu(Alu::Cmp, W32, area!(fpu_live), 0);
    a.jcc(Cond::E, done);
    let mask = crate::host::xcr0();
    a.mov(W32, RAX, mask as u32 as i64);
    a.mov(W32, RDX, (mask >> 32) as i64);
    // The x87 pointers that the host records are its own: the guest's image keeps those it has.
    let image: Mem = area!(cpu.fpu);
    let pointers = [
        (W16, legacy::FOP, RCX),
        (W64, legacy::FIP, RSI),
        (W64, legacy::FDP, RDI),
    ];
    for (width, offset, register) in pointers {
        a.mov(width, register, image.disp(image.disp + offset as i32));
    }
    a.state(StateOp::Xsave, true, image);
    for (width, offset, register) in pointers {
        a.mov(width, image.disp(image.disp + offset as i32), register);
    }
    a.mov(W32, area!(fpu_live), 0);
    a.fninit();
    a.state(StateOp::Ldmxcsr, false, area!(host_mxcsr));
    if std::is_x86_feature_detected!("avx") {
        a.raw(&[0xC5, 0xF8, 0x77]); // vzeroupper
    }
    a.bind(done);
    a.mov(W64, RSP, area!(host_rsp));
    for r in CALLEE_SAVED.into_iter().rev() {
        a.pop(r);
    }
    a.ret();
}

/// In: R9 = RIP, the flags are the guest's.
fn emit_recovered(a: &mut Asm, class: usize) {
    let table = offset_of!(Area, jump_live) + class * size_of::<[u64; JUMP_ENTRIES]>();
    a.movzx(W32, R10, W16, R9);
    a.jmp_indirect(Mem::base(RSP).index(R10, 8).disp(table as i32));
}

/// R9 is kept.
fn emit_recover_kept(a: &mut Asm, class: usize) {
    emit_kept_flags(a);
    a.jmp_indirect(field(offset_of!(Area, recovered) + 8 * class));
}

/// Flags = `Area::kept_flags`; R11 is lost.
pub fn emit_kept_flags(a: &mut Asm) {
    a.mov(W64, R11, RAX);
    a.movzx(W32, RAX, W16, area!(kept_flags));
    emit_restore_flags(a);
}

/// Called: the return address lies just below the Area.
fn emit_load_fpu(a: &mut Asm) {
    let up = |m: Mem| m.disp(m.disp + 8);
    a.mov(W64, up(saved(0)), RAX);
    a.mov(W64, up(saved(1)), RDX);
    let mask = crate::host::xcr0();
    a.mov(W32, RAX, mask as u32 as i64);
    a.mov(W32, RDX, (mask >> 32) as i64);
    // All components in the image are valid; none is to be taken as initial.
    let image = up(area!(cpu.fpu));
    a.mov(W64, image.disp(image.disp + 512), mask as i64);
    a.state(StateOp::Xrstor, true, image);
    a.mov(W32, up(area!(fpu_live)), 1);
    a.mov(W64, RAX, up(saved(0)));
    a.mov(W64, RDX, up(saved(1)));
    a.ret();
}

/// In: R9 linear address, R10 size | MISS_ bits.  Out: R9 host address.  R10 is lost.
fn emit_miss(a: &mut Asm, interpret_at: u64, flags_saved: bool) {
    // The return address is on the stack: the Area is 8 bytes further up.
    let up = |m: Mem| m.disp(m.disp + 8);
    let slot = |i: usize| up(saved(i));
    for (i, r) in CALLER_SAVED.into_iter().enumerate() {
        a.mov(W64, slot(i), r);
    }
    let call = |a: &mut Asm| {
        a.lea(W64, RDI, Mem::base(RSP).disp(8));
        a.mov(W64, RSI, R9);
        a.mov(W32, RDX, R10);
        a.alu(Alu::Sub, W64, RSP, 8);
        a.mov_imm64(RAX, miss as *const () as u64);
        a.call_indirect(RAX);
        a.alu(Alu::Add, W64, RSP, 8);
        a.mov(W64, R9, RAX);
    };
    let restore = |a: &mut Asm| {
        let fail = a.label();
        a.test(W64, R9, R9);
        a.jcc(Cond::E, fail);
        for (i, r) in CALLER_SAVED.into_iter().enumerate() {
            a.mov(W64, r, slot(i));
        }
        a.ret();
        a.bind(fail);
        for (i, r) in CALLER_SAVED.into_iter().enumerate() {
            a.mov(W64, r, slot(i));
        }
        a.pop(R9);
        a.mov(W64, area!(exit_site), R9);
        if flags_saved {
            emit_restore_flags(a);
        }
        a.jmp_to(interpret_at);
    };
    emit_keeping_vectors(a, 8, call, restore);
}

/// The host address of a guest access that missed the inline TLB; 0 where the interpreter must do
/// it (crossing write, device, a store to its own block, fault).
///
/// Called with the guest's vector registers live: nothing here may use more than baseline SSE2
/// (in particular no libc memcpy of large sizes).
extern "sysv64" fn miss(area: *mut Area, linear: u64, what: u64) -> u64 {
    // SAFETY: the dispatcher stored the pointer just before entering; it waits in `enter`.
    let vcpu = unsafe { &mut *((*area).vcpu as *mut Vcpu) };
    vcpu.inline_tlb_miss(linear, what as u32)
}

impl Vcpu {
    fn inline_tlb_miss(&mut self, linear: u64, what: u32) -> u64 {
        self.stats.tlb_misses += 1;
        let size = (what & 0xFFFF) as u64;
        let offset = linear % PAGE;
        if offset + size > PAGE {
            self.jit.straddled = what & MISS_GROUP != 0;
            return match what & (MISS_GROUP | MISS_WRITE) {
                0 => self.crossing_read(linear, size, what & MISS_USER != 0),
                _ => 0,
            };
        }
        // A walk ignores the bits above 47: the interpreter raises #GP or #SS for them.
        if !crate::mmu::segment::canonical(linear) {
            return 0;
        }
        let user = what & MISS_USER != 0;
        let write = what & MISS_WRITE != 0;
        let access = if write {
            Access::write(user)
        } else {
            Access::read(user)
        };
        let Ok(c) = self.translate(linear, access) else {
            return 0;
        };
        if c.rights & physical::IO != 0 || write && c.rights & physical::ROM != 0 {
            return 0;
        }
        if write && let Some(offset) = self.vm.memory.ram_offset(c.page) {
            self.vm.memory.note_dirty(offset);
        }
        if write && self.page_has_code(c.page) {
            // SAFETY: the thunk was called: its return address, in the block, lies below the Area.
            let site = unsafe { *self.env.area().cast::<u64>().sub(1) };
            if !self.prepare_store(c.page + offset, size, site) {
                return 0;
            }
            if self.page_has_code(c.page) {
                return c.host as u64 + offset;
            }
        }
        let writable = c.rights & right::WRITE != 0 && c.rights & right::DIRTY != 0;
        debug_assert!(!write || writable || !user);
        self.fill_inline_tlb(linear, &c, user as usize, write);
        c.host as u64 + offset
    }

    /// Where a copy lies of up to 64 bytes that cross into another page; 0 as for `miss`.
    fn crossing_read(&mut self, linear: u64, size: u64, user: bool) -> u64 {
        let (offset, access) = (linear % PAGE, Access::read(user));
        let next = self.wrap_linear((linear - offset).wrapping_add(PAGE));
        let canonical = crate::mmu::segment::canonical;
        if size > 64 || !canonical(linear) || !canonical(next) {
            return 0;
        }
        let (Ok(low), Ok(high)) = (self.translate(linear, access), self.translate(next, access))
        else {
            return 0;
        };
        if (low.rights | high.rights) & physical::IO != 0 {
            return 0;
        }
        let turn = self.jit.bounce ^ 1;
        self.jit.bounce = turn;
        let area = self.env.area();
        // SAFETY: a field of this vCPU's Area; nothing else refers to it now.
        let copy = unsafe { &mut (*area).bounce[turn].0 };
        let start = (linear % 64) as usize;
        for i in 0..size {
            let (host, at) = if offset + i < PAGE {
                (low.host, offset + i)
            } else {
                (high.host, offset + i - PAGE)
            };
            // SAFETY: `at` is inside the page at `host`.  Volatile, so that no memcpy comes of it:
            // the guest's vector registers may be live.
            unsafe {
                let byte = host.add(at as usize).read_volatile();
                std::ptr::from_mut(&mut copy[start + i as usize]).write_volatile(byte);
            }
        }
        std::ptr::from_ref(&copy[start]) as u64
    }

    fn fill_inline_tlb(&mut self, linear: u64, page: &Cached, class: usize, write: bool) {
        let index = (linear >> 12) as usize % TLB_ENTRIES;
        // SAFETY: the Area is this vCPU's own, and translated code isn't running right now.
        let tlb = unsafe { &mut (*self.env.area()).tlb[class] };
        let array = if write { &mut tlb.write } else { &mut tlb.read };
        array[index] = super::env::TlbEntry {
            tag: linear & !(PAGE - 1),
            host: page.host as u64,
        };
        let global = page.rights & right::GLOBAL != 0;
        self.jit.note_filled(class, index, global);
    }
}

/// Forgets all targets of indirect jumps.
pub fn clear_jumps(area: &mut Area, thunks: &Thunks) {
    for class in 0..2 {
        area.jump[class].fill(thunks.recover);
        area.jump_live[class].fill(thunks.lookup);
    }
}

/// Fills in what the thunks need of the Area.
pub fn init_area(env: &Env, thunks: &Thunks) {
    // SAFETY: called before any translated code runs; the Area is mapped.
    let area = unsafe { &mut *env.area() };
    area.host_mxcsr = 0x1F80;
    area.fault_thunk = thunks.fault;
    area.recovered = thunks.recovered;
    clear_jumps(area, thunks);
    for tlb in &mut area.tlb {
        super::tlb::clear(&mut tlb.read);
        super::tlb::clear(&mut tlb.write);
    }
}
