//! A bare machine for a few instructions: RAM, descriptor tables, page tables, and a CPU put
//! straight into the wanted mode.
//!
//! Code ends by HLT, INT3 or any other exception.  Every vector's handler is one HLT in ring 0, so
//! how the code ended is read from where the CPU halted, and from the frame on its stack.

use engine::cpuid::Model;
use engine::exit::Exit;
use engine::io::IoMap;
use engine::memory::Memory;
use engine::state::{CpuState, Segment, TableRegister, attr, cr0, cr4, efer, flags, gpr, seg};
use engine::vcpu::{Backend, Shared, Vcpu, Vm, locked};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

pub const RAM_BYTES: u64 = 0x12_0000;

/// Where things lie, physical and, unless a test maps otherwise, linear.
pub mod at {
    pub const IVT: u64 = 0;
    pub const GDT: u64 = 0x800;
    pub const TSS32: u64 = 0xA00;
    pub const TSS64: u64 = 0xB00;
    pub const HANDLERS: u64 = 0x1000;
    pub const IDT32: u64 = 0x2000;
    pub const IDT64: u64 = 0x3000;
    pub const RING0_STACK: u64 = 0x6000;
    pub const CODE: u64 = 0x7000;
    pub const DATA: u64 = 0x8000;
    pub const STACK: u64 = 0xF000;
    /// 32-bit paging: a directory and one table, for the first 4 MiB.
    pub const PD: u64 = 0x1_0000;
    pub const PT: u64 = 0x1_1000;
    /// PAE and 4-level paging: for the first 2 MiB.
    pub const PML4: u64 = 0x1_2000;
    pub const PDPT: u64 = 0x1_3000;
    pub const PD64: u64 = 0x1_4000;
    pub const PT64: u64 = 0x1_5000;
    /// Free pages for a test's own page tables and frames.
    pub const FREE: u64 = 0x2_0000;
}

pub const GDT_BYTES: u64 = 0x100;

pub mod selector {
    pub const CODE32: u16 = 0x08;
    pub const DATA32: u16 = 0x10;
    pub const CODE16: u16 = 0x18;
    pub const DATA16: u16 = 0x20;
    pub const USER_CODE32: u16 = 0x2B;
    pub const USER_DATA32: u16 = 0x33;
    pub const USER_CODE16: u16 = 0x3B;
    pub const USER_DATA16: u16 = 0x43;
    pub const CODE64: u16 = 0x48;
    pub const USER_CODE64: u16 = 0x53;
    pub const TSS32: u16 = 0x58;
    pub const TSS64: u16 = 0x60;
}

/// Page-table entry: present, writable, user.
pub const PTE_ALL: u64 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Real,
    V86,
    Pm16 { ring: u8 },
    Pm32 { ring: u8 },
    Paged32 { ring: u8 },
    Pae32 { ring: u8 },
    Compat,
    Long { ring: u8 },
}

impl Mode {
    pub const NAMED: [(&str, Mode); 13] = [
        ("real", Mode::Real),
        ("v86", Mode::V86),
        ("pm16", Mode::Pm16 { ring: 0 }),
        ("pm16r3", Mode::Pm16 { ring: 3 }),
        ("pm32", Mode::Pm32 { ring: 0 }),
        ("pm32r3", Mode::Pm32 { ring: 3 }),
        ("paged32", Mode::Paged32 { ring: 0 }),
        ("paged32r3", Mode::Paged32 { ring: 3 }),
        ("pae32", Mode::Pae32 { ring: 0 }),
        ("pae32r3", Mode::Pae32 { ring: 3 }),
        ("compat", Mode::Compat),
        ("long", Mode::Long { ring: 0 }),
        ("longr3", Mode::Long { ring: 3 }),
    ];

    pub fn bits(self) -> u32 {
        match self {
            Mode::Real | Mode::V86 | Mode::Pm16 { .. } => 16,
            Mode::Pm32 { .. } | Mode::Paged32 { .. } | Mode::Pae32 { .. } | Mode::Compat => 32,
            Mode::Long { .. } => 64,
        }
    }

    pub fn ring(self) -> u8 {
        match self {
            Mode::Real => 0,
            Mode::V86 | Mode::Compat => 3,
            Mode::Pm16 { ring }
            | Mode::Pm32 { ring }
            | Mode::Paged32 { ring }
            | Mode::Pae32 { ring }
            | Mode::Long { ring } => ring,
        }
    }

    fn ia32e(self) -> bool {
        matches!(self, Mode::Compat | Mode::Long { .. })
    }

    /// Bytes of one word of the frame that an interrupt pushes.
    fn frame_word(self) -> u64 {
        match self {
            Mode::Real => 2,
            _ if self.ia32e() => 8,
            _ => 4,
        }
    }

