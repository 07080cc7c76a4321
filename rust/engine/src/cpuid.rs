//! CPU models: what CPUID tells the guest (SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).
//!
//! User-level instructions run on the host's own units, so a model can't have one that the host
//! lacks; `max` has them all, as far as the engine keeps their state.  System features are the
//! engine's own and the same everywhere.  Models form a chain, each with what the ones before have.
//!
//! Never offered: VME, SMAP, protection keys, five-level paging, CET, MONITOR, debug stores,
//! performance counters, transactions, AMX, supervisor XSAVE state, virtualization, and what only
//! AMD's older families had.  Guest code never runs speculatively with the guest's privileges of
//! the moment, so the bits that say that a leak doesn't exist are set, and kernels needn't work
//! around it.  A leaf beyond the last one reads as zeroes with every vendor.

use crate::apic::BUS_HZ;
use crate::host;
use crate::host::component;
use crate::interp::fpu;
use crate::mmu::walk::PHYSICAL_BITS;
use crate::state::{CpuState, cr4};
use crate::vcpu::tsc_hz;
use std::sync::OnceLock;

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// A register of a leaf that holds feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    L1Ecx,
    L1Edx,
    L6Eax,
    L7Ebx,
    L7Ecx,
    L7Edx,
    L7s1Eax,
    L7s1Edx,
    LDs1Eax,
    /// Leaf 8000_0001h.
    X1Ecx,
    X1Edx,
    /// Leaf 8000_0007h.
    X7Edx,
    X8Ebx,
    /// Leaf 8000_0021h.
    X21Eax,
    X21Ecx,
}

const WORDS: usize = Word::X21Ecx as usize + 1;

/// One bit that CPUID reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    word: Word,
    bit: u8,
}

impl Feature {
    pub const DE: Feature = Feature::new(Word::L1Edx, 2);
    pub const PSE: Feature = Feature::new(Word::L1Edx, 3);
    pub const TSC: Feature = Feature::new(Word::L1Edx, 4);
    pub const MSR: Feature = Feature::new(Word::L1Edx, 5);
    pub const PAE: Feature = Feature::new(Word::L1Edx, 6);
    pub const MCE: Feature = Feature::new(Word::L1Edx, 7);
    pub const APIC: Feature = Feature::new(Word::L1Edx, 9);
    pub const SEP: Feature = Feature::new(Word::L1Edx, 11);
    pub const MTRR: Feature = Feature::new(Word::L1Edx, 12);
    pub const PGE: Feature = Feature::new(Word::L1Edx, 13);
    pub const MCA: Feature = Feature::new(Word::L1Edx, 14);
    pub const PAT: Feature = Feature::new(Word::L1Edx, 16);
    pub const FXSR: Feature = Feature::new(Word::L1Edx, 24);
    pub const SSE: Feature = Feature::new(Word::L1Edx, 25);
    pub const PCID: Feature = Feature::new(Word::L1Ecx, 17);
    pub const X2APIC: Feature = Feature::new(Word::L1Ecx, 21);
    pub const TSC_DEADLINE: Feature = Feature::new(Word::L1Ecx, 24);
    pub const XSAVE: Feature = Feature::new(Word::L1Ecx, 26);
    const AVX: Feature = Feature::new(Word::L1Ecx, 28);
    pub const FSGSBASE: Feature = Feature::new(Word::L7Ebx, 0);
    pub const TSC_ADJUST: Feature = Feature::new(Word::L7Ebx, 1);
    pub const SMEP: Feature = Feature::new(Word::L7Ebx, 7);
    pub const INVPCID: Feature = Feature::new(Word::L7Ebx, 10);
    const AVX512F: Feature = Feature::new(Word::L7Ebx, 16);
    pub const UMIP: Feature = Feature::new(Word::L7Ecx, 2);
    pub const RDPID: Feature = Feature::new(Word::L7Ecx, 22);
    pub const SPEC_CTRL: Feature = Feature::new(Word::L7Edx, 26);
    pub const ARCH_CAPABILITIES: Feature = Feature::new(Word::L7Edx, 29);
    pub const XGETBV1: Feature = Feature::new(Word::LDs1Eax, 2);
    pub const SYSCALL: Feature = Feature::new(Word::X1Edx, 11);
    pub const NX: Feature = Feature::new(Word::X1Edx, 20);
    pub const RDTSCP: Feature = Feature::new(Word::X1Edx, 27);
    pub const LM: Feature = Feature::new(Word::X1Edx, 29);
    pub const AMD_IBRS: Feature = Feature::new(Word::X8Ebx, 14);
    pub const AUTOMATIC_IBRS: Feature = Feature::new(Word::X21Eax, 8);

    const fn new(word: Word, bit: u8) -> Feature {
        Feature { word, bit }
    }
}

/// Models from the oldest to the fullest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    I486,
    Pentium,
    PentiumII,
    PentiumIII,
    V1,
    V2,
    V3,
    Max,
}

