//! The translator: guest x86 to host x86-64.
//!
//! Theory.  Guest code is translated block by block (`block`, `rules`) into a code cache (`cache`)
//! and runs with the guest's registers and flags in the host's (`runtime`).  Memory goes through an
//! inline TLB (`tlb`).  Blocks are found by physical address, RIP and mode, and linked to each other
//! (`link`).  A store to a page that blocks were made from drops those it overlaps (`smc`); where
//! only constants changed, the dead block is patched and lives again (`template`).  What has no rule
//! is interpreted, one instruction at a time.
//!
//! Invariants.
//! 1. All that may fault in an instruction comes before its first change of guest state, and
//!    between instructions guest state is the host registers plus `CpuState`; only RIP is implied
//!    by the host's, through the block's map.  Flags that are overwritten before they can be read
//!    may hold anything; those that a block leaves to code it doesn't know can be found again
//!    (`recover`).
//! 2. Translated code never calls devices: it is left for them (`device`, or an access that the inline
//!    TLB can't serve), and the interpreter's handlers run on the thread's own stack.
//! 3. No address is ever writable and executable.
//! 4. The host's DF and AC are clear; its FPU state is the guest's exactly while `fpu_live`.

pub mod assist;
mod block;
mod cache;
mod device;
pub mod emit;
pub mod env;
pub(crate) mod fault;
mod group;
mod link;
mod mode;
mod newcomers;
mod recover;
pub mod reencode;
mod rules;
mod runtime;
mod shown;
mod smc;
mod spaces;
mod string;
mod template;
mod tlb;
pub mod window;
mod windowed;

#[cfg(test)]
mod assist_tests;
#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod flags_tests;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod newcomers_tests;
#[cfg(test)]
mod recover_tests;
#[cfg(test)]
mod string_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod window_tests;

use crate::cpuid::Feature;
use crate::interp::MAX_INSTRUCTION;
use crate::memory::PAGE;
use crate::mmu::physical;
use crate::mmu::segment::canonical;
use crate::mmu::walk::{Access, right};
use crate::state::{attr, cr0, flags, gpr, seg};
use crate::vcpu::{Vcpu, host_tsc, tsc_hz};
use block::{Built, Insn, MAX_CODE, MAX_INSTRUCTIONS, PageCheck, PageCopy, Recovery, Source};
use cache::CodeCache;
use emit::Asm;
use env::{Area, CODE_TLB_ENTRIES, Env};
use iced_x86::Mnemonic;
use link::{BlockTable, Key, NONE, Place};
use mode::{Mode, bit};
use newcomers::Newcomers;
use runtime::{Thunks, exit};
use spaces::{Policy, Windows};
use std::sync::atomic::Ordering;
use template::Template;

/// Translated code and what finds it.
pub struct Jit {
    cache: CodeCache,
    asm: Asm,
    thunks: Thunks,
    table: BlockTable,
    fills: tlb::FillLog,
    /// A stack group's probe just failed because its span straddles two pages.
    straddled: bool,
    bmi2: bool,
    insns: Vec<Insn>,
    page: PageCopy,
    built: Built,
    /// `Mode` bits that aren't the CPU's.
    extra_mode: u32,
    /// Attention is asked for only so that polls leave (`run_translated_briefly`).
    brief: bool,
    /// The `Area::bounce` used last.
    bounce: usize,
    /// What assists of the blocks execute, by number.
    assists: Vec<assist::Assist>,
    windows: Windows,
    newcomers: Newcomers,
}

impl Jit {
    pub fn new(env: &Env) -> std::io::Result<Jit> {
        Jit::with_cache(env, cache::CACHE_BYTES)
    }

    /// With a code cache of `bytes`.
    pub fn with_cache(env: &Env, bytes: usize) -> std::io::Result<Jit> {
        let mut cache = CodeCache::new(bytes)?;
        let mut asm = Asm::new(MAX_CODE);
        let thunks = runtime::emit_thunks(&mut cache, &mut asm).map_err(std::io::Error::other)?;
        runtime::init_area(env, &thunks);
        fault::CACHES.add(cache.range());
        let bmi2 = std::is_x86_feature_detected!("bmi2");
        Ok(Jit {
            cache,
            asm,
            thunks,
            table: BlockTable::default(),
            fills: tlb::FillLog::default(),
            straddled: false,
            bmi2,
            insns: Vec::with_capacity(MAX_INSTRUCTIONS),
            page: PageCopy::default(),
            built: Built::default(),
            extra_mode: 0,
            brief: false,
            bounce: 0,
            assists: Vec::new(),
            windows: Windows::new(bmi2),
            newcomers: Newcomers::default(),
        })
    }