    fn selectors(self) -> (u16, u16) {
        use selector::*;
        match (self.bits(), self.ring()) {
            (16, 0) => (CODE16, DATA16),
            (16, _) => (USER_CODE16, USER_DATA16),
            (32, 0) => (CODE32, DATA32),
            (32, _) => (USER_CODE32, USER_DATA32),
            (_, 0) => (CODE64, DATA32),
            (_, _) => (USER_CODE64, USER_DATA32),
        }
    }
}

/// How the code ended, in the CPU's own terms: the registers are those of the code, not the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// HLT in ring 0, or in ring 3 the #GP that it raises at `rip`.
    Exception {
        vector: u8,
        error_code: Option<u32>,
    },
    Halt,
    /// Triple fault.
    Shutdown,
    /// Did not end by itself.
    Runaway,
    Error(String),
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub ending: Ending,
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub cs: u16,
    pub ss: u16,
    /// Where the exception pushed the flags, as a linear address.
    pub pushed_flags: Option<u64>,
}

pub struct Machine {
    pub vcpu: Vcpu,
    pub mode: Mode,
}

fn nowhere(_: u64) -> bool {
    false
}

/// The exceptions that push an error code (SDM vol. 3, table 6-1).
pub fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

/// The hidden part that loading `descriptor` (SDM vol. 3, figure 3-8) gives.
pub fn hidden(selector: u16, descriptor: u64) -> Segment {
    let attributes = (descriptor >> 40 & 0xFF | (descriptor >> 52 & 0xF) << 12) as u32;
    let limit = (descriptor & 0xFFFF | descriptor >> 32 & 0xF_0000) as u32;
    Segment {
        base: descriptor >> 16 & 0xFF_FFFF | descriptor >> 56 << 24,
        limit: if attributes & attr::G != 0 {
            limit << 12 | 0xFFF
        } else {
            limit
        },
        attributes,
        selector,
    }
}

const GDT: [u64; 32] = {
    let mut gdt = [0; 32];
    gdt[1] = 0x00CF_9B00_0000_FFFF;
    gdt[2] = 0x00CF_9300_0000_FFFF;
    gdt[3] = 0x0000_9B00_0000_FFFF;
    gdt[4] = 0x0000_9300_0000_FFFF;
    gdt[5] = 0x00CF_FB00_0000_FFFF;
    gdt[6] = 0x00CF_F300_0000_FFFF;
    gdt[7] = 0x0000_FB00_0000_FFFF;
    gdt[8] = 0x0000_F300_0000_FFFF;
    gdt[9] = 0x00AF_9B00_0000_FFFF;
    gdt[10] = 0x00AF_FB00_0000_FFFF;
    gdt[11] = 0x0000_8B00_0000_0067 | at::TSS32 << 16;
    gdt[12] = 0x0000_8B00_0000_0067 | at::TSS64 << 16;
    gdt
};

impl Machine {
    pub fn new(mode: Mode, backend: Backend) -> Machine {
        let memory = Memory::new(RAM_BYTES, RAM_BYTES).expect("RAM for a test");
        let vm = Arc::new(Vm {
            memory: memory.into(),
            io: IoMap::default(),
        });
        let model = Model::named("max").expect("the model `max`");
        let vcpu = Vcpu::new(vm, 0, model, backend).expect("a vCPU");
        let mut machine = Machine { vcpu, mode };
        machine.write_tables();
        machine.enter_mode();
        machine
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.vcpu.vm.memory.write(address, bytes, nowhere);
    }