/// Every model: name, level, description.
const MODELS: [(&str, Level, &str); 8] = [
    (
        "max",
        Level::Max,
        "all that this host's processor has and the engine supports",
    ),
    (
        "x86-64-v3",
        Level::V3,
        "64-bit with AVX2, BMI and FMA (2013)",
    ),
    (
        "x86-64-v2",
        Level::V2,
        "64-bit with SSE4.2 and POPCNT (2009)",
    ),
    ("x86-64-v1", Level::V1, "64-bit with SSE2 (2003)"),
    (
        "pentium3",
        Level::PentiumIII,
        "Pentium III: 32-bit with SSE (1999)",
    ),
    (
        "pentium2",
        Level::PentiumII,
        "Pentium II: 32-bit with MMX, PAE and SYSENTER (1997)",
    ),
    (
        "pentium",
        Level::Pentium,
        "Pentium: 32-bit with TSC and local APIC (1993)",
    ),
    (
        "486",
        Level::I486,
        "486DX4: 32-bit with FPU and CPUID (1994)",
    ),
];

/// Where a feature comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Engine,
    /// The engine's, with one vendor's way of telling.
    EngineAmd,
    EngineIntel,
    /// The host's processor.
    Host,
    /// The host's processor, and its kernel keeps AVX or AVX-512 registers.
    HostAvx,
    HostAvx512,
}

