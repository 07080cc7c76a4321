//! Forming a block: decoding, flag liveness, entries, the rules' frame and the cold code.
//!
//! A block is guest code of one page as it runs while no branch is taken: from its first instruction
//! over forward conditional branches (`MAX_BRANCHES` at most), which are exits, to the first other
//! that changes the flow (or the page's end, or `MAX_INSTRUCTIONS`); an instruction that straddles
//! two pages is a block of its own.  Its host code has five entries, each with the checks of those
//! below:
//!
//! | entry | reached by | checks |
//! |---|---|---|
//! | `indirect` | jump tables, target in R9 | R9 is this block's RIP |
//! | `guarded` | links from other pages | the virtual page still maps to this physical page |
//! | `lost` | the same where the flags aren't kept (`recover`) | the same |
//! | `polled` | backward links | `attention` |
//! | `main` | forward links, the dispatcher | |
//!
//! So every cycle of blocks passes a poll, and no link survives a change of mappings unseen.

use super::emit::{Alu, Asm, Cond, Label, Mem, R9, R10, R11, RCX, W32, W64};
use super::env::{Area, CODE_TLB_ENTRIES, code_slot};
use super::group::{self, Group};
use super::mode::{Mode, bit};
use super::recover::Plan;
use super::reencode::{self, Class, Unit};
use super::rules::{self, Rule};
use super::runtime::{
    MISS_GROUP, MISS_USER, MISS_WRITE, Thunks, area, emit_restore_flags, emit_save_flags, field,
};
use super::windowed::Addends;
use crate::memory::PAGE;
use iced_x86::{
    Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind, Register, RflagsBits,
};
use std::mem::offset_of;

/// Instructions in a block at most.
pub const MAX_INSTRUCTIONS: usize = 64;
/// Conditional branches in a block at most, that which ends it aside.
const MAX_BRANCHES: usize = 6;
/// Host code of a block at most, in bytes.
pub const MAX_CODE: usize = 48 << 10;

/// The flags that live in the host's RFLAGS, as iced names them.
pub const ARITHMETIC: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// A decoded instruction of a block.
pub struct Insn {
    pub ins: Instruction,
    pub bytes: [u8; 15],
    pub rule: Rule,
    /// Flags that code before this instruction must not clobber.
    pub live: u32,
}

impl Insn {
    pub fn raw(&self) -> &[u8] {
        &self.bytes[..self.ins.len()]
    }

    /// Whether the rule has flag-clobbering code before the instruction's own work.
    fn wants_free_flags(&self) -> bool {
        use Rule::*;
        match self.rule {
            Copy | CallIndirect | JmpIndirect => self.ins.op_kinds().any(|k| k == OpKind::Memory),
            Lea | Nothing | Jmp | Jcc | Loop | Jcxz | Rdtsc | Swapgs | FsGsBase | ReadSegment
            | Interpret | Assist | AssistFlow | Device | Repeat => false,
            _ => true,
        }
    }

    /// Whether flag-clobbering code may stand before the instruction's own work.
    pub fn flags_dead(&self) -> bool {
        self.live & ARITHMETIC == 0
    }
}

/// What follows a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// The next instruction.
    Next,
    /// Nothing: the rule ended the block.
    End,
}

/// Code out of the hot path, emitted after it.
pub enum Cold {
    /// Inline TLB miss: tag table at `table` (offset in Area), R9 = offset from the tag, R10 = index.
    Miss {
        at: Label,
        resume: Label,
        table: i32,
        what: u32,
        saved: bool,
        insn: usize,
    },
    /// The same for an address known at translation.
    ConstMiss {
        at: Label,
        resume: Label,
        linear: u64,
        what: u32,
        saved: bool,
        insn: usize,
    },
    /// The interpreter does instruction `insn`.
    Interpret {
        at: Label,
        saved: bool,
        insn: usize,
    },
    /// `attention` is set: leave with RIP at the block's start.
    Attend {
        at: Label,
        saved: bool,
    },
    /// The page check failed, the flags are saved: look the block up.
    Lookup {
        at: Label,
    },
    /// The same, and R11 tells where the flags are found.
    Recover {
        at: Label,
    },
    LoadFpu {
        at: Label,
        resume: Label,
    },
    /// An unlinked exit; `recover`: its target may need the flags.
    Link {
        at: Label,
        index: usize,
        recover: bool,
    },
}

/// A direct exit that may be linked.
pub struct Exit {
    /// Offset of the jump's rel32 in the block.
    pub field: usize,
    /// Offset of the stub that asks for linking.
    pub stub: usize,
    /// Offset of the rel32 of a jump in it that may be linked if the target needs the flags.
    pub recovering: Option<usize>,
    pub target: u64,
    pub entry: Entry,
}

/// The entry of the target that a link uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    Main,
    Polled,
    Guarded,
}

/// Offsets of a block's entries.
#[derive(Clone, Copy, Default, Debug)]
pub struct Entries {
    pub indirect: usize,
    pub lost: usize,
    pub guarded: usize,
    pub polled: usize,
    pub main: usize,
}

/// A virtual page and the identity that the code TLB must show for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCheck {
    pub vpn: u64,
    pub id: u32,
}

/// What a block is made from.
pub struct Source<'a> {
    pub mode: Mode,
    pub rip: u64,
    pub insns: &'a [Insn],
    pub page: PageCheck,
    /// The page that a straddling instruction ends in.
    pub second: Option<PageCheck>,
    /// Number of the first link that this block makes.
    pub first_link: u32,
    /// Stack accesses may share probes.
    pub grouped: bool,
    /// Memory is in windows.
    pub windowed: bool,
    /// How flags are found again behind its end.
    pub plan: Option<Plan>,
    /// The host has BMI2.
    pub bmi2: bool,
    /// Number of the first assist that it has.
    pub first_assist: u32,
    /// The CPU model has RDTSCP.
    pub has_rdtscp: bool,
}