    pub fn write_u64(&self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }

    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut out = [0; N];
        self.vcpu.vm.memory.read(address, &mut out, nowhere);
        out
    }

    fn write_tables(&self) {
        for (i, entry) in GDT.iter().enumerate() {
            self.write_u64(at::GDT + 8 * i as u64, *entry);
        }
        self.write(at::HANDLERS, &[0xF4; 256]);
        for vector in 0..256 {
            let handler = at::HANDLERS + vector;
            self.write(at::IVT + 4 * vector, &(handler as u32).to_le_bytes());
            let gate = handler | 0xEE00 << 32;
            let code32 = u64::from(selector::CODE32) << 16;
            let code64 = u64::from(selector::CODE64) << 16;
            self.write_u64(at::IDT32 + 8 * vector, gate | code32);
            self.write_u64(at::IDT64 + 16 * vector, gate | code64);
        }
        let stack = at::RING0_STACK | u64::from(selector::DATA32) << 32;
        self.write_u64(at::TSS32 + 4, stack);
        self.write_u64(at::TSS64 + 4, at::RING0_STACK);
        self.write(at::TSS32 + 102, &104u16.to_le_bytes());
        self.write(at::TSS64 + 102, &104u16.to_le_bytes());
        self.write_page_tables();
    }

    fn write_page_tables(&self) {
        self.write(at::PD, &((at::PT | PTE_ALL) as u32).to_le_bytes());
        for page in 0..RAM_BYTES >> 12 {
            let entry = page << 12 | PTE_ALL;
            self.write(at::PT + 4 * page, &(entry as u32).to_le_bytes());
            self.write_u64(at::PT64 + 8 * page, entry);
        }
        self.write_u64(at::PML4, at::PDPT | PTE_ALL);
        let pae = matches!(self.mode, Mode::Pae32 { .. });
        // A PDPTE of PAE paging has no R/W and U/S bits.
        self.write_u64(at::PDPT, at::PD64 | if pae { 1 } else { PTE_ALL });
        self.write_u64(at::PD64, at::PT64 | PTE_ALL);
    }

    /// Forgets what ran before, in another mode perhaps.
    pub fn renew(&mut self, mode: Mode) {
        self.mode = mode;
        self.vcpu.reset();
        self.write(0, &[0; RAM_BYTES as usize]);
        self.write_tables();
        self.enter_mode();
    }

    /// Puts the CPU into the mode, at CODE, as after a reset otherwise.
    pub fn enter_mode(&mut self) {
        let signature = self.vcpu.model.signature();
        let mut cpu = CpuState::reset(signature);
        cpu.fpu.init_x87();
        let mode = self.mode;
        cpu.gpr = [0; 16];
        cpu.gpr[gpr::RSP] = at::STACK;
        cpu.rip = at::CODE;
        cpu.cr0 = cr0::ET | cr0::NE | cr0::MP;
        cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        cpu.xcr0 = host_xcr0() & !(1 << 9);
        let base_only = |base| TableRegister {
            base,
            limit: 0xFFFF,
        };
        cpu.gdtr = TableRegister {
            base: at::GDT,
            limit: GDT_BYTES as u16 - 1,
        };
        cpu.idtr = match mode {
            Mode::Real => base_only(at::IVT),
            _ if mode.ia32e() => base_only(at::IDT64),
            _ => base_only(at::IDT32),
        };
        let task = if mode.ia32e() {
            selector::TSS64
        } else {
            selector::TSS32
        };
        cpu.tr = hidden(task, GDT[usize::from(task >> 3)]);
        if mode != Mode::Real {
            cpu.cr0 |= cr0::PE;
        }
        match mode {
            Mode::Paged32 { .. } => cpu.cr3 = at::PD,
            Mode::Pae32 { .. } | Mode::Compat | Mode::Long { .. } => {
                cpu.cr4 |= cr4::PAE;
                cpu.cr3 = if mode.ia32e() { at::PML4 } else { at::PDPT };
                cpu.pdpte = [at::PD64 | 1, 0, 0, 0];
                cpu.efer = efer::NXE;
            }
            _ => {}
        }
        if cpu.cr3 != 0 {
            cpu.cr0 |= cr0::PG | cr0::WP;
        }
        if mode.ia32e() {
            cpu.efer |= efer::LME | efer::LMA | efer::SCE;
        }
        cpu.cpl = mode.ring();
        load_segments(&mut cpu, mode);
        *self.vcpu.cpu = cpu;
        self.vcpu.flush_tlb_all();
    }

    /// Runs until the code ends: by HLT, or by an exception, whose handler halts.
    pub fn run(&mut self) -> Outcome {
        let exit = watched(&self.vcpu.shared.clone(), || self.vcpu.run());
        self.outcome(exit)
    }

    /// What there is to see after `exit`.
    pub fn outcome(&self, exit: Exit) -> Outcome {
        let cpu = &self.vcpu.cpu;
        let mut outcome = Outcome {
            ending: Ending::Halt,
            gpr: cpu.gpr,
            rip: cpu.rip,
            rflags: cpu.rflags,
            cs: cpu.seg[seg::CS].selector,
            ss: cpu.seg[seg::SS].selector,
            pushed_flags: None,
        };
        match exit {
            Exit::Halt => self.unwind(&mut outcome),
            Exit::Shutdown => outcome.ending = Ending::Shutdown,
            Exit::Kicked => outcome.ending = Ending::Runaway,
            _ => outcome.ending = Ending::Error(self.vcpu.error.clone().unwrap_or_default()),
        }
        outcome
    }

    /// If the CPU halted in a handler: the registers of the code that it interrupted.
    fn unwind(&self, outcome: &mut Outcome) {
        let Some(vector) = outcome.rip.checked_sub(at::HANDLERS + 1) else {
            return;
        };
        let Ok(vector) = u8::try_from(vector) else {
            return;
        };
        let word = self.mode.frame_word();
        let base = self.vcpu.cpu.seg[seg::SS].base;
        let mask = self.vcpu.cpu.stack_mask();
        let mut sp = outcome.gpr[gpr::RSP];
        let linear = |sp: u64| base.wrapping_add(sp & mask) & 0xFFFF_FFFF;
        let pop = |sp: &mut u64| {
            let bytes: [u8; 8] = self.read(linear(*sp));
            *sp = *sp & !mask | sp.wrapping_add(word) & mask;
            u64::from_le_bytes(bytes) & u64::MAX >> (64 - 8 * word)
        };
        // Real mode pushes no error codes.
        let pushes_code = self.mode != Mode::Real && has_error_code(vector);
        let error_code = pushes_code.then(|| pop(&mut sp) as u32);
        outcome.rip = pop(&mut sp);
        outcome.cs = pop(&mut sp) as u16;
        outcome.pushed_flags = Some(linear(sp));
        outcome.rflags = pop(&mut sp);
        let from_user = self.mode != Mode::Real && outcome.cs & 3 == 3;
        if self.mode.ia32e() || from_user || outcome.rflags & flags::VM != 0 {
            outcome.gpr[gpr::RSP] = pop(&mut sp);
            outcome.ss = pop(&mut sp) as u16;
        } else {
            outcome.gpr[gpr::RSP] = sp;
        }
        outcome.ending = Ending::Exception { vector, error_code };
    }
}