    /// Before the first block, for runs in lock step with the interpreter: time is read by the
    /// interpreter only, and if `all_flags_live` flags are never left wrong.
    pub fn make_comparable(&mut self, all_flags_live: bool) {
        self.extra_mode = bit::TIME_INTERPRETED;
        self.windows.policy = Policy::Never;
        if all_flags_live {
            self.extra_mode |= bit::ALL_FLAGS_LIVE;
        }
    }

    /// Builds a block, where one with its key died if it fits there; None if it can't be encoded.
    /// `alone`: it relies on no code but its own.
    fn build(&mut self, key: Key, mut source: Source, alone: bool) -> Option<u32> {
        let mut place = self.table.place(&key, &self.cache);
        self.emit(&mut source, &place);
        let bytes = self.asm.finish().ok()?.len();
        if !self.table.fits(&place, bytes, &self.built) {
            place = self.table.new_place(&self.cache);
            self.emit(&mut source, &place);
        }
        let code = self.asm.finish().ok()?;
        self.cache.put(place.base, code);
        let (bytes, second) = (code.len(), source.second);
        let index = self.table.add(key, &place, bytes, &self.built, second);
        if alone
            && place.is_reused()
            && let Some(template) = Template::new(source.insns, &self.built)
        {
            self.table.templates.insert(index, template);
        }
        Some(index)
    }

    fn emit(&mut self, source: &mut Source, place: &Place) {
        source.first_link = place.first_link;
        self.asm.start(place.base);
        let last = std::mem::take(&mut self.built);
        self.built = block::build(&mut self.asm, &self.thunks, source, last);
    }

    fn is_full(&self) -> bool {
        self.cache.room() < MAX_CODE
            || self.table.is_full()
            || self.assists.len() + MAX_INSTRUCTIONS > assist::MAX_ASSISTS
    }

    /// What runs from now on is interpreted until it has run a few times.
    pub fn welcome_newcomers(&mut self) {
        self.newcomers.welcome();
    }

    fn note_filled(&mut self, class: usize, index: usize, global: bool) {
        self.fills.note(class, index, global);
    }
}

impl Drop for Jit {
    fn drop(&mut self) {
        fault::CACHES.remove(self.cache.range());
    }
}

impl Vcpu {
    /// Runs translated code until something must be attended to.
    pub fn run_translated(&mut self) {
        fault::install();
        let area = self.env.area();
        // SAFETY: the Area is this vCPU's own; no translated code is running.
        unsafe { (*area).interrupt_waits = self.interrupt_pending() as u32 };
        loop {
            if self.must_attend() {
                return;
            }
            if self.must_interpret() {
                self.step();
                continue;
            }
            if std::mem::take(&mut self.jit.newcomers.found) {
                self.interpret_run();
                continue;
            }
            let Some(block) = self.find_block() else {
                if !self.jit.newcomers.found {
                    self.step();
                }
                continue;
            };
            self.enter_block(block);
        }
    }

    /// Interprets up to where code goes elsewhere, or something must be attended to.
    fn interpret_run(&mut self) {
        for _ in 0..MAX_INSTRUCTIONS {
            let before = self.cpu.rip;
            self.step();
            let moved = self.cpu.rip.wrapping_sub(before);
            let elsewhere = moved == 0 || moved > MAX_INSTRUCTION as u64;
            if elsewhere || self.must_attend() {
                return;
            }
        }
    }

    /// Modes that translated code doesn't know: stepping, breakpoints (and RF), interrupt shadows.
    fn must_interpret(&self) -> bool {
        let cpu = &self.cpu;
        let checks_alignment = cpu.rflags & flags::AC != 0 && cpu.cr0 & cr0::AM != 0;
        cpu.rflags & (flags::TF | flags::RF) != 0
            || cpu.shadow != 0
            || cpu.dr[7] & 0xFF != 0
            || checks_alignment && cpu.cpl == 3
    }