impl Source<'_> {
    /// Whether the prologue copies the flags for the recovery.
    pub fn copies_flags_at_start(&self) -> bool {
        let copied = self.plan.is_some_and(|p| p.zone == 0 && p.copies_flags());
        copied && self.second.is_none()
    }

    /// Whether the block doesn't need the flags of its predecessor.
    fn carefree(&self) -> bool {
        let dead = self.insns.first().is_none_or(|i| i.flags_dead());
        dead && self.second.is_none() && !self.copies_flags_at_start()
    }
}

/// Emits one block.
pub struct Builder<'a> {
    pub asm: &'a mut Asm,
    pub thunks: &'a Thunks,
    pub source: &'a Source<'a>,
    pub cold: Vec<Cold>,
    pub exits: Vec<Exit>,
    /// Indices of the instructions that are assisted.
    pub assists: Vec<usize>,
    /// (host offset, guest offset from the block's RIP), ascending.
    pub map: Vec<(u32, u16)>,
    /// As in `Built`.
    pub immediates: Vec<(u16, u32)>,
    /// Index of the instruction being emitted.
    pub at: usize,
    fpu_checked: bool,
    /// The stack group that is probed.
    pub group: Option<Group>,
    /// Host code that recovers the flags, if there's a plan for it.
    recovery: Label,
    pub addends: Addends,
}

/// A finished block's layout; the code is in the assembler.  `build` takes the last one to reuse its
/// allocations.
#[derive(Default)]
pub struct Built {
    pub entries: Entries,
    pub exits: Vec<Exit>,
    pub assists: Vec<usize>,
    pub map: Vec<(u32, u16)>,
    /// Where 32-bit immediates of instructions stand: in the source, in the host code (offsets).
    pub immediates: Vec<(u16, u32)>,
    pub recovery: Option<Recovery>,
    /// It doesn't need the flags of its predecessor.
    pub carefree: bool,
    cold: Vec<Cold>,
}

/// How the flags of a block are found again.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// Offset of the zone's first instruction from the block's RIP.
    pub zone: u16,
    /// Offset of the host code.
    pub code: u32,
}

pub fn build(asm: &mut Asm, thunks: &Thunks, source: &Source, mut last: Built) -> Built {
    last.cold.clear();
    last.exits.clear();
    last.assists.clear();
    last.map.clear();
    last.immediates.clear();
    let recovery = asm.label();
    let mut b = Builder {
        asm,
        thunks,
        source,
        cold: last.cold,
        exits: last.exits,
        assists: last.assists,
        map: last.map,
        immediates: last.immediates,
        at: 0,
        fpu_checked: false,
        group: None,
        recovery,
        addends: Addends::default(),
    };
    let entries = b.prologue();
    b.body();
    b.cold_code();
    let recovery = b.recovery_code();
    Built {
        entries,
        exits: b.exits,
        assists: b.assists,
        map: b.map,
        immediates: b.immediates,
        recovery,
        carefree: source.carefree(),
        cold: b.cold,
    }
}