type Row = (&'static str, Word, u8, Level, Source);

/// Every feature: Linux's name for it (or the SDM's), place, first model, source.
#[rustfmt::skip]
const FEATURES: &[Row] = {
    use Level::*;
    use Source::*;
    use Word::*;
    &[
        ("fpu", L1Edx, 0, I486, Host),
        ("de", L1Edx, 2, Pentium, Engine),
        ("pse", L1Edx, 3, Pentium, Engine),
        ("tsc", L1Edx, 4, Pentium, Engine),
        ("msr", L1Edx, 5, Pentium, Engine),
        ("pae", L1Edx, 6, PentiumII, Engine),
        ("mce", L1Edx, 7, Pentium, Engine),
        ("cx8", L1Edx, 8, Pentium, Host),
        ("apic", L1Edx, 9, Pentium, Engine),
        ("sep", L1Edx, 11, PentiumII, Engine),
        ("mtrr", L1Edx, 12, PentiumII, Engine),
        ("pge", L1Edx, 13, PentiumII, Engine),
        ("mca", L1Edx, 14, PentiumII, Engine),
        ("cmov", L1Edx, 15, PentiumII, Host),
        ("pat", L1Edx, 16, PentiumIII, Engine),
        ("pse36", L1Edx, 17, PentiumII, Engine),
        ("clflush", L1Edx, 19, V1, Host),
        ("mmx", L1Edx, 23, PentiumII, Host),
        ("fxsr", L1Edx, 24, PentiumII, Host),
        ("sse", L1Edx, 25, PentiumIII, Host),
        ("sse2", L1Edx, 26, V1, Host),

        ("sse3", L1Ecx, 0, V2, Host),
        ("pclmulqdq", L1Ecx, 1, Max, Host),
        ("ssse3", L1Ecx, 9, V2, Host),
        ("fma", L1Ecx, 12, V3, HostAvx),
        ("cx16", L1Ecx, 13, V2, Host),
        ("pcid", L1Ecx, 17, Max, Engine),
        ("sse4_1", L1Ecx, 19, V2, Host),
        ("sse4_2", L1Ecx, 20, V2, Host),
        ("x2apic", L1Ecx, 21, V2, Engine),
        ("movbe", L1Ecx, 22, V3, Host),
        ("popcnt", L1Ecx, 23, V2, Host),
        ("tsc_deadline_timer", L1Ecx, 24, V3, Engine),
        ("aes", L1Ecx, 25, Max, Host),
        ("xsave", L1Ecx, 26, V3, Host),
        ("avx", L1Ecx, 28, V3, HostAvx),
        ("f16c", L1Ecx, 29, V3, HostAvx),
        ("rdrand", L1Ecx, 30, Max, Host),
        ("hypervisor", L1Ecx, 31, V1, Engine),

        ("arat", L6Eax, 2, V1, Engine),

        ("fsgsbase", L7Ebx, 0, V3, Engine),
        ("tsc_adjust", L7Ebx, 1, V3, Engine),
        ("bmi1", L7Ebx, 3, V3, Host),
        ("avx2", L7Ebx, 5, V3, HostAvx),
        ("fdp_excptn_only", L7Ebx, 6, Max, Host),
        ("smep", L7Ebx, 7, V3, Engine),
        ("bmi2", L7Ebx, 8, V3, Host),
        ("erms", L7Ebx, 9, V3, Host),
        ("invpcid", L7Ebx, 10, Max, Engine),
        ("zero_fcs_fds", L7Ebx, 13, Max, Host),
        ("avx512f", L7Ebx, 16, Max, HostAvx512),
        ("avx512dq", L7Ebx, 17, Max, HostAvx512),
        ("rdseed", L7Ebx, 18, Max, Host),
        ("adx", L7Ebx, 19, Max, Host),
        ("avx512ifma", L7Ebx, 21, Max, HostAvx512),
        ("clflushopt", L7Ebx, 23, Max, Host),
        ("clwb", L7Ebx, 24, Max, Host),
        ("avx512cd", L7Ebx, 28, Max, HostAvx512),
        ("sha_ni", L7Ebx, 29, Max, Host),
        ("avx512bw", L7Ebx, 30, Max, HostAvx512),
        ("avx512vl", L7Ebx, 31, Max, HostAvx512),

        ("avx512vbmi", L7Ecx, 1, Max, HostAvx512),
        ("umip", L7Ecx, 2, Max, Engine),
        ("avx512_vbmi2", L7Ecx, 6, Max, HostAvx512),
        ("gfni", L7Ecx, 8, Max, Host),
        ("vaes", L7Ecx, 9, Max, HostAvx),
        ("vpclmulqdq", L7Ecx, 10, Max, HostAvx),
        ("avx512_vnni", L7Ecx, 11, Max, HostAvx512),
        ("avx512_bitalg", L7Ecx, 12, Max, HostAvx512),
        ("avx512_vpopcntdq", L7Ecx, 14, Max, HostAvx512),
        ("rdpid", L7Ecx, 22, Max, Engine),
        ("cldemote", L7Ecx, 25, Max, Host),

        ("fsrm", L7Edx, 4, Max, Host),
        ("avx512_vp2intersect", L7Edx, 8, Max, HostAvx512),
        ("avx512_fp16", L7Edx, 23, Max, HostAvx512),
        ("spec_ctrl", L7Edx, 26, V1, EngineIntel),
        ("intel_stibp", L7Edx, 27, V1, EngineIntel),
        ("arch_capabilities", L7Edx, 29, V1, EngineIntel),
        ("spec_ctrl_ssbd", L7Edx, 31, V1, EngineIntel),

        ("sha512", L7s1Eax, 0, Max, HostAvx),
        ("sm3", L7s1Eax, 1, Max, HostAvx),
        ("sm4", L7s1Eax, 2, Max, HostAvx),
        ("avx_vnni", L7s1Eax, 4, Max, HostAvx),
        ("avx512_bf16", L7s1Eax, 5, Max, HostAvx512),
        ("fzrm", L7s1Eax, 10, Max, Host),
        ("fsrs", L7s1Eax, 11, Max, Host),
        ("fsrc", L7s1Eax, 12, Max, Host),
        ("avx_ifma", L7s1Eax, 23, Max, HostAvx),
        ("avx_vnni_int8", L7s1Edx, 4, Max, HostAvx),
        ("avx_ne_convert", L7s1Edx, 5, Max, HostAvx),
        ("avx_vnni_int16", L7s1Edx, 10, Max, HostAvx),

        ("xsaveopt", LDs1Eax, 0, Max, Host),
        ("xsavec", LDs1Eax, 1, Max, Host),
        ("xgetbv1", LDs1Eax, 2, Max, Host),

        ("lahf_lm", X1Ecx, 0, V2, Host),
        ("lzcnt", X1Ecx, 5, V3, Host),
        ("sse4a", X1Ecx, 6, Max, Host),
        ("misalignsse", X1Ecx, 7, Max, Host),
        ("3dnowprefetch", X1Ecx, 8, Max, Host),
        ("topoext", X1Ecx, 22, V1, EngineAmd),

        ("syscall", X1Edx, 11, V1, Engine),
        ("nx", X1Edx, 20, V1, Engine),
        ("mmxext", X1Edx, 22, Max, Host),
        ("pdpe1gb", X1Edx, 26, V2, Engine),
        ("rdtscp", X1Edx, 27, V2, Engine),
        ("lm", X1Edx, 29, V1, Host),

        ("invariant_tsc", X7Edx, 8, V1, Engine),

        ("xsaveerptr", X8Ebx, 2, V1, EngineAmd),
        ("wbnoinvd", X8Ebx, 9, Max, EngineAmd),
        ("amd_ibrs", X8Ebx, 14, V1, EngineAmd),
        ("amd_stibp", X8Ebx, 15, V1, EngineAmd),
        ("amd_ssbd", X8Ebx, 24, V1, EngineAmd),
        ("amd_ssb_no", X8Ebx, 26, V1, EngineAmd),
        ("btc_no", X8Ebx, 29, V1, EngineAmd),

        ("lfence_rdtsc", X21Eax, 2, V1, EngineAmd),
        ("null_sel_clr_base", X21Eax, 6, V1, EngineAmd),
        ("autoibrs", X21Eax, 8, V1, EngineAmd),
        ("srso_no", X21Eax, 29, V1, EngineAmd),
        ("tsa_sq_no", X21Ecx, 1, V1, EngineAmd),
        ("tsa_l1_no", X21Ecx, 2, V1, EngineAmd),
    ]
};

/// Bits of 8000_0001h:EDX that AMD repeats from 1:EDX.
const AMD_REPEATED: u32 = 0x0183_F3FF;

/// IA32_ARCH_CAPABILITIES (SDM vol. 4, table 2-2): RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO,
/// MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO,
/// RFDS_NO, ITS_NO.
const ARCH_CAPABILITIES: u64 = 1 << 0
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// MISC_ENABLE: the last basic leaf is 2 for old operating systems; execute disable is off.
const LIMIT_CPUID_MAXVAL: u64 = 1 << 22;
const XD_DISABLE: u64 = 1 << 34;

const OSXSAVE: u32 = 1 << 27;
const CLFLUSH: u32 = 1 << 19;
const LINEAR_BITS: u32 = 48;
const HYPERVISOR: u32 = 0x4000_0000;
const EXTENDED: u32 = 0x8000_0000;
/// Legacy area and header of an XSAVE image, in bytes.
const XSAVE_BASE: u32 = 576;

const INTEL: [u8; 12] = *b"GenuineIntel";
const AMD: [u8; 12] = *b"AuthenticAMD";

/// What the hypervisor's leaf can say: names for users, and signatures.  As VMware's, guests find the
/// drivers that they have for its interfaces, of which the machine has some.
const HYPERVISORS: [(&str, Option<[u8; 12]>); 3] = [
    ("ring3", Some(*b"Ring3Ring3\0\0")),
    ("vmware", Some(*b"VMwareVMware")),
    ("none", None),
];

/// The models by name, with a line of description each.
pub fn models() -> impl Iterator<Item = (&'static str, &'static str)> {
    MODELS.iter().map(|(name, _, text)| (*name, *text))
}

/// What of the host the engine can use.
pub fn host_features() -> impl Iterator<Item = (&'static str, bool)> {
    let avx512 = host::xcr0() & component::AVX512 == component::AVX512;
    [
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512", avx512 && is_x86_feature_detected!("avx512f")),
        ("sha", is_x86_feature_detected!("sha")),
        ("fsgsbase", user_fsgsbase()),
        ("memfd", has_memfd()),
        (
            "invariant_tsc",
            host::cpuid(0x8000_0007, 0).edx >> 8 & 1 != 0,
        ),
    ]
    .into_iter()
}

/// The kernel lets programs write FS.base and GS.base (AT_HWCAP2 bit 1).
fn user_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    // SAFETY: reads the auxiliary vector.
    (unsafe { libc::getauxval(libc::AT_HWCAP2) }) & HWCAP2_FSGSBASE != 0
}