    /// Runs translated code up to its first exit or poll, and does what it left for.
    pub(crate) fn run_translated_briefly(&mut self) {
        fault::install();
        if self.must_interpret() {
            return self.step();
        }
        let Some(block) = self.find_block() else {
            return self.step();
        };
        // Every poll leaves, and what follows an exit isn't kept from being linked.
        self.ask_attention();
        self.narrow_to_mode();
        self.jit.brief = true;
        let kind = self.run_from(self.jit.table.blocks[block as usize].entries.main);
        self.jit.brief = false;
        self.shared.attention().store(0, Ordering::SeqCst);
        self.after_exit(kind);
    }

    /// Runs from a block's entry until translated code leaves, and does what it left for.
    fn enter_block(&mut self, block: u32) {
        self.narrow_to_mode();
        let mut target = self.jit.table.blocks[block as usize].entries.main;
        loop {
            let kind = self.run_from(target);
            match self.after_exit(kind) {
                Some(next) => target = next,
                None => return,
            }
        }
    }

    /// Enters translated code; why it left.
    fn run_from(&mut self, target: u64) -> u32 {
        self.prepare_area();
        self.base_gs_on_window();
        self.stats.entries += 1;
        let area = self.env.area();
        // SAFETY: the block was found for the current state; the pointer is valid until `enter`
        // returns, and nothing else uses this Vcpu meanwhile.
        unsafe {
            (*area).vcpu = self as *mut Vcpu as u64;
            runtime::enter(&self.jit.thunks, area, target);
        }
        self.leave_area()
    }

    /// Does what translated code left for; where to enter it again without another look.
    fn after_exit(&mut self, kind: u32) -> Option<u64> {
        let area = self.env.area();
        match kind {
            exit::LOOKUP => {
                self.stats.exit_lookup += 1;
                if !canonical(self.cpu.rip) {
                    self.undo_branch();
                }
            }
            exit::LINK => {
                self.stats.exit_lookup += 1;
                // SAFETY: translated code isn't running.
                let link = unsafe { (*area).exit_link };
                return self.follow_link(link);
            }
            exit::DEVICE => {
                // SAFETY: translated code isn't running.
                let (number, behind) = unsafe { ((*area).exit_assist, (*area).enter_target) };
                return self.access_device(number, behind);
            }
            exit::INTERPRET => {
                self.stats.exit_interpret += 1;
                self.step();
            }
            exit::INTERPRET_AT | exit::FAULT => {
                self.stats.exit_fault += 1;
                // SAFETY: translated code isn't running.
                let site = unsafe { (*area).exit_site };
                if kind == exit::FAULT
                    && let Some(target) = self.window_fault(site)
                {
                    return Some(target);
                }
                self.interpret_at(site);
            }
            _ => {
                self.stats.exit_kick += 1;
                self.sample_windows();
            }
        }
        None
    }

    /// RIP isn't canonical: if a JMP or RET in translated code led there, has the interpreter do that
    /// instruction, whose fault it is.
    fn undo_branch(&mut self) {
        // SAFETY: the Area is this vCPU's own; no translated code is running.
        let site = unsafe { (*self.env.area()).branch };
        let Some((block, delta)) = self.jit.table.instruction_at(site) else {
            return;
        };
        let target = self.cpu.rip;
        let block = &self.jit.table.blocks[block as usize];
        self.cpu.rip = block.rip().wrapping_add(delta);
        match self.fetch() {
            Ok((ins, _)) if ins.mnemonic() == Mnemonic::Ret => {
                let popped = 8 + ins.try_immediate(0).unwrap_or(0);
                let rsp = &mut self.cpu.gpr[gpr::RSP];
                *rsp = rsp.wrapping_sub(popped);
                self.step();
            }
            Ok((ins, _)) if ins.is_jmp_near_indirect() => self.step(),
            // Another processor has just changed the code.
            _ => self.cpu.rip = target,
        }
    }

    /// Interprets the instruction that host address `site` belongs to.
    fn interpret_at(&mut self, site: u64) {
        let Some((block, delta)) = self.jit.table.instruction_at(site) else {
            self.error = Some(format!("host fault at {site:#x}, in no block"));
            return;
        };
        self.recover_flags(block, delta);
        self.cpu.rip = self.jit.table.blocks[block as usize]
            .rip()
            .wrapping_add(delta);
        if std::mem::take(&mut self.jit.straddled) {
            // Its block is made anew without stack groups.
            self.jit.table.set_ungrouped(block);
            return self.drop_block(block);
        }
        let accesses = self.stats.mmio_accesses;
        self.step();
        if self.stats.mmio_accesses != accesses {
            self.note_device_access(block, delta);
        }
    }