impl Builder<'_> {
    pub fn mode(&self) -> &Mode {
        &self.source.mode
    }

    pub fn insn(&self) -> &Insn {
        &self.source.insns[self.at]
    }

    fn code_tlb(&self, vpn: u64) -> Mem {
        let class = self.mode().class();
        let slot = class * CODE_TLB_ENTRIES + code_slot(vpn);
        field(offset_of!(Area, code_tlb) + 4 * slot)
    }

    /// `cmp r9, rip`.
    fn compare_target(&mut self) {
        let rip = self.source.rip;
        if rip as i32 as i64 as u64 == rip {
            self.asm.alu(Alu::Cmp, W64, R9, rip as i64);
        } else if !self.mode().code64() {
            self.asm.alu(Alu::Cmp, W32, R9, rip as i32);
        } else {
            self.asm.mov_imm64(R10, rip);
            self.asm.alu(Alu::Cmp, W64, R9, R10);
        }
    }

    /// With flags saved.
    fn check_page(&mut self, check: PageCheck) {
        let at = self.asm.label();
        let slot = self.code_tlb(check.vpn);
        self.asm.alu(Alu::Cmp, W32, slot, check.id as i32);
        self.asm.jcc(Cond::Ne, at);
        self.cold.push(Cold::Lookup { at });
    }

    fn check_attention(&mut self, saved: bool) {
        let at = self.asm.label();
        self.asm.alu(Alu::Cmp, W32, area!(attention), 0);
        self.asm.jcc(Cond::Ne, at);
        self.cold.push(Cold::Attend { at, saved });
    }

    fn prologue(&mut self) -> Entries {
        if self.source.carefree() {
            self.prologue_carefree()
        } else {
            self.prologue_flags_live()
        }
    }

    /// Where a check fails other code runs, which may need the flags: `guarded` keeps them, who comes
    /// by `indirect` or `lost` has told where they are found.
    fn prologue_carefree(&mut self) -> Entries {
        let (passed, poll) = (self.asm.label(), self.asm.label());
        let guarded = self.asm.position();
        let PageCheck { vpn, id } = self.source.page;
        let slot = self.code_tlb(vpn);
        self.asm.mov(W64, R11, RCX);
        self.asm.mov(W32, RCX, slot);
        self.asm.lea(W32, RCX, Mem::base(RCX).disp(-(id as i32)));
        self.asm.jrcxz(passed);
        self.asm.mov(W64, R9, self.source.rip);
        self.asm.jmp_to(self.thunks.lookup_kept);
        self.asm.bind(passed);
        self.asm.mov(W64, RCX, R11);
        self.asm.jmp_short(poll);
        let indirect = self.asm.position();
        self.compare_target();
        self.asm.jcc_to(Cond::Ne, self.thunks.recover);
        let lost = self.asm.position();
        let at = self.asm.label();
        self.asm.alu(Alu::Cmp, W32, slot, id as i32);
        self.asm.jcc(Cond::Ne, at);
        self.cold.push(Cold::Recover { at });
        self.asm.bind(poll);
        let polled = self.asm.position();
        self.check_attention(false);
        Entries {
            indirect,
            lost,
            guarded,
            polled,
            main: self.asm.position(),
        }
    }

    /// The same entries where the block's first instructions need the flags of its predecessor:
    /// each saves them around its checks.  Where the block only hands them on they stay saved.
    fn prologue_flags_live(&mut self) -> Entries {
        let (guard, poll, keep) = (self.asm.label(), self.asm.label(), self.asm.label());
        let copied = self.source.copies_flags_at_start();
        let unchecked = self.asm.position();
        if copied {
            emit_save_flags(self.asm);
            self.asm.jmp(keep);
        }
        let guarded = self.asm.position();
        emit_save_flags(self.asm);
        self.asm.jmp(guard);
        let polled = self.asm.position();
        emit_save_flags(self.asm);
        self.asm.jmp(poll);
        let indirect = self.asm.position();
        emit_save_flags(self.asm);
        self.compare_target();
        self.asm.jcc_to(Cond::Ne, self.thunks.lookup_saved);
        self.asm.bind(guard);
        self.check_page(self.source.page);
        self.asm.bind(poll);
        self.check_attention(true);
        if copied {
            self.asm.bind(keep);
            self.keep_saved_flags();
            return Entries {
                indirect,
                lost: guarded,
                guarded,
                polled,
                main: unchecked,
            };
        }
        emit_restore_flags(self.asm);
        let main = self.asm.position();
        if let Some(second) = self.source.second {
            emit_save_flags(self.asm);
            self.check_page(second);
            emit_restore_flags(self.asm);
        }
        Entries {
            indirect,
            lost: guarded,
            guarded,
            polled,
            main,
        }
    }

    fn body(&mut self) {
        for at in 0..self.source.insns.len() {
            self.at = at;
            self.mark(at);
            self.begin_zone();
            self.begin_group();
            if rules::emit(self) == Flow::End {
                return;
            }
            self.pass_addends();
            if let Some(group) = &mut self.group {
                group.moved(group::copied_delta(
                    &self.source.mode,
                    &self.source.insns[at],
                ));
            }
        }
        // The page or the length limit ended the block.
        if let Some(last) = self.source.insns.last() {
            let next = self.mode_ip(last.ins.next_ip());
            self.exit_to(next);
        }
    }

    /// Ends the stack group that doesn't cover the current instruction, probes for a new one.
    fn begin_group(&mut self) {
        if self.group.is_some_and(|g| self.at < g.end) {
            return;
        }
        self.group = None;
        if !self.source.grouped {
            return;
        }
        let Some(group) = group::find(self.mode(), self.source.insns, self.at) else {
            return;
        };
        let live = !self.insn().flags_dead();
        let low = Mem::base(group.base).disp(group.low);
        self.asm
            .lea(if self.mode().code64() { W64 } else { W32 }, R9, low);
        self.probe_linear(group.bytes as usize, group.write, live, MISS_GROUP);
        self.group = Some(group);
    }

    /// The host place of the group's base + `offset`, if one is probed for.
    pub fn grouped(&self, offset: i32) -> Option<Mem> {
        self.group.map(|g| g.place(offset))
    }

    /// Whether the current instruction is the block's last.
    pub fn is_last(&self) -> bool {
        self.at + 1 == self.source.insns.len()
    }

    /// Host code from here on belongs to instruction `at`.
    fn mark(&mut self, at: usize) {
        let delta = self.source.insns[at].ins.ip().wrapping_sub(self.source.rip) as u16;
        self.map.push((self.asm.position() as u32, delta));
    }

    /// An instruction pointer wrapped to the code size.
    pub fn mode_ip(&self, ip: u64) -> u64 {
        match self.mode().code_bits() {
            64 => ip,
            32 => ip & 0xFFFF_FFFF,
            _ => ip & 0xFFFF_FFFF,
        }
    }

    /// Remembers where the current instruction's immediate stands, which the host code so far ends
    /// with: only instructions that nothing was decided by the value of.
    pub fn note_immediate(&mut self) {
        let ins = &self.insn().ins;
        let register = ins.op0_kind() == OpKind::Register && ins.op0_register().is_gpr32();
        // Those in memory have stores behind them; the stack pointer's changes are reckoned with.
        if ins.op_count() != 2
            || ins.op1_kind() != OpKind::Immediate32
            || !register
            || register_number(ins.op0_register()) == 4
            || host_register(register_number(ins.op0_register())).is_none()
        {
            return;
        }
        let end = ins.next_ip().wrapping_sub(self.source.rip) as u16;
        let here = self.asm.position() as u32;
        let relied_on = |plan: Plan| plan.uses_immediate_of(self.at);
        if !self.asm.bytes().ends_with(&ins.immediate32().to_le_bytes())
            || self.source.plan.is_some_and(relied_on)
        {
            return;
        }
        self.immediates.push((end - 4, here - 4));
    }

    // --- exits ---

    /// Jumps to `target` (RIP), linkable: to its stub at first.
    pub fn exit_to(&mut self, target: u64) {
        let recover = self.is_last() && self.source.plan.is_some();
        if recover && self.entry_for(target) == Entry::Guarded {
            self.asm.lea_label(R11, self.recovery);
        }
        let field = self.asm.jmp_patchable(self.asm.address());
        self.push_exit(field, target, recover);
    }

    /// Jumps to `target` if `cond`, linkable.
    pub fn exit_if(&mut self, cond: Cond, target: u64) {
        let field = self.asm.jcc_patchable(cond, self.asm.address());
        self.push_exit(field, target, false);
    }

    fn push_exit(&mut self, field: usize, target: u64, recover: bool) {
        let (at, index) = (self.asm.label(), self.exits.len());
        let entry = self.entry_for(target);
        self.exits.push(Exit {
            field,
            stub: field,
            recovering: None,
            target,
            entry,
        });
        self.cold.push(Cold::Link { at, index, recover });
    }

    fn entry_for(&self, target: u64) -> Entry {
        let base = self.mode().cs_base as u64;
        let page = |ip: u64| base.wrapping_add(ip) & 0xFFFF_FFFF_FFFF_F000;
        let here = self.insn().ins.ip();
        if self.source.second.is_some() || page(target) != page(self.source.rip) {
            Entry::Guarded
        } else if target <= here {
            Entry::Polled
        } else {
            Entry::Main
        }
    }

    /// Goes to the RIP in R9.
    pub fn exit_indirect(&mut self) {
        let class = self.mode().class();
        if self.source.plan.is_none() {
            self.keep_flags();
        }
        self.asm.lea_label(R11, self.recovery);
        let table = offset_of!(Area, jump) + class * size_of::<[u64; super::env::JUMP_ENTRIES]>();
        self.asm.movzx(W32, R10, super::emit::W16, R9);
        let slot = Mem::base(super::emit::RSP).index(R10, 8).disp(table as i32);
        self.asm.jmp_indirect(slot);
    }

    /// Leaves for the interpreter to do the current instruction.
    pub fn exit_interpret(&mut self) -> Flow {
        let at = self.asm.label();
        self.asm.jmp(at);
        self.cold.push(Cold::Interpret {
            at,
            saved: false,
            insn: self.at,
        });
        Flow::End
    }

    /// Leaves for the interpreter to do the current instruction if `cond`; nothing was changed yet.
    pub fn interpret_if(&mut self, cond: Cond, saved: bool) {
        let at = self.asm.label();
        self.asm.jcc(cond, at);
        self.cold.push(Cold::Interpret {
            at,
            saved,
            insn: self.at,
        });
    }

    /// The same if an interrupt waits for IF.  Flags are free.
    pub fn interpret_if_interrupt_waits(&mut self, saved: bool) {
        self.asm.alu(Alu::Cmp, W32, area!(interrupt_waits), 0);
        self.interpret_if(Cond::Ne, saved);
    }

    /// `mov [cpu.rip], rip`; R9 may be lost.
    pub fn store_rip(&mut self, rip: u64) {
        if rip as i32 as i64 as u64 == rip {
            self.asm.mov(W64, area!(cpu.rip), rip as i64);
        } else {
            self.asm.mov(W64, R9, rip);
            self.asm.mov(W64, area!(cpu.rip), R9);
        }
    }

    /// Calls the current instruction's assist, which doesn't come back here if the flow changes.
    pub fn assist(&mut self) {
        self.call_with_number(self.thunks.assist);
    }

    /// Has the dispatcher do the current instruction and come back here.
    pub fn access_device(&mut self) {
        self.call_with_number(self.thunks.device);
        // Outside of translated code the FPU's state is in memory.
        self.fpu_checked = false;
    }

    /// Calls a thunk with a number for the current instruction, known to `Jit::assists`, in R10.
    fn call_with_number(&mut self, thunk: u64) {
        let number = self.source.first_assist + self.assists.len() as u32;
        self.assists.push(self.at);
        self.store_rip(self.insn().ins.ip());
        self.asm.mov(W32, R10, number as i32);
        self.asm.call_to(thunk);
    }

    // --- cold code ---

    /// Emits all cold code, the exits' stubs among it.
    fn cold_code(&mut self) {
        let mut cold = std::mem::take(&mut self.cold);
        for c in cold.drain(..) {
            match c {
                Cold::Miss {
                    at,
                    resume,
                    table,
                    what,
                    saved,
                    insn,
                } => {
                    self.asm.bind(at);
                    self.mark(insn);
                    let tag = Mem::base(super::emit::RSP).index(R10, 1).disp(table);
                    self.asm.alu(Alu::Add, W64, R9, tag);
                    self.miss(what, saved);
                    self.asm.jmp(resume);
                }
                Cold::ConstMiss {
                    at,
                    resume,
                    linear,
                    what,
                    saved,
                    insn,
                } => {
                    self.asm.bind(at);
                    self.mark(insn);
                    self.asm.mov(W64, R9, linear);
                    self.miss(what, saved);
                    let offset = (linear % PAGE) as i32;
                    self.asm.lea(W64, R9, Mem::base(R9).disp(-offset));
                    self.asm.jmp(resume);
                }
                Cold::Interpret { at, insn, .. } if self.in_zone(insn) => {
                    self.asm.bind(at);
                    self.mark(insn);
                    self.asm.call_to(self.thunks.interpret_here);
                    // The return address must belong to this instruction.
                    self.asm.int3();
                }
                Cold::Interpret { at, saved, insn } => {
                    self.asm.bind(at);
                    if saved {
                        emit_restore_flags(self.asm);
                    }
                    self.store_rip(self.source.insns[insn].ins.ip());
                    self.asm.jmp_to(self.thunks.exit_interpret);
                }
                Cold::Attend { at, saved } => {
                    self.asm.bind(at);
                    if saved {
                        emit_restore_flags(self.asm);
                    }
                    self.store_rip(self.source.rip);
                    self.asm.jmp_to(self.thunks.exit_attend);
                }
                Cold::Lookup { at } => {
                    self.asm.bind(at);
                    self.asm.mov(W64, R9, self.source.rip);
                    self.asm.jmp_to(self.thunks.lookup_saved);
                }
                Cold::Recover { at } => {
                    self.asm.bind(at);
                    self.asm.mov(W64, R9, self.source.rip);
                    self.asm.jmp_to(self.thunks.recover);
                }
                Cold::LoadFpu { at, resume } => {
                    self.asm.bind(at);
                    self.asm.call_to(self.thunks.load_fpu);
                    self.asm.jmp(resume);
                }
                Cold::Link { at, index, recover } => {
                    self.asm.bind(at);
                    self.exits[index].stub = self.asm.position();
                    self.asm.retarget_here(self.exits[index].field);
                    if recover {
                        self.emit_recovery();
                        let field = self.asm.jmp_patchable(self.asm.address());
                        self.asm.retarget_here(field);
                        self.exits[index].recovering = Some(field);
                    }
                    let number = self.source.first_link + index as u32;
                    self.asm.mov(W32, area!(exit_link), number as i32);
                    self.asm.jmp_to(self.thunks.exit_link);
                }
            }
        }
        self.cold = cold;
    }

    /// Whether the flags before instruction `at` are neither in the host's register nor overwritten.
    fn in_zone(&self, at: usize) -> bool {
        self.source.plan.is_some_and(|plan| at >= plan.zone)
    }

    /// What R11 and the dispatcher call to have the flags back.  It belongs to the block's last
    /// instruction, which tells `Vcpu::undo_branch` who branched.
    fn recovery_code(&mut self) -> Option<Recovery> {
        self.asm.bind(self.recovery);
        let indirect = |i: &Insn| {
            use Rule::*;
            matches!(i.rule, Ret | CallIndirect | JmpIndirect)
        };
        if self.source.insns.last().is_some_and(indirect) {
            self.mark(self.source.insns.len() - 1);
            if self.source.plan.is_none() {
                let class = self.mode().class();
                self.asm.jmp_to(self.thunks.recover_kept[class]);
            }
        }
        let plan = self.source.plan?;
        let code = self.asm.position() as u32;
        self.emit_recovery();
        let recovered = self.recovered();
        self.asm.jmp_indirect(recovered);
        let zone = self.source.insns.get(plan.zone)?.ins.ip();
        let zone = zone.wrapping_sub(self.source.rip) as u16;
        Some(Recovery { zone, code })
    }

    fn miss(&mut self, what: u32, saved: bool) {
        self.asm.mov(W32, R10, what as i32);
        let thunk = if saved {
            self.thunks.miss_saved
        } else {
            self.thunks.miss
        };
        self.asm.call_to(thunk);
    }

    // --- memory ---

    /// The miss thunk's description of an access.
    fn what(&self, size: usize, write: bool) -> u32 {
        let user = if self.mode().has(bit::USER) {
            MISS_USER
        } else {
            0
        };
        size as u32 | if write { MISS_WRITE } else { 0 } | user
    }

    fn table(&self, write: bool) -> i32 {
        let class = self.mode().class();
        let tlb = offset_of!(Area, tlb) + class * size_of::<super::env::Tlb>();
        let part = if write {
            offset_of!(super::env::Tlb, write)
        } else {
            offset_of!(super::env::Tlb, read)
        };
        (tlb + part) as i32
    }

    /// Limit check and base of segment register `segment` for the offset in R9.  Flags are free.
    pub fn add_segment(&mut self, segment: usize, size: usize, write: bool, saved: bool) {
        use crate::state::{CpuState, Segment, seg};
        let base =
            offset_of!(CpuState, seg) + segment * size_of::<Segment>() + offset_of!(Segment, base);
        if self.mode().code64() {
            if segment >= seg::FS {
                self.asm.alu(Alu::Add, W64, R9, field(base));
            }
            return;
        }
        // Code is never writable in protected mode, however flat.
        if self.mode().is_flat(segment) && !(write && segment == seg::CS) {
            return;
        }
        let limits = if write {
            offset_of!(Area, writable)
        } else {
            offset_of!(Area, readable)
        };
        let at = self.asm.label();
        self.asm.lea(W64, R10, Mem::base(R9).disp(size as i32));
        self.asm
            .alu(Alu::Cmp, W64, R10, field(limits + 8 * segment));
        self.asm.jcc(Cond::A, at);
        self.cold.push(Cold::Interpret {
            at,
            saved,
            insn: self.at,
        });
        self.asm.alu(Alu::Add, W32, R9, field(base));
    }

    fn needs_base(&self, segment: usize) -> bool {
        use crate::state::seg;
        if self.mode().code64() {
            segment >= seg::FS
        } else {
            !self.mode().is_flat(segment)
        }
    }

    /// Turns the offset in R9 (already wrapped to the address size) into a host address in R9.
    /// `live`: the flags are kept.
    pub fn probe(&mut self, segment: usize, size: usize, write: bool, live: bool) {
        if live {
            emit_save_flags(self.asm);
        }
        self.probe_with(segment, size, write, live);
        if live {
            emit_restore_flags(self.asm);
        }
    }

    /// The same where the flags are `saved` or of no interest.
    pub fn probe_with(&mut self, segment: usize, size: usize, write: bool, saved: bool) {
        self.add_segment(segment, size, write, saved);
        self.probe_saved(size, write, saved, 0);
    }

    /// The same for a linear address in R9; `extra`: MISS_ bits.
    fn probe_linear(&mut self, size: usize, write: bool, live: bool, extra: u32) {
        if live {
            emit_save_flags(self.asm);
        }
        self.probe_saved(size, write, live, extra);
        if live {
            emit_restore_flags(self.asm);
        }
    }

    fn probe_saved(&mut self, size: usize, write: bool, saved: bool, extra: u32) {
        let table = self.table(write);
        let (at, resume) = (self.asm.label(), self.asm.label());
        if self.source.bmi2 {
            // What rotates to the top is masked off.
            self.asm.rorx(W32, R10, R9, 8);
        } else {
            self.asm.mov(W32, R10, R9);
            self.asm.shift(super::emit::Shift::Shr, W32, R10, 8);
        }
        self.asm.alu(Alu::And, W32, R10, 0x3FF0);
        let slot = Mem::base(super::emit::RSP).index(R10, 1).disp(table);
        self.asm.alu(Alu::Sub, W64, R9, slot);
        self.asm
            .alu(Alu::Cmp, W64, R9, (PAGE as usize - size) as i32);
        self.asm.jcc(Cond::A, at);
        self.asm.alu(Alu::Add, W64, R9, slot.disp(table + 8));
        self.asm.bind(resume);
        let what = self.what(size, write) | extra;
        self.cold.push(Cold::Miss {
            at,
            resume,
            table,
            what,
            saved,
            insn: self.at,
        });
    }

    /// The host address of a linear address known now, as `[r9 + disp]`; None if it straddles pages.
    fn probe_const(&mut self, linear: u64, size: usize, write: bool, live: bool) -> Option<Mem> {
        let offset = linear % PAGE;
        if offset + size as u64 > PAGE {
            return None;
        }
        if live {
            emit_save_flags(self.asm);
        }
        let page = linear - offset;
        let index = (linear >> 12) as usize % super::env::TLB_ENTRIES;
        let tag = self.table(write) + 16 * index as i32;
        let (at, resume) = (self.asm.label(), self.asm.label());
        if page as i32 as i64 as u64 == page {
            self.asm
                .alu(Alu::Cmp, W64, field(tag as usize), page as i64);
        } else {
            self.asm.mov(W64, R9, page);
            self.asm.alu(Alu::Cmp, W64, R9, field(tag as usize));
        }
        self.asm.jcc(Cond::Ne, at);
        self.asm.mov(W64, R9, field(tag as usize + 8));
        self.asm.bind(resume);
        let what = self.what(size, write);
        self.cold.push(Cold::ConstMiss {
            at,
            resume,
            linear,
            what,
            saved: live,
            insn: self.at,
        });
        if live {
            emit_restore_flags(self.asm);
        }
        Some(Mem::base(R9).disp(offset as i32))
    }

    /// The host place of the current instruction's memory operand; None: the interpreter must.
    pub fn memory(&mut self, size: usize, write: bool) -> Option<Mem> {
        let insn = self.insn();
        let (ins, live) = (insn.ins, !insn.flags_dead());
        if let Some(mem) = self.grouped(ins.memory_displacement64() as i32) {
            return Some(mem);
        }
        if self.source.windowed {
            return Some(self.window_memory(&ins, size, write));
        }
        let segment = crate::interp::operand::segment_number(ins.memory_segment());
        if let Some(offset) = const_address(&ins, self.mode())
            && !self.needs_base(segment)
            && (!write || segment != crate::state::seg::CS || self.mode().code64())
        {
            return self.probe_const(offset, size, write, live);
        }
        self.effective_address(&ins);
        self.probe(segment, size, write, live);
        Some(Mem::base(R9))
    }

    /// The memory operand's address over registers that are all in host registers, if 16-bit
    /// wrapping has no part in it.
    pub fn resident_address(&self, ins: &Instruction) -> Option<Mem> {
        if const_address(ins, self.mode()).is_some() || address_bits(ins, self.mode()) == 16 {
            return None;
        }
        let host = |r: Register| host_register(register_number(r));
        let base = match ins.memory_base() {
            Register::None => None,
            r => Some(host(r)?),
        };
        let index = match ins.memory_index() {
            Register::None => None,
            r => Some((host(r)?, ins.memory_index_scale() as u8)),
        };
        let disp = ins.memory_displacement64() as i32;
        Some(Mem {
            base,
            index,
            disp,
            seg: None,
            addr32: false,
        })
    }

    /// R9 = the effective address of the memory operand, wrapped.  Keeps flags; R10 is lost.
    pub fn effective_address(&mut self, ins: &Instruction) {
        let width = address_bits(ins, self.mode());
        let (base, index) = (ins.memory_base(), ins.memory_index());
        if let Some(address) = const_address(ins, self.mode()) {
            self.asm.mov(W64, R9, address);
            return;
        }
        let index_host = match index {
            Register::None => None,
            r => Some((self.address_register(r, R9), ins.memory_index_scale() as u8)),
        };
        let base_host = match base {
            Register::None => None,
            r => Some(self.address_register(r, R10)),
        };
        let disp = match width {
            16 => ins.memory_displacement64() as i16 as i32,
            _ => ins.memory_displacement64() as i32,
        };
        let mem = Mem {
            base: base_host,
            index: index_host,
            disp,
            seg: None,
            addr32: false,
        };
        match width {
            64 => self.asm.lea(W64, R9, mem),
            32 => self.asm.lea(W32, R9, mem),
            _ => {
                self.asm.lea(W32, R9, mem);
                self.asm.movzx(W32, R9, super::emit::W16, R9);
            }
        }
    }

    /// The host register that holds a guest register of an address; loads homed ones into `scratch`.
    fn address_register(&mut self, r: Register, scratch: super::emit::Gpr) -> super::emit::Gpr {
        let number = register_number(r);
        match host_register(number) {
            Some(host) => host,
            None => {
                self.asm.mov(W64, scratch, super::runtime::gpr_home(number));
                scratch
            }
        }
    }

    // --- the FPU ---

    /// Makes sure that the guest's FPU and SIMD state is in the registers.
    pub fn need_fpu(&mut self) {
        if std::mem::replace(&mut self.fpu_checked, true) {
            return;
        }
        if self.insn().flags_dead() {
            let (at, resume) = (self.asm.label(), self.asm.label());
            self.asm.alu(Alu::Cmp, W32, area!(fpu_live), 0);
            self.asm.jcc(Cond::E, at);
            self.asm.bind(resume);
            self.cold.push(Cold::LoadFpu { at, resume });
            return;
        }
        let loaded = self.asm.label();
        self.addends.forget();
        emit_save_flags(self.asm);
        self.asm.alu(Alu::Cmp, W32, area!(fpu_live), 0);
        self.asm.jcc_short(Cond::Ne, loaded);
        self.asm.call_to(self.thunks.load_fpu);
        self.asm.bind(loaded);
        emit_restore_flags(self.asm);
    }
}