fn has_memfd() -> bool {
    // SAFETY: the name is a C string; the descriptor is our own and closed once.
    unsafe {
        let fd = libc::memfd_create(c"ring3-probe".as_ptr(), libc::MFD_CLOEXEC);
        fd >= 0 && libc::close(fd) == 0
    }
}

/// A CPU model: which features exist, and every leaf.
#[derive(Clone, Debug)]
pub struct Model {
    pub name: String,
    level: Level,
    vendor: [u8; 12],
    words: [u32; WORDS],
    /// None: guests aren't told that there is one.
    hypervisor: Option<[u8; 12]>,
    /// Sorted by leaf and subleaf; `ANY` stands for all subleaves.
    leaves: Vec<((u32, u32), Leaf)>,
}

/// The subleaf of leaves that don't look at ECX.
const ANY: u32 = u32::MAX;

/// What the host has in the register of a leaf; asked once, because a hypervisor below takes its time.
fn host_word(word: Word) -> u32 {
    static FOUND: [OnceLock<u32>; WORDS] = [const { OnceLock::new() }; WORDS];
    *FOUND[word as usize].get_or_init(|| read_host_word(word))
}

fn read_host_word(word: Word) -> u32 {
    match word {
        Word::L1Ecx => host::cpuid(1, 0).ecx,
        Word::L1Edx => host::cpuid(1, 0).edx,
        Word::L6Eax => host::cpuid(6, 0).eax,
        Word::L7Ebx => host::cpuid(7, 0).ebx,
        Word::L7Ecx => host::cpuid(7, 0).ecx,
        Word::L7Edx => host::cpuid(7, 0).edx,
        Word::L7s1Eax => host::cpuid(7, 1).eax,
        Word::L7s1Edx => host::cpuid(7, 1).edx,
        Word::LDs1Eax => host::cpuid(0xD, 1).eax,
        Word::X1Ecx => host::cpuid(0x8000_0001, 0).ecx,
        Word::X1Edx => host::cpuid(0x8000_0001, 0).edx,
        Word::X7Edx => host::cpuid(0x8000_0007, 0).edx,
        Word::X8Ebx => host::cpuid(0x8000_0008, 0).ebx,
        Word::X21Eax => host::cpuid(0x8000_0021, 0).eax,
        Word::X21Ecx => host::cpuid(0x8000_0021, 0).ecx,
    }
}

fn host_vendor() -> [u8; 12] {
    let Leaf { ebx, ecx, edx, .. } = host::cpuid(0, 0);
    vendor_bytes(ebx, edx, ecx)
}