    /// The flags as the instruction `delta` behind the block's RIP finds them, if the block doesn't keep
    /// them.
    fn recover_flags(&mut self, index: u32, delta: u64) {
        let block = &self.jit.table.blocks[index as usize];
        let Some(Recovery { zone, code }) = block.recovery else {
            return;
        };
        if delta < zone as u64 {
            return;
        }
        let code = block.start() + code as u64;
        let area = self.env.area();
        let class = self.mode().class();
        // SAFETY: translated code isn't running; the class is that of the block, whose code to recover
        // flags goes on where we say and touches nothing else.
        unsafe {
            (*area).recovered[class] = self.jit.thunks.exit;
            self.run_from(code);
            (*area).recovered = self.jit.thunks.recovered;
        }
    }

    /// Finds (or makes) the block that link's target is, patches the link; its host address.
    fn follow_link(&mut self, link: u32) -> Option<u64> {
        self.cpu.rip = self.jit.table.links.get(link as usize)?.target;
        if self.must_attend() {
            return None;
        }
        let epoch = self.jit.table.epoch;
        let block = self.find_block()?;
        if self.jit.table.epoch == epoch {
            self.jit.table.connect(link, block, &mut self.jit.cache);
        }
        Some(self.jit.table.blocks[block as usize].entries.main)
    }

    /// What translated code needs to know that may have changed since it ran last.
    fn prepare_area(&mut self) {
        // SAFETY: the Area is this vCPU's own; no translated code is running.
        let area = unsafe { &mut *self.env.area() };
        area.host_flags = self.cpu.rflags & flags::ARITHMETIC | flags::FIXED | flags::IF;
        self.cpu.rflags &= !flags::ARITHMETIC;
    }

    /// Outside 64-bit mode: registers of 32 bits, and limits for inline checks.
    fn narrow_to_mode(&mut self) {
        if self.cpu.code64() {
            return;
        }
        // SAFETY: the Area is this vCPU's own; no translated code is running.
        let area = unsafe { &mut *self.env.area() };
        for register in &mut self.cpu.gpr[..8] {
            *register &= 0xFFFF_FFFF;
        }
        for index in 0..6 {
            let (readable, writable) = inline_limits(&self.cpu.seg[index]);
            area.readable[index] = readable;
            area.writable[index] = writable;
        }
    }

    /// Takes the flags over after translated code left; why it did.
    fn leave_area(&mut self) -> u32 {
        // SAFETY: the Area is this vCPU's own; no translated code is running.
        let area = unsafe { &mut *self.env.area() };
        self.cpu.rflags |= area.host_flags & flags::ARITHMETIC;
        area.exit_kind
    }

    /// The mode that blocks for the current state have.
    fn mode(&self) -> Mode {
        let mut mode = Mode::of(self.cpu);
        mode.bits |= self.jit.extra_mode;
        let wide = mode.bits & (bit::CODE32 | bit::CODE64) != 0;
        if wide
            && self
                .window_class()
                .is_some_and(|c| self.jit.windows.active(c))
        {
            mode.bits |= bit::WINDOW;
        }
        mode
    }