/// Number of a general register of any width but AH to BH.
pub fn register_number(r: Register) -> usize {
    r.full_register() as usize - Register::RAX as usize
}

/// Whether LEA needs no scratch register here.
pub fn resident_lea(ins: &Instruction, mode: &Mode) -> bool {
    let host = |r: Register| r == Register::None || host_register(register_number(r)).is_some();
    const_address(ins, mode).is_none()
        && address_bits(ins, mode) != 16
        && host(ins.memory_base())
        && host(ins.memory_index())
        && host(ins.op0_register())
        && ins.op0_register().size() >= 4
}

/// Which host register holds guest register `number`, if any.
pub fn host_register(number: usize) -> Option<super::emit::Gpr> {
    use super::emit::Gpr;
    match number {
        4 => Some(super::emit::R8),
        8..=11 => None,
        n => Some(Gpr(n as u8)),
    }
}

/// Address size of a memory operand, in bits.
pub fn address_bits(ins: &Instruction, mode: &Mode) -> u32 {
    let r = match (ins.memory_base(), ins.memory_index()) {
        (Register::None, Register::None) => {
            return match ins.memory_displ_size() {
                2 => 16,
                4 if !mode.code64() => 32,
                _ => mode.code_bits().max(32),
            };
        }
        (Register::None, index) => index,
        (base, _) => base,
    };
    8 * r.size() as u32
}