fn vendor_bytes(first: u32, second: u32, third: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (part, value) in bytes.chunks_exact_mut(4).zip([first, second, third]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn vendor_words(vendor: [u8; 12]) -> [u32; 3] {
    [0, 4, 8].map(|i| u32::from_le_bytes([vendor[i], vendor[i + 1], vendor[i + 2], vendor[i + 3]]))
}

/// Whether a model of `vendor` on this host can have the feature.
fn obtainable(source: Source, word: Word, bit: u8, vendor: [u8; 12]) -> bool {
    let kept = |components| host::xcr0() & components == components;
    let in_host = || host_word(word) >> bit & 1 != 0;
    match source {
        Source::Engine => true,
        Source::EngineAmd => vendor == AMD,
        Source::EngineIntel => vendor == INTEL,
        Source::Host => in_host(),
        Source::HostAvx => in_host() && kept(component::SSE | component::AVX),
        Source::HostAvx512 => in_host() && kept(component::AVX | component::AVX512),
    }
}

impl Model {
    /// The model called `name`.  The error is a line for the user: no such model, or what of it the
    /// host lacks.
    pub fn named(name: &str) -> Result<Model, String> {
        let Some((name, level, _)) = MODELS.iter().find(|m| m.0 == name) else {
            let names: Vec<&str> = MODELS.iter().map(|m| m.0).collect();
            let names = names.join(", ");
            return Err(format!(
                "cpu: {name:?} is no CPU model: give one of {names}"
            ));
        };
        let vendor = if *level < Level::V1 {
            INTEL
        } else {
            host_vendor()
        };
        let mut words = [0; WORDS];
        for (feature, word, bit, since, source) in FEATURES {
            if since > level {
                continue;
            }
            if obtainable(*source, *word, *bit, vendor) {
                words[*word as usize] |= 1 << bit;
            } else if *level < Level::Max && matches!(source, Source::Host | Source::HostAvx) {
                return Err(format!(
                    "cpu: {name} needs {feature}, which this host's processor lacks: give another model"
                ));
            }
        }
        if vendor == AMD {
            words[Word::X1Edx as usize] |= words[Word::L1Edx as usize] & AMD_REPEATED;
        }
        let mut model = Model {
            name: (*name).to_owned(),
            level: *level,
            vendor,
            words,
            hypervisor: HYPERVISORS[0].1,
            leaves: Vec::new(),
        };
        model.set_leaves();
        Ok(model)
    }

    /// What guests are told of the hypervisor: `ring3`, `vmware` or `none`.
    pub fn under(mut self, hypervisor: &str) -> Result<Model, String> {
        let Some((_, signature)) = HYPERVISORS.iter().find(|h| h.0 == hypervisor) else {
            let names = HYPERVISORS.map(|h| h.0).join(", ");
            return Err(format!(
                "hypervisor: {hypervisor:?} is none that guests know: give one of {names}"
            ));
        };
        self.hypervisor = *signature;
        if signature.is_none() {
            self.words[Word::L1Ecx as usize] &= !(1 << 31);
        }
        self.set_leaves();
        Ok(self)
    }

    fn set_leaves(&mut self) {
        self.leaves = self.all_leaves();
        self.leaves.sort_by_key(|(at, _)| *at);
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.word(feature.word) >> feature.bit & 1 != 0
    }

    /// Where the vendors' processors differ, it behaves as AMD's.
    pub fn is_amd(&self) -> bool {
        self.vendor == AMD
    }

    fn word(&self, word: Word) -> u32 {
        self.words[word as usize]
    }

    /// IA32_ARCH_CAPABILITIES, which `arch_capabilities` announces.
    pub fn arch_capabilities(&self) -> u64 {
        ARCH_CAPABILITIES
    }

    /// The XSAVE components that can be enabled.
    pub fn xcr0(&self) -> u64 {
        if !self.has(Feature::XSAVE) {
            return 0;
        }
        let mut components = component::X87 | component::SSE;
        if self.has(Feature::AVX) {
            components |= component::AVX;
        }
        if self.has(Feature::AVX512F) {
            components |= component::AVX512;
        }
        components
    }

    /// Family, model and stepping as CPUID.1:EAX and as EDX after reset.
    pub fn signature(&self) -> u32 {
        match self.level {
            Level::I486 => 0x480,
            Level::Pentium => 0x52C,
            Level::PentiumII => 0x653,
            Level::PentiumIII => 0x683,
            _ => host::cpuid(1, 0).eax & 0x0FFF_3FFF,
        }
    }

    /// A leaf with what never changes.
    pub fn leaf(&self, leaf: u32, subleaf: u32) -> Leaf {
        let found = |at| {
            let i = self.leaves.binary_search_by_key(&at, |(at, _)| *at).ok()?;
            self.leaves.get(i).map(|(_, leaf)| *leaf)
        };
        found((leaf, subleaf))
            .or_else(|| found((leaf, ANY)))
            .unwrap_or_default()
    }

    /// A leaf in the state that the processor is in.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, cpu: &CpuState) -> Leaf {
        let mut value = self.leaf(leaf, subleaf);
        match (leaf, subleaf) {
            (0, _) if self.vendor == INTEL && cpu.msr.misc_enable & LIMIT_CPUID_MAXVAL != 0 => {
                value.eax = value.eax.min(2);
            }
            (1, _) if cpu.cr4 & cr4::OSXSAVE != 0 => value.ecx |= OSXSAVE,
            (0xB, 2..) => value.ecx = subleaf & 0xFF,
            (0xD, 0) if self.xcr0() != 0 => value.ebx = standard_size(cpu.xcr0),
            (0xD, 1) if self.xcr0() != 0 => value.ebx = compacted_size(cpu.xcr0),
            (0x8000_0001, _) if self.vendor == INTEL && cpu.msr.misc_enable & XD_DISABLE != 0 => {
                value.edx &= !(1 << 20);
            }
            _ => {}
        }
        value
    }

    fn all_leaves(&self) -> Vec<((u32, u32), Leaf)> {
        let mut leaves = self.basic_leaves();
        if self.level >= Level::V1 {
            leaves.extend(self.cache_leaves());
            leaves.extend(self.topology_leaves());
            leaves.extend(self.xsave_leaves());
            leaves.extend(self.hypervisor.into_iter().flat_map(hypervisor_leaves));
            leaves.extend(self.extended_leaves());
            if self.vendor == INTEL {
                leaves.extend(clock_leaves());
            }
        }
        leaves
    }

    fn last_basic_leaf(&self) -> u32 {
        match self.level {
            Level::I486 | Level::Pentium => 1,
            Level::PentiumII | Level::PentiumIII => 2,
            _ if self.vendor == INTEL => 0x16,
            _ => 0xD,
        }
    }

    fn basic_leaves(&self) -> Vec<((u32, u32), Leaf)> {
        let [ebx, edx, ecx] = vendor_words(self.vendor);
        let clflush_bytes = if self.word(Word::L1Edx) & CLFLUSH != 0 {
            host::cpuid(1, 0).ebx & 0xFF00
        } else {
            0
        };
        let vendor = Leaf {
            eax: self.last_basic_leaf(),
            ebx,
            ecx,
            edx,
        };
        let features = Leaf {
            eax: self.signature(),
            // One logical processor, APIC ID 0.
            ebx: clflush_bytes | 1 << 16,
            ecx: self.word(Word::L1Ecx),
            edx: self.word(Word::L1Edx),
        };
        let power = Leaf {
            eax: self.word(Word::L6Eax),
            ..Leaf::default()
        };
        let structured = Leaf {
            eax: 1,
            ebx: self.word(Word::L7Ebx),
            ecx: self.word(Word::L7Ecx),
            edx: self.word(Word::L7Edx),
        };
        let more = Leaf {
            eax: self.word(Word::L7s1Eax),
            edx: self.word(Word::L7s1Edx),
            ..Leaf::default()
        };
        let mut leaves = vec![((0, ANY), vendor), ((1, ANY), features)];
        match self.level {
            Level::I486 | Level::Pentium => {}
            Level::PentiumII | Level::PentiumIII => leaves.push(((2, ANY), DESCRIPTORS)),
            _ => leaves.extend([((6, ANY), power), ((7, 0), structured), ((7, 1), more)]),
        }
        leaves
    }

    /// The host's caches, used by one processor.
    fn cache_leaves(&self) -> Vec<((u32, u32), Leaf)> {
        const SHARERS: u32 = 0x03FF_C000;
        const CORES: u32 = 0xFC00_0000;
        let (number, cleared) = if self.vendor == INTEL {
            (4, SHARERS | CORES)
        } else {
            (0x8000_001D, SHARERS)
        };
        let mut leaves: Vec<_> = (0..8)
            .map(|subleaf| (subleaf, host::cpuid(number, subleaf)))
            .take_while(|(_, leaf)| leaf.eax & 0x1F != 0)
            .map(|(subleaf, leaf)| {
                let eax = leaf.eax & !cleared;
                ((number, subleaf), Leaf { eax, ..leaf })
            })
            .collect();
        if self.vendor == INTEL {
            leaves.push(((2, ANY), host::cpuid(2, 0)));
        }
        leaves
    }

    /// One package of one core of one thread, its ID 0.
    fn topology_leaves(&self) -> Vec<((u32, u32), Leaf)> {
        const THREAD: u32 = 1;
        const CORE: u32 = 2;
        let level = |number: u32, kind: u32| Leaf {
            ebx: 1,
            ecx: kind << 8 | number,
            ..Leaf::default()
        };
        vec![
            ((0xB, 0), level(0, THREAD)),
            ((0xB, 1), level(1, CORE)),
            ((0xB, ANY), Leaf::default()),
        ]
    }

    fn xsave_leaves(&self) -> Vec<((u32, u32), Leaf)> {
        let components = self.xcr0();
        if components == 0 {
            return Vec::new();
        }
        let sizes = Leaf {
            eax: components as u32,
            ebx: 0,
            ecx: standard_size(components),
            edx: 0,
        };
        let extensions = Leaf {
            eax: self.word(Word::LDs1Eax),
            ..Leaf::default()
        };
        let mut leaves = vec![((0xD, 0), sizes), ((0xD, 1), extensions)];
        for index in (2..32).filter(|i| components >> i & 1 != 0) {
            let (offset, bytes) = fpu::component_place(index).unwrap_or((0, 0));
            let place = Leaf {
                eax: bytes as u32,
                ebx: offset as u32,
                ..Leaf::default()
            };
            leaves.push(((0xD, index), place));
        }
        leaves
    }

    fn extended_leaves(&self) -> Vec<((u32, u32), Leaf)> {
        let amd = self.vendor == AMD;
        let [ebx, edx, ecx] = if amd { vendor_words(AMD) } else { [0; 3] };
        let range = Leaf {
            eax: if amd { 0x8000_0021 } else { 0x8000_0008 },
            ebx,
            ecx,
            edx,
        };
        let features = Leaf {
            eax: if amd { self.signature() } else { 0 },
            ebx: 0,
            ecx: self.word(Word::X1Ecx),
            edx: self.word(Word::X1Edx),
        };
        let power = Leaf {
            edx: self.word(Word::X7Edx),
            ..Leaf::default()
        };
        let sizes = Leaf {
            eax: LINEAR_BITS << 8 | PHYSICAL_BITS,
            ebx: self.word(Word::X8Ebx),
            ..Leaf::default()
        };
        let mut leaves = vec![
            ((EXTENDED, ANY), range),
            ((0x8000_0001, ANY), features),
            ((0x8000_0007, ANY), power),
            ((0x8000_0008, ANY), sizes),
        ];
        // The processor's brand, and its L1 and L2 caches.
        leaves.extend((0x8000_0002..=0x8000_0006).map(|n| ((n, ANY), host::cpuid(n, 0))));
        if amd {
            let more = Leaf {
                eax: self.word(Word::X21Eax),
                ecx: self.word(Word::X21Ecx),
                ..Leaf::default()
            };
            // Topology (8000_001Eh) is all zeroes for one core of one thread in one node.
            leaves.push(((0x8000_0021, ANY), more));
            leaves.extend([0x8000_0019, 0x8000_001A].map(|n| ((n, ANY), host::cpuid(n, 0))));
        }
        leaves
    }
}

/// Leaf 2 of the Pentium II and III: TLBs, 16 KiB L1 caches, 512 KiB L2 cache.
const DESCRIPTORS: Leaf = Leaf {
    eax: 0x0302_0101,
    ebx: 0,
    ecx: 0,
    edx: 0x0C04_0843,
};

/// The signature, and the clocks in kHz at 4000_0010h, where hypervisors by convention have them.
fn hypervisor_leaves(signature: [u8; 12]) -> [((u32, u32), Leaf); 2] {
    let [ebx, ecx, edx] = vendor_words(signature);
    let signature = Leaf {
        eax: HYPERVISOR + 0x10,
        ebx,
        ecx,
        edx,
    };
    let clocks = Leaf {
        eax: (tsc_hz() / 1000) as u32,
        ebx: (BUS_HZ / 1000) as u32,
        ..Leaf::default()
    };
    [
        ((HYPERVISOR, ANY), signature),
        ((HYPERVISOR + 0x10, ANY), clocks),
    ]
}

/// Intel's clocks: the TSC as a ratio to the crystal, which is the APIC timer's bus clock, in 15h;
/// frequencies in MHz in 16h.
fn clock_leaves() -> [((u32, u32), Leaf); 2] {
    let ratio = Leaf {
        eax: (BUS_HZ / 1000) as u32,
        ebx: (tsc_hz() / 1000) as u32,
        ecx: BUS_HZ as u32,
        edx: 0,
    };
    let mhz = (tsc_hz() / 1_000_000) as u32;
    let frequencies = Leaf {
        eax: mhz,
        ebx: mhz,
        ecx: 100,
        edx: 0,
    };
    [((0x15, ANY), ratio), ((0x16, ANY), frequencies)]
}

/// Bytes of a standard-format XSAVE image with `components`.
fn standard_size(components: u64) -> u32 {
    extended_places(components)
        .map(|(offset, bytes)| (offset + bytes) as u32)
        .fold(XSAVE_BASE, u32::max)
}

/// Bytes of a compacted XSAVE image with `components`.
fn compacted_size(components: u64) -> u32 {
    extended_places(components).fold(XSAVE_BASE, |size, (_, bytes)| size + bytes as u32)
}

/// Offset and size in bytes of those of `components` that lie behind the XSAVE header.
fn extended_places(components: u64) -> impl Iterator<Item = (usize, usize)> {
    (2..32)
        .filter(move |i| components >> i & 1 != 0)
        .filter_map(fpu::component_place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> Model {
        Model::named(name).unwrap()
    }

    fn state(model: &Model) -> Box<CpuState> {
        Box::new(CpuState::reset(model.signature()))
    }

    #[test]
    fn every_feature_is_listed_once() {
        for (i, a) in FEATURES.iter().enumerate() {
            for b in &FEATURES[i + 1..] {
                assert!(a.0 != b.0, "{} twice", a.0);
                assert!((a.1, a.2) != (b.1, b.2), "{} and {} at one bit", a.0, b.0);
            }
        }
    }

    #[test]
    fn an_unknown_model_is_an_error_that_names_the_known_ones() {
        let error = Model::named("i8080").unwrap_err();
        assert!(
            error.contains("i8080") && error.contains("x86-64-v2"),
            "{error}"
        );
    }

    #[test]
    fn max_has_long_mode_and_what_kernels_need() {
        let m = model("max");
        let Leaf { edx, .. } = m.leaf(0x8000_0001, 0);
        assert_eq!(
            edx & (1 << 29 | 1 << 20 | 1 << 11),
            1 << 29 | 1 << 20 | 1 << 11
        );
        assert!(m.has(Feature::APIC));
    }

    #[test]
    fn max_hides_what_the_engine_lacks() {
        let m = model("max");
        let hidden_ecx = 1 << 3 | 1 << 5 | 1 << 6 | 1 << 15;
        assert_eq!(m.leaf(1, 0).ecx & hidden_ecx, 0, "MONITOR, VMX, SMX, PDCM");
        assert_eq!(m.leaf(1, 0).edx & (1 << 1 | 1 << 21), 0, "VME, DS");
        assert_eq!(
            m.leaf(7, 0).ebx & (1 << 20 | 1 << 4 | 1 << 11),
            0,
            "SMAP, HLE, RTM"
        );
        assert_eq!(
            m.leaf(7, 0).ecx & (1 << 3 | 1 << 7 | 1 << 16),
            0,
            "PKU, CET, LA57"
        );
        assert_eq!(m.leaf(0xD, 1).eax & 1 << 3, 0, "XSAVES");
    }

    #[test]
    fn a_pentium_iii_has_no_long_mode_and_no_extended_leaves() {
        let m = model("pentium3");
        assert_eq!(m.leaf(0x8000_0000, 0), Leaf::default());
        assert_eq!(m.leaf(0x8000_0001, 0), Leaf::default());
        assert_eq!(m.leaf(1, 0).edx >> 25 & 3, 1, "SSE without SSE2");
    }

    #[test]
    fn a_486_has_neither_apic_nor_tsc() {
        let m = model("486");
        assert!(!m.has(Feature::APIC));
        assert_eq!(m.leaf(1, 0).edx, 1);
    }

    #[test]
    fn osxsave_shows_cr4() {
        let m = model("max");
        let mut cpu = state(&m);
        assert_eq!(m.cpuid(1, 0, &cpu).ecx & OSXSAVE, 0);
        cpu.cr4 |= cr4::OSXSAVE;
        assert_eq!(m.cpuid(1, 0, &cpu).ecx & OSXSAVE, OSXSAVE);
    }

    #[test]
    fn xsave_area_grows_with_xcr0() {
        let m = model("max");
        let mut cpu = state(&m);
        cpu.xcr0 = component::X87 | component::SSE;
        assert_eq!(
            m.cpuid(0xD, 0, &cpu).ebx,
            if m.xcr0() == 0 { 0 } else { 576 }
        );
        cpu.xcr0 = m.xcr0();
        let leaf = m.cpuid(0xD, 0, &cpu);
        assert_eq!(leaf.ebx, leaf.ecx);
        assert!(leaf.ecx as usize <= crate::state::XSAVE_BYTES);
    }

    #[test]
    fn limiting_cpuid_hides_leaves_above_two_on_intel_models() {
        let m = model("pentium3");
        let mut cpu = state(&m);
        cpu.msr.misc_enable |= LIMIT_CPUID_MAXVAL;
        assert_eq!(m.cpuid(0, 0, &cpu).eax, 2);
    }

    #[test]
    fn guests_are_told_of_the_hypervisor_that_was_chosen() {
        let leaf = |hypervisor| {
            let m = model("x86-64-v1").under(hypervisor).unwrap();
            (m.leaf(1, 0).ecx >> 31, m.leaf(HYPERVISOR, 0).ebx)
        };
        assert_eq!(leaf("ring3"), (1, u32::from_le_bytes(*b"Ring")));
        assert_eq!(leaf("vmware"), (1, u32::from_le_bytes(*b"VMwa")));
        assert_eq!(leaf("none").0, 0);
        assert!(model("max").under("xen").is_err());
    }

    #[test]
    fn leaves_are_where_their_range_says() {
        for (name, _, _) in MODELS {
            let Ok(m) = Model::named(name) else { continue };
            let (basic, extended) = (m.leaf(0, 0).eax, m.leaf(EXTENDED, 0).eax);
            for ((leaf, _), _) in &m.leaves {
                let last = match leaf & 0xC000_0000 {
                    0 => basic,
                    HYPERVISOR => HYPERVISOR + 0x10,
                    _ => extended,
                };
                assert!(
                    *leaf <= last,
                    "{name}: leaf {leaf:#x} lies beyond {last:#x}"
                );
            }
        }
    }
}