    /// The block for the current state; None where the interpreter must find out why not, or the code
    /// is new.
    fn find_block(&mut self) -> Option<u32> {
        if self.jit.is_full() {
            self.flush_code_cache();
        }
        self.force_windows();
        let mode = self.mode();
        let rip = self.cpu.rip;
        let linear = self.code_linear(&mode, rip)?;
        let page = self.translate(linear, Access::fetch(self.user())).ok()?;
        if page.rights & physical::IO != 0 {
            return None;
        }
        let class = mode.class();
        if page.rights & right::GLOBAL == 0 && class == env::KERNEL {
            self.jit.fills.kernel_code_not_global = true;
        }
        let mode_number = self.jit.table.mode_number(&mode);
        let vpn = linear >> 12;
        let id = self.jit.table.page_id(vpn, page.page >> 12);
        // SAFETY: the Area is this vCPU's own; no translated code is running.
        let area: &mut Area = unsafe { &mut *self.env.area() };
        area.code_tlb[class][env::code_slot(vpn)] = id;
        self.jit.fills.note_code(class, vpn);
        self.jit
            .table
            .set_jump_mode(class, &mode, area, &self.jit.thunks);
        let physical = page.page + linear % PAGE;
        let key = Key {
            physical,
            rip,
            mode: mode_number,
        };
        let block = match self.jit.table.find(&key) {
            Some(block) => block,
            None if self.jit.newcomers.is_new(&key) => return None,
            None => self.make_block(&mode, key, linear, &page, id)?,
        };
        let b = &self.jit.table.blocks[block as usize];
        if let Some(second) = b.second {
            // The page that the instruction ends in must be mapped as it was.
            let next = self
                .translate(
                    self.wrap_linear((vpn + 1) << 12),
                    Access::fetch(self.user()),
                )
                .ok()?;
            if next.rights & right::GLOBAL == 0 && class == env::KERNEL {
                self.jit.fills.kernel_code_not_global = true;
            }
            if self.jit.table.page_id(vpn + 1, next.page >> 12) != second.id {
                self.drop_block(block);
                return None;
            }
            let slot = env::code_slot(second.vpn);
            // SAFETY: as above.
            unsafe { (*self.env.area()).code_tlb[class][slot] = second.id };
            self.jit.fills.note_code(class, second.vpn);
        }
        // SAFETY: as above.
        let area: &mut Area = unsafe { &mut *self.env.area() };
        let thunks = &self.jit.thunks;
        self.jit.table.set_jump(class, rip, block, area, thunks);
        Some(block)
    }

    /// The linear address of an instruction pointer, if fetching there can't fault by segmentation.
    fn code_linear(&self, mode: &Mode, rip: u64) -> Option<u64> {
        if mode.code64() {
            return canonical(rip).then_some(rip);
        }
        (rip <= mode.cs_limit as u64).then_some((mode.cs_base as u64 + rip) & 0xFFFF_FFFF)
    }

    fn make_block(
        &mut self,
        mode: &Mode,
        key: Key,
        linear: u64,
        page: &crate::mmu::Cached,
        id: u32,
    ) -> Option<u32> {
        let start = host_tsc();
        let mut insns = std::mem::take(&mut self.jit.insns);
        let block = self.make_block_of(&mut insns, mode, key, linear, page, id);
        self.jit.insns = insns;
        let ticks = host_tsc().wrapping_sub(start);
        self.stats.ns_translating += ticks * 1_000_000 / (tsc_hz() / 1000).max(1);
        block
    }

    fn make_block_of(
        &mut self,
        insns: &mut Vec<Insn>,
        mode: &Mode,
        key: Key,
        linear: u64,
        page: &crate::mmu::Cached,
        id: u32,
    ) -> Option<u32> {
        let offset = (linear % PAGE) as usize;
        let in_page = PAGE as usize - offset;
        self.mark_code_page(page.page, page.host as u64);
        // SAFETY: the page at `host` is readable, and stays so until the memory map changes.
        unsafe { self.jit.page.start(page.host) };
        let now = self.jit.page.from(offset, 16);
        if let Some((index, length)) = self.jit.table.revive(&key, now, &mut self.jit.cache) {
            let jit = &mut self.jit;
            jit.table.note_source(index, key.physical, length as u64);
            return Some(index);
        }
        let sites = &self.jit.table.device_sites;
        let of_device = |ip: u64| sites.has(key.physical.wrapping_add(ip.wrapping_sub(key.rip)));
        let block::Liveness { peeked, plan } =
            block::decode(mode, key.rip, &mut self.jit.page, offset, insns, of_device);
        let mut next_page = None;
        if insns.is_empty() && in_page < 15 {
            next_page = self.decode_straddling(insns, mode, key.rip, linear);
        }
        let length: usize = insns.iter().map(|i| i.ins.len()).sum();
        if insns.is_empty() {
            return None;
        }
        let windowed = mode.has(bit::WINDOW) && !self.jit.table.is_soft(&key);
        let source = Source {
            mode: *mode,
            rip: key.rip,
            insns,
            page: PageCheck {
                vpn: linear >> 12,
                id,
            },
            second: next_page.map(|(check, _)| check),
            first_link: 0,
            grouped: !windowed && !self.jit.table.is_ungrouped(&key),
            windowed,
            plan,
            bmi2: self.jit.bmi2,
            first_assist: self.jit.assists.len() as u32,
            has_rdtscp: self.model.has(Feature::RDTSCP),
        };
        let index = self
            .jit
            .build(key, source, peeked.is_none() && next_page.is_none())?;
        if self.jit.cache.settle() {
            self.env.settle();
        }
        for &at in &self.jit.built.assists {
            let ins = insns[at].ins;
            self.jit.assists.push(assist::Assist {
                ins,
                mode: *mode,
                block: index,
                credit: device::FIRST_CREDIT,
            });
        }
        self.stats.blocks += 1;
        self.stats.translated += insns.len() as u64;
        self.stats.code_bytes += self.jit.table.blocks[index as usize].bytes() as u64;
        if let Some((low, high)) = peeked {
            // The block relies on this code too; both lie in the page from `rip` on.
            let at = key.physical.wrapping_add(low.wrapping_sub(key.rip));
            self.jit
                .table
                .note_source(index, at, high.wrapping_sub(low));
        }
        let first = length.min(in_page);
        self.jit
            .table
            .note_source(index, key.physical, first as u64);
        if let Some((_, physical)) = next_page
            && length > in_page
        {
            let rest = (length - in_page) as u64;
            self.jit.table.note_source(index, physical, rest);
        }
        Some(index)
    }