/// The offset of a memory operand without registers.
pub fn const_address(ins: &Instruction, mode: &Mode) -> Option<u64> {
    if ins.is_ip_rel_memory_operand() {
        return Some(ins.ip_rel_memory_address());
    }
    if ins.memory_base() != Register::None || ins.memory_index() != Register::None {
        return None;
    }
    let displacement = ins.memory_displacement64();
    Some(if mode.code64() {
        displacement
    } else {
        displacement & 0xFFFF_FFFF
    })
}

/// A copy of a code page, as far as it was looked at: the guest's may change meanwhile.
pub struct PageCopy {
    bytes: Box<[u8; PAGE_BYTES]>,
    host: u64,
    /// Offsets of the part that was copied.
    low: usize,
    high: usize,
}

const PAGE_BYTES: usize = PAGE as usize;

impl Default for PageCopy {
    fn default() -> PageCopy {
        PageCopy {
            bytes: Box::new([0; PAGE_BYTES]),
            host: 0,
            low: 0,
            high: 0,
        }
    }
}

impl PageCopy {
    /// Turns to another page.
    ///
    /// # Safety
    /// The page at `host` is readable as long as this is used for it.
    pub unsafe fn start(&mut self, host: *const u8) {
        (self.host, self.low, self.high) = (host as u64, 0, 0);
    }