fn load_segments(cpu: &mut CpuState, mode: Mode) {
    let data = attr::P | attr::S | attr::WRITABLE | attr::ACCESSED;
    match mode {
        Mode::Real => {
            cpu.seg = [Segment::real(0, data); 6];
            cpu.seg[seg::CS].attributes |= attr::CODE;
        }
        Mode::V86 => {
            cpu.rflags |= flags::VM | flags::IOPL;
            cpu.seg = [Segment::real(0, data | 3 << attr::DPL_SHIFT); 6];
        }
        _ => {
            let (code, data) = mode.selectors();
            cpu.seg = [hidden(data, GDT[usize::from(data >> 3)]); 6];
            cpu.seg[seg::CS] = hidden(code, GDT[usize::from(code >> 3)]);
        }
    }
}

fn host_xcr0() -> u64 {
    if !std::is_x86_feature_detected!("xsave") {
        return 3;
    }
    // SAFETY: the processor has XSAVE, and every Linux that runs Rust programs enables it.
    unsafe { xgetbv0() }
}

#[target_feature(enable = "xsave")]
fn xgetbv0() -> u64 {
    // SAFETY: XCR0 can be read wherever the instruction exists.
    unsafe { core::arch::x86_64::_xgetbv(0) }
}

/// How long code may compute that has no reason to take more than a few milliseconds: of the thread's own
/// time, as busy hosts keep threads waiting.
const RUNAWAY: Duration = Duration::from_secs(2);

/// How often the watchdog looks.
const WATCH: Duration = Duration::from_millis(200);

/// By which clock it is how late when which vCPU is kicked.
type Watched = Mutex<Option<(libc::clockid_t, Duration, Arc<Shared>)>>;

/// The clock of the time that this thread computes.
fn own_clock() -> libc::clockid_t {
    let mut clock = 0;
    // SAFETY: the thread is the caller itself, and the result is its own.
    let error = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
    assert_eq!(error, 0, "threads have clocks");
    clock
}

/// What a clock shows; nothing if its thread has gone.
fn time_of(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the result is ours.
    unsafe { libc::clock_gettime(clock, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Runs `f`, and kicks the vCPU if that takes absurdly long: a wrong engine must not hang the tests.
fn watched<T>(shared: &Arc<Shared>, f: impl FnOnce() -> T) -> T {
    static WATCHED: OnceLock<&'static Mutex<Vec<&'static Watched>>> = OnceLock::new();
    thread_local!(static MINE: &'static Watched = {
        let mine: &'static Watched = Box::leak(Box::default());
        locked(watchdog(&WATCHED)).push(mine);
        mine
    });
    MINE.with(|mine| {
        let clock = own_clock();
        *locked(mine) = Some((clock, time_of(clock) + RUNAWAY, shared.clone()));
        let result = f();
        *locked(mine) = None;
        result
    })
}

/// The list of what is watched; its thread starts with the first use.
fn watchdog(
    list: &'static OnceLock<&'static Mutex<Vec<&'static Watched>>>,
) -> &'static Mutex<Vec<&'static Watched>> {
    list.get_or_init(|| {
        let all: &'static Mutex<Vec<&'static Watched>> = Box::leak(Box::default());
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(WATCH);
                for watched in locked(all).iter() {
                    if let Some((clock, until, shared)) = &*locked(watched)
                        && time_of(*clock) > *until
                    {
                        shared.kick();
                    }
                }
            }
        });
        all
    })
}