    /// Decodes the instruction at `linear`, which may end in the next page: that page's check and
    /// physical address.
    fn decode_straddling(
        &mut self,
        insns: &mut Vec<Insn>,
        mode: &Mode,
        rip: u64,
        linear: u64,
    ) -> Option<(PageCheck, u64)> {
        let next_linear = self.wrap_linear((linear | (PAGE - 1)).wrapping_add(1));
        if !canonical(next_linear) {
            return None;
        }
        let next = self
            .translate(next_linear, Access::fetch(self.user()))
            .ok()?;
        if next.rights & physical::IO != 0 {
            return None;
        }
        self.mark_code_page(next.page, next.host as u64);
        let mut bytes = [0; 32];
        let here = self.jit.page.from((linear % PAGE) as usize, 15);
        let in_page = here.len().min(15);
        bytes[..in_page].copy_from_slice(&here[..in_page]);
        // SAFETY: 16 bytes from the start of the page at `host` are readable.
        unsafe {
            let to = bytes.as_mut_ptr().add(in_page);
            std::ptr::copy_nonoverlapping(next.host, to, 16);
        }
        block::decode_straddling(mode, rip, &bytes[..in_page + 16], insns);
        let vpn = (linear >> 12) + 1;
        let id = self.jit.table.page_id(vpn, next.page >> 12);
        Some((PageCheck { vpn, id }, next.page))
    }

    /// Drops all translated code.
    pub(crate) fn flush_code_cache(&mut self) {
        self.stats.cache_flushes += 1;
        for page in self.jit.table.take_code_pages() {
            self.forget_code_page(page);
        }
        // SAFETY: the Area is this vCPU's own; no translated code is running.
        let area: &mut Area = unsafe { &mut *self.env.area() };
        runtime::clear_jumps(area, &self.jit.thunks);
        // Identities of pages are given out anew.
        area.code_tlb = [[0; CODE_TLB_ENTRIES]; 2];
        self.jit.table.clear();
        self.jit.assists.clear();
        self.jit.cache.reset();
    }
}

/// First offsets that inline code may not read and write any more, for one segment register.
fn inline_limits(s: &crate::state::Segment) -> (u64, u64) {
    if !s.usable() || s.is(attr::EXPAND_DOWN) && !s.is(attr::CODE) {
        return (0, 0);
    }
    let end = s.limit as u64 + 1;
    if s.is(attr::CODE) {
        return (if s.is(attr::READABLE) { end } else { 0 }, 0);
    }
    (end, if s.is(attr::WRITABLE) { end } else { 0 })
}

/// Flags of translated code that depend on the mode are all in `Mode`; this keeps the unused ones honest.
const _: () = assert!(bit::FLAT << seg::GS < bit::LONG && NONE == u32::MAX);