    /// The bytes from `offset` on: at least `wanted` of them, or all that the page has.
    pub fn from(&mut self, offset: usize, wanted: usize) -> &[u8] {
        let end = (offset + wanted).next_multiple_of(64).min(PAGE_BYTES);
        let begin = offset.min(end) & !63;
        if self.low == self.high {
            (self.low, self.high) = (begin, begin);
        }
        if begin < self.low {
            self.copy(begin, self.low);
            self.low = begin;
        }
        if end > self.high {
            self.copy(self.high, end);
            self.high = end;
        }
        &self.bytes[offset.min(self.high)..self.high]
    }

    fn copy(&mut self, from: usize, to: usize) {
        let target = &mut self.bytes[from..to];
        // SAFETY: inside the page, which `start`'s caller says is readable.
        unsafe {
            let source = (self.host as *const u8).add(from);
            std::ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len());
        }
    }
}

/// Bytes of a page that most blocks lie in.
const WINDOW: usize = 128;

/// What is known about the flags in a block besides `Insn::live`.
#[derive(Default)]
pub struct Liveness {
    /// Bytes beyond the block that it depends on, as a range of RIPs.
    pub peeked: Option<(u64, u64)>,
    /// How flags are found again behind its end.
    pub plan: Option<Plan>,
}

/// Decodes a block at `offset` of a page, and finds which flags are live where.
pub fn decode(
    mode: &Mode,
    rip: u64,
    page: &mut PageCopy,
    offset: usize,
    insns: &mut Vec<Insn>,
    of_device: impl Fn(u64) -> bool,
) -> Liveness {
    if decode_up_to(
        MAX_INSTRUCTIONS,
        mode,
        rip,
        page.from(offset, WINDOW),
        insns,
    ) {
        decode_up_to(
            MAX_INSTRUCTIONS,
            mode,
            rip,
            page.from(offset, PAGE_BYTES),
            insns,
        );
    }
    for insn in insns.iter_mut().filter(|insn| may_be_of_device(insn)) {
        if of_device(insn.ins.ip()) {
            insn.rule = Rule::Device;
        }
    }
    if mode.has(bit::ALL_FLAGS_LIVE) {
        return Liveness::default();
    }
    liveness(mode, page, rip.wrapping_sub(offset as u64), insns)
}

