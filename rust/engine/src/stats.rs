//! Counters of one vCPU; `ring3 run --stats` prints them.

/// Plain counts since the vCPU was made; times in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Guest instructions executed by the interpreter.
    pub interpreted: u64,
    /// Guest instructions executed by assists, without leaving translated code.
    pub assists: u64,
    /// Guest instructions translated (each time they are).
    pub translated: u64,
    pub blocks: u64,
    /// Bytes of host code emitted.
    pub code_bytes: u64,
    /// Whole flushes of the code cache.
    pub cache_flushes: u64,
    /// Entries into translated code from the dispatcher.
    pub entries: u64,
    /// Returns of translated code to the dispatcher, by cause.
    pub exit_interpret: u64,
    pub exit_lookup: u64,
    pub exit_kick: u64,
    pub exit_fault: u64,
    pub exit_smc: u64,
    pub exit_fpu: u64,
    /// Misses of the inline TLB, and of these the ones that needed a page walk.
    pub tlb_misses: u64,
    pub page_walks: u64,
    pub tlb_flushes: u64,
    /// Faults that mapped pages in windows.
    pub window_faults: u64,
    /// Blocks dropped because their code was written to.
    pub invalidated_blocks: u64,
    /// Interrupts (external) and exceptions delivered to the guest.
    pub interrupts: u64,
    pub exceptions: u64,
    pub port_accesses: u64,
    pub mmio_accesses: u64,
    pub halts: u64,
    pub ns_running: u64,
    pub ns_halted: u64,
    pub ns_translating: u64,
    /// Instructions interpreted, by `iced_x86::Mnemonic`.
    pub by_mnemonic: Vec<u64>,
}

impl Stats {
    /// By ports and memory.
    #[inline]
    pub fn device_accesses(&self) -> u64 {
        self.port_accesses + self.mmio_accesses
    }

    #[inline]
    pub fn count_interpreted(&mut self, mnemonic: iced_x86::Mnemonic) {
        self.interpreted += 1;
        let index = mnemonic as usize;
        if self.by_mnemonic.len() <= index {
            self.by_mnemonic.resize(index + 1, 0);
        }
        self.by_mnemonic[index] += 1;
    }

    /// The `count` mnemonics interpreted most, in lower case, most frequent first.
    pub fn interpreted_most(&self, count: usize) -> Vec<(String, u64)> {
        let mut all: Vec<_> = iced_x86::Mnemonic::values()
            .zip(self.by_mnemonic.iter())
            .filter(|&(_, &n)| n > 0)
            .map(|(m, &n)| (format!("{m:?}").to_lowercase(), n))
            .collect();
        all.sort_by_key(|b| std::cmp::Reverse(b.1));
        all.truncate(count);
        all
    }

    /// Every counter with its name.
    pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("interpreted", self.interpreted),
            ("assists", self.assists),
            ("translated", self.translated),
            ("blocks", self.blocks),
            ("code_bytes", self.code_bytes),
            ("cache_flushes", self.cache_flushes),
            ("entries", self.entries),
            ("exit_interpret", self.exit_interpret),
            ("exit_lookup", self.exit_lookup),
            ("exit_kick", self.exit_kick),
            ("exit_fault", self.exit_fault),
            ("exit_smc", self.exit_smc),
            ("exit_fpu", self.exit_fpu),
            ("tlb_misses", self.tlb_misses),
            ("page_walks", self.page_walks),
            ("tlb_flushes", self.tlb_flushes),
            ("window_faults", self.window_faults),
            ("invalidated_blocks", self.invalidated_blocks),
            ("interrupts", self.interrupts),
            ("exceptions", self.exceptions),
            ("port_accesses", self.port_accesses),
            ("mmio_accesses", self.mmio_accesses),
            ("halts", self.halts),
            ("running_ns", self.ns_running),
            ("halted_ns", self.ns_halted),
            ("translating_ns", self.ns_translating),
        ]
        .into_iter()
    }
}