/// Whether the instruction can have `Rule::Device` because of what it accesses.
pub fn may_be_of_device(insn: &Insn) -> bool {
    insn.rule == Rule::Copy
        && reencode::memory_operand(&insn.ins).is_some()
        && reencode::unit(&insn.ins) == Unit::Integer
}

/// Decodes the one instruction at `bytes`, which straddles two pages.
pub fn decode_straddling(mode: &Mode, rip: u64, bytes: &[u8], insns: &mut Vec<Insn>) {
    decode_up_to(1, mode, rip, bytes, insns);
    if !mode.has(bit::ALL_FLAGS_LIVE) {
        propagate(insns, None, |_, _| ARITHMETIC);
    }
}

/// Decodes to a block's end or to that of `bytes`; whether more of these could have added more.
fn decode_up_to(limit: usize, mode: &Mode, rip: u64, bytes: &[u8], insns: &mut Vec<Insn>) -> bool {
    insns.clear();
    let mut decoder = Decoder::with_ip(mode.code_bits(), bytes, rip, DecoderOptions::NONE);
    let (mut cut_short, mut branches) = (false, 0);
    while insns.len() < limit {
        let start = decoder.position();
        cut_short = start + 15 > bytes.len();
        if !decoder.can_decode() {
            break;
        }
        let ins = decoder.decode();
        if ins.is_invalid() {
            break;
        }
        cut_short = false;
        if !mode.code64() && ins.next_ip().wrapping_sub(1) > mode.cs_limit as u64 {
            break;
        }
        let mut raw = [0; 15];
        raw[..ins.len()].copy_from_slice(&bytes[start..start + ins.len()]);
        let rule = rules::rule(mode, &ins);
        insns.push(Insn {
            ins,
            bytes: raw,
            rule,
            live: ARITHMETIC,
        });
        if rule == Rule::Jcc && branches < MAX_BRANCHES && ins.near_branch_target() > ins.ip() {
            branches += 1;
        } else if rule.ends_block() {
            break;
        }
    }
    if let Some(last) = insns.last_mut()
        && last.rule == Rule::Sti
    {
        // Its shadow covers an instruction of the next block: only the interpreter knows how.
        last.rule = Rule::Interpret;
    }
    cut_short
}

/// Fills in `Insn::live`.
fn liveness(mode: &Mode, page: &mut PageCopy, start: u64, insns: &mut [Insn]) -> Liveness {
    let Some(last) = insns.last().map(|last| last.rule) else {
        return Liveness::default();
    };
    let mut plan = matches!(last, Rule::Ret | Rule::CallIndirect | Rule::JmpIndirect)
        .then(|| Plan::new(mode, insns));
    let at_end = |plan: Option<Plan>| if plan.is_some() { 0 } else { ARITHMETIC };
    propagate(insns, plan, |_, is_last| match is_last {
        true => at_end(plan),
        false => ARITHMETIC,
    });
    let hindered = |insns: &[Insn]| {
        let hinders = |i: &&Insn| !i.flags_dead() && i.wants_free_flags();
        insns.iter().filter(hinders).count()
    };
    let before = hindered(insns);
    if before == 0 {
        return Liveness { peeked: None, plan };
    }
    let mut seen = Peek {
        mode,
        page,
        start,
        low: u64::MAX,
        high: 0,
    };
    let peek = |insns: &mut [Insn], plan: Option<Plan>, seen: &mut Peek| {
        propagate(insns, plan, |insn, is_last| match (is_last, plan) {
            (true, Some(_)) => 0,
            (true, None) => seen.live_after(insn),
            (false, _) => seen.live_at(insn.ins.near_branch_target()),
        });
    };
    peek(insns, plan, &mut seen);
    if matches!(last, Rule::Call | Rule::Jmp) && hindered(insns) > 0 {
        plan = Some(Plan::new(mode, insns));
        peek(insns, plan, &mut seen);
    }
    let helped = seen.low < seen.high && hindered(insns) < before;
    let peeked = helped.then_some((seen.low, seen.high));
    Liveness { peeked, plan }
}

/// `live_at_exit` tells which flags are live where an instruction leaves the block: after the last
/// one (with `true`), or where a branch inside goes if it is taken.
fn propagate(
    insns: &mut [Insn],
    plan: Option<Plan>,
    mut live_at_exit: impl FnMut(&Insn, bool) -> u32,
) {
    let mut live = 0;
    let last = insns.len().saturating_sub(1);
    let copied = plan.filter(Plan::copies_flags).map(|plan| plan.zone);
    for (at, insn) in insns.iter_mut().enumerate().rev() {
        if at == last || insn.rule == Rule::Jcc && live != ARITHMETIC {
            live |= live_at_exit(insn, at == last);
        }
        let (read, killed) = flag_use(insn);
        live = live & !killed | read;
        insn.live = live;
        if copied == Some(at) {
            live = ARITHMETIC;
        }
    }
}

/// A look at the code that follows a block inside the same page: which flags does it need?
struct Peek<'a> {
    mode: &'a Mode,
    page: &'a mut PageCopy,
    /// RIP of the page's first byte.
    start: u64,
    /// What was looked at, in RIPs.
    low: u64,
    high: u64,
}

/// Instructions looked at after a branch.
const PEEK: usize = 6;

impl Peek<'_> {
    fn live_after(&mut self, last: &Insn) -> u32 {
        let (target, next) = (last.ins.near_branch_target(), last.ins.next_ip());
        match last.rule {
            Rule::Jmp | Rule::Call => self.live_at(target),
            Rule::Jcc | Rule::Loop | Rule::Jcxz => match self.live_at(target) {
                ARITHMETIC => ARITHMETIC,
                live => live | self.live_at(next),
            },
            r if r.ends_block() => ARITHMETIC,
            _ => self.live_at(next),
        }
    }

    /// Flags that code at `rip` may read before it overwrites them.
    fn live_at(&mut self, rip: u64) -> u32 {
        let offset = rip.wrapping_sub(self.start);
        if offset >= PAGE {
            return ARITHMETIC;
        }
        let code = self.page.from(offset as usize, PEEK * 15);
        let bits = self.mode.code_bits();
        let mut decoder = Decoder::with_ip(bits, code, rip, DecoderOptions::NONE);
        let (mut needed, mut open) = (0, ARITHMETIC);
        for _ in 0..PEEK {
            if open == 0 || !decoder.can_decode() {
                break;
            }
            let ins = decoder.decode();
            if ins.is_invalid() {
                break;
            }
            let rule = rules::rule(self.mode, &ins);
            let insn = Insn {
                ins,
                bytes: [0; 15],
                rule,
                live: 0,
            };
            let (read, killed) = flag_use(&insn);
            needed |= read & open;
            open &= !killed;
            if rule.ends_block() {
                break;
            }
        }
        self.low = self.low.min(rip);
        self.high = self.high.max(decoder.ip());
        needed | open
    }
}

/// Flags an instruction reads, and those it overwrites whatever happens.
pub fn flag_use(insn: &Insn) -> (u32, u32) {
    let ins = &insn.ins;
    if matches!(
        insn.rule,
        Rule::Interpret | Rule::Assist | Rule::AssistFlow | Rule::Device | Rule::Repeat
    ) {
        return (ARITHMETIC, 0);
    }
    let variable_count = ins.op_count() > 1
        && ins.op_kind(ins.op_count() - 1) == OpKind::Register
        && ins.op_register(ins.op_count() - 1) == Register::CL
        && is_shift(ins.mnemonic());
    let killed = if variable_count {
        0
    } else {
        ins.rflags_modified() & ARITHMETIC
    };
    (ins.rflags_read() & ARITHMETIC, killed)
}

fn is_shift(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Shl | Shr | Sar | Sal | Rol | Ror | Rcl | Rcr | Shld | Shrd
    )
}

/// Whether the mode lets the instruction use its unit without a fault.
pub fn unit_enabled(mode: &Mode, ins: &Instruction) -> bool {
    match reencode::unit(ins) {
        Unit::Integer => true,
        Unit::X87 => {
            mode.has(bit::X87) && !(ins.mnemonic() == Mnemonic::Wait && mode.has(bit::WAIT_TRAPS))
        }
        Unit::Mmx => mode.has(bit::X87),
        Unit::Sse => mode.has(bit::SSE),
        Unit::Avx => mode.has(bit::AVX),
        Unit::Avx512 => mode.has(bit::AVX512),
    }
}

/// Whether the generic copier serves the instruction here.
pub fn copyable(mode: &Mode, ins: &Instruction) -> bool {
    if mode.has(bit::REAL_OR_V86) && ins.code().op_code().encoding() != EncodingKind::Legacy {
        return false;
    }
    matches!(reencode::classify(ins), Class::Copyable | Class::NoEffect) && unit_enabled(mode, ins)
}
